"""What a build has done so far, read off its log entries. Pure; the live and the plain view share it.

A phase ends where the first line of another one appears. Its detail is its step, else the last SYSTEM line in it.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field

from builder.cli.safe import latest, shown
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

ORDER = tuple(value.name for value in pb.BuildPhase.DESCRIPTOR.values if value.number)
TAIL = 5
_STEP = re.compile(r"step (\d+) of (\d+), ([^:]+)(?:: (.*))?", re.DOTALL)
_CHOICE = re.compile(r"(runtime|version|entry|target) (.+?): ")
_WARNING = "warning: "
_VERDICT = re.compile(r"(SUCCEEDED|FAILED|CANCELLED)( [A-Za-z]+)?")
_STOPPED = (pb.PHASE_STATUS_FAILED, pb.PHASE_STATUS_CANCELLED)


def word(phase: int) -> str:
    """`fetch_source` for BUILD_PHASE_FETCH_SOURCE; a number we do not know stays a number."""
    try:
        name = pb.BuildPhase.Name(phase)  # type: ignore[arg-type]
    except ValueError:
        return str(phase)
    return name.removeprefix("BUILD_PHASE_").lower()


def is_verdict(entry: pb.LogEntry) -> bool:
    """Whether an entry is the last line of an ended build, which repeats the status of its record."""
    return entry.stream == pb.LOG_STREAM_SYSTEM and _VERDICT.fullmatch(entry.line) is not None


@dataclass(frozen=True, kw_only=True)
class Done:
    """One phase that ended. `mark` is done, same, failed or cancelled; a phase that went back to the queue failed."""

    phase: str
    duration_ms: int
    detail: str
    mark: str = "done"


@dataclass
class Progress:
    """The reducer's state. `phase_since_ms` is on the server's clock."""

    created_ms: int
    phase: str = "queued"
    phase_since_ms: int = 0
    detail: str = ""
    step: str = ""
    warnings: list[str] = field(default_factory=list)
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))
    finished: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.phase_since_ms = self.phase_since_ms or self.created_ms

    def apply(self, entry: pb.LogEntry) -> Done | None:
        """Read one entry; answers the phase that ended by it."""
        ended = self._enter(entry)
        if entry.stream != pb.LOG_STREAM_SYSTEM:
            self.tail.append(latest(entry.line))
            return ended
        line = entry.line
        if line.startswith(_WARNING):
            self.warnings.append(shown(line.removeprefix(_WARNING)))
        elif found := _STEP.fullmatch(line):
            self.step = f"step {found[1]} of {found[2]}, {shown(found[3])}"
            self.detail = self.step
            self.tail.clear()
        elif found := _CHOICE.match(line):
            self.choices[found[1]] = shown(found[2])
            self.detail = self._chosen()
        elif not is_verdict(entry):
            self.detail = shown(line)
        return ended

    def doing(self) -> str:
        """What goes on in the phase: its step; a line that the builder adds within a step does not hide that."""
        return self.step or self.detail

    def _chosen(self) -> str:
        """`go 1.26, native, linux/amd64` from the plan's own lines."""
        toolchain = " ".join(self.choices[name] for name in ("runtime", "version") if name in self.choices)
        return ", ".join(part for part in (toolchain, self.choices.get("target", "")) if part)

    def _enter(self, entry: pb.LogEntry) -> Done | None:
        name = word(entry.phase) if entry.phase else self.phase
        goes_back = _place(name) < _place(self.phase)
        # Only a retry goes back, and to the queue. A line of the control side may name an earlier heartbeat's phase.
        if name == self.phase or (goes_back and name != "queued"):
            return None
        ended = Done(
            phase=self.phase,
            duration_ms=max(entry.timestamp_ms - self.phase_since_ms, 0),
            detail=self.doing(),
            mark="failed" if goes_back else "done",
        )
        if goes_back:
            self.finished.clear()
        else:
            self.finished.append(self.phase)
        self.phase, self.phase_since_ms, self.detail, self.step = name, entry.timestamp_ms, "", ""
        self.tail.clear()
        return ended

    def ahead(self) -> tuple[str, ...]:
        """The phases still to come."""
        names = tuple(name.removeprefix("BUILD_PHASE_").lower() for name in ORDER)
        return names[_place(self.phase) + 1 :]

    def rest(self, build: pb.Build) -> tuple[Done, ...]:
        """What the ended record knows of the phases that no line has closed."""
        known = {word(record.phase): record for record in build.phases}
        out = []
        for name in (each.removeprefix("BUILD_PHASE_").lower() for each in ORDER):
            if name in self.finished or (name != self.phase and name not in known):
                continue
            record = known.get(name)
            failed = build.status == pb.BUILD_STATUS_FAILED and name == word(build.failure.phase)
            # A phase without a record, known from the log alone, has no duration to show.
            if record is None and not failed:
                continue
            since = self.phase_since_ms if name == self.phase else build.ended_at_ms
            took = record.duration_ms if record else max(build.ended_at_ms - since, 0)
            mark = "failed" if failed else _mark(build, name, record)
            out.append(Done(phase=name, duration_ms=took, detail=self.doing() if name == self.phase else "", mark=mark))
        return tuple(out)


def _mark(build: pb.Build, name: str, record: pb.PhaseRecord | None) -> str:
    if build.status == pb.BUILD_STATUS_CANCELLED and record is not None and record.status in _STOPPED:
        return "cancelled"
    return "same" if build.from_cache_of and name == "build" else "done"


def _place(name: str) -> int:
    full = "BUILD_PHASE_" + name.upper()
    return ORDER.index(full) if full in ORDER else -1
