"""The log of an attempt: lines into the spool under the phase that is going on, and the record of each phase."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import field

from builder.claims.spool import Spool
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.dataclass import dataclass
from builder.text import log_line


def wall_ms() -> int:
    """The node's wall clock. It dates lines and phases, and decides nothing."""
    return time.time_ns() // 1_000_000


@dataclass(kw_only=True)
class Log:
    """`now` measures phases, `now_ms` dates them."""

    spool: Spool
    now: Callable[[], float] = time.monotonic
    now_ms: Callable[[], int] = wall_ms
    phase_name: str = "FETCH_SOURCE"
    phases: list[pb.PhaseRecord] = field(default_factory=list)
    """The phases that ended."""
    _began: tuple[int, float] = (0, 0.0)
    """When the current phase began: ms of `now_ms`, seconds of `now`."""

    def system(self, line: str) -> None:
        """Emit a line of the builder itself."""
        self.emit("SYSTEM", line)

    def emit(self, stream: str, line: str) -> None:
        """Emit a line: STDOUT or STDERR of a step, or SYSTEM. What could act on a terminal never reaches the spool."""
        self.spool.add(self.now_ms(), self.phase_name, stream, log_line(line))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Enter a phase and record how long it took and whether it failed."""
        self.phase_name = name
        self._began = (self.now_ms(), self.now())
        status = pb.PHASE_STATUS_FAILED
        try:
            yield
            status = pb.PHASE_STATUS_SUCCEEDED
        finally:
            self.phases.append(self.current(status))

    def current(self, status: pb.PhaseStatus.ValueType) -> pb.PhaseRecord:
        """The current phase as if it ended now."""
        started, clock = self._began
        took = int((self.now() - clock) * 1000)
        return pb.PhaseRecord(
            phase=pb.BuildPhase.Value("BUILD_PHASE_" + self.phase_name),
            status=status,
            started_at_ms=started,
            ended_at_ms=started + took,
            duration_ms=took,
        )
