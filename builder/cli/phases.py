"""What a build has done so far, read off its log entries. Pure; the live and the plain view share it.

A phase ends where the first line of another one appears; its detail is the last thing the builder itself said in it.
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
_VERDICTS = ("SUCCEEDED", "FAILED", "CANCELLED")


def word(phase: int) -> str:
    """`fetch_source` for BUILD_PHASE_FETCH_SOURCE; a number we do not know stays a number."""
    try:
        name = pb.BuildPhase.Name(phase)  # type: ignore[arg-type]
    except ValueError:
        return str(phase)
    return name.removeprefix("BUILD_PHASE_").lower()


@dataclass(frozen=True, kw_only=True)
class Done:
    """One phase that ended. `mark` is done, same or failed; a phase that went back to the queue failed."""

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

    def take(self, entry: pb.LogEntry) -> Done | None:
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
        elif not line.startswith(_VERDICTS):
            self.detail = shown(line)
        return ended

    def _chosen(self) -> str:
        """`go 1.26, native, linux/amd64` from the plan's own lines."""
        toolchain = " ".join(self.choices[name] for name in ("runtime", "version") if name in self.choices)
        return ", ".join(part for part in (toolchain, self.choices.get("target", "")) if part)

    def _enter(self, entry: pb.LogEntry) -> Done | None:
        name = word(entry.phase) if entry.phase else self.phase
        goes_back = _place(name) < _place(self.phase)
        # Only a retry goes back, and to the queue. The control side's own lines may name a phase it heard of earlier.
        if name == self.phase or (goes_back and name != "queued"):
            return None
        ended = Done(
            phase=self.phase,
            duration_ms=max(entry.timestamp_ms - self.phase_since_ms, 0),
            detail=self.detail,
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
            # A phase that only our reading of the log knows, in a build that ended elsewhere, says nothing.
            if record is None and not failed:
                continue
            since = self.phase_since_ms if name == self.phase else build.ended_at_ms
            took = record.duration_ms if record else max(build.ended_at_ms - since, 0)
            mark = "failed" if failed else "same" if build.from_cache_of and name == "build" else "done"
            out.append(Done(phase=name, duration_ms=took, detail=self.detail if name == self.phase else "", mark=mark))
        return tuple(out)


def _place(name: str) -> int:
    full = "BUILD_PHASE_" + name.upper()
    return ORDER.index(full) if full in ORDER else -1
