"""The log of an attempt: lines into the spool under the phase that is going on, and the record of each phase."""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from builder.claims.spool import Spool
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.mask import NOTHING, Lines, Mask
from builder.sandbox.lines import LINE_LIMIT
from builder.text import log_line


def wall_ms() -> int:
    """The node's wall clock. It dates lines and phases, and decides nothing."""
    return time.time_ns() // 1_000_000


@dataclass(kw_only=True)
class Log:
    """`now` measures phases, `now_ms` dates them. `mask` hides the secrets of the build in each line."""

    spool: Spool
    mask: Mask = NOTHING
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
        """Emit a line: STDOUT or STDERR of a step, or SYSTEM. What could act on a terminal never reaches the spool, and
        no secret of the build does."""
        self.spool.add(self.now_ms(), self.phase_name, stream, self.mask.text(log_line(line)))

    @contextmanager
    def output(self, each: Callable[[str, str], None]) -> Iterator[OutputLines]:
        """What a command prints; `each` gets (stream, line) as a log has it. At the end no line waits."""
        output = OutputLines(self.mask, each)
        try:
            yield output
        finally:
            output.flush()

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


class OutputLines:
    """Raw lines of a command into lines of a log: whole characters, nothing that acts on a terminal, no secret.

    The mask comes last: an escape sequence inside a secret would hide it from an earlier one.
    """

    def __init__(self, mask: Mask, each: Callable[[str, str], None]) -> None:
        self._mask, self._each = mask, each
        self._streams: dict[str, tuple[codecs.IncrementalDecoder, Lines]] = {}

    def add(self, stream: str, data: bytes) -> None:
        """A line, or as many bytes of one as `LineSplitter` reads at once."""
        if stream not in self._streams:
            self._streams[stream] = codecs.getincrementaldecoder("utf-8")("replace"), self._mask.lines()
        decoder, lines = self._streams[stream]
        cut = len(data) == LINE_LIMIT
        for line in lines.feed(log_line(decoder.decode(data, final=not cut)), cut=cut):
            self._each(stream, line)

    def flush(self) -> None:
        """Emit what waits for its next line."""
        for stream, (_, lines) in self._streams.items():
            for line in lines.flush():
                self._each(stream, line)
