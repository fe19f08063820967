"""A build as plain lines: seconds since its start, phase, `|` for tool output, `#` for ours. Grammar is stable.

Used in pipes, in CI, on narrow terminals and by `logs`. The clock is handed in; 30 s of silence give a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from builder.cli.failure import ended, success_facts
from builder.cli.phases import Progress, is_verdict, word
from builder.cli.safe import shown
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

SILENCE_MS = 30_000


def plain_line(since_ms: int, phase: str, mark: str, text: str) -> str:
    """`  3.512 build        | go: downloading …`; `mark` is `|` or `#`."""
    return f"{max(since_ms, 0) / 1000:7.3f} {phase:<12} {mark} {text}".rstrip()


def entry_line(entry: pb.LogEntry, created_ms: int) -> str:
    """One log entry in the same grammar, with its tabs."""
    mark = "#" if entry.stream == pb.LOG_STREAM_SYSTEM else "|"
    phase = word(entry.phase) if entry.phase else ""
    return plain_line(entry.timestamp_ms - created_ms, phase, mark, shown(entry.line, tabs=True))


@dataclass
class PlainView:
    """Writes each event as it comes. `write` takes one line without its end; `now_ms` is any steady clock."""

    write: Callable[[str], None]
    look: Look
    now_ms: Callable[[], int]
    quiet: bool = False
    progress: Progress = field(default_factory=lambda: Progress(created_ms=0))
    started_ms: int = 0
    last_event_ms: int = 0
    silences: int = 0
    last_ms: int = 0
    now_doing: Callable[[], str] = str

    def open(self, head: str) -> None:
        """The head line, before the first call to a server."""
        self.started_ms = self.last_event_ms = self.now_ms()
        self._ours(0, "queued", head)

    def created(self, build: pb.Build, head: str) -> None:
        """The server has a record: time begins here, so that `logs` prints the same seconds later."""
        self.progress = Progress(created_ms=build.created_at_ms)
        self.started_ms = self.last_event_ms = self.now_ms()
        self.last_ms = 0
        self._ours(0, "queued", head)

    def entry(self, entry: pb.LogEntry) -> None:
        """A log line. The verdict that ends the log is left to `close`, which knows time and size."""
        self.last_event_ms, self.silences = self.now_ms(), 0
        self.progress.apply(entry)
        self.last_ms = max(entry.timestamp_ms - self.progress.created_ms, self.last_ms)
        if not self.quiet and not is_verdict(entry):
            self.write(entry_line(entry, self.progress.created_ms))

    def notice(self, text: str) -> None:
        """Something between us and the server."""
        self._ours(self.now_ms() - self.started_ms, self.progress.phase, text)

    def status(self, text: str) -> None:
        """What the build waits for; one line for each change."""
        if text != self.progress.detail:
            self.progress.detail = text
            self._ours(self.now_ms() - self.started_ms, self.progress.phase, text)

    def doing(self, what: str | Callable[[], str]) -> None:
        """What happens before there is a record; shows where a long silence is reported."""
        self.now_doing = what if callable(what) else lambda: what

    def tick(self) -> None:
        """Call at least once a second: another 30 s of silence give a line."""
        quiet_ms = self.now_ms() - self.last_event_ms
        if quiet_ms // SILENCE_MS > self.silences:
            self.silences = quiet_ms // SILENCE_MS
            seconds = self.silences * SILENCE_MS // 1000
            where = self.now_doing() or f"in {self.progress.step or self.progress.phase}"
            what = f"still {where}; {seconds}s without output"
            self._ours(self.now_ms() - self.started_ms, self.progress.phase, what)

    def close(self, build: pb.Build, again: str) -> None:
        """The verdict; a failure's block follows unindented, so that it reads the same everywhere."""
        if build.status == pb.BUILD_STATUS_SUCCEEDED:
            facts = " ".join(("SUCCEEDED", *success_facts(build)))
            self._ours(build.ended_at_ms - build.created_at_ms, "finalize", facts, always=True)
            return
        for line in ended(build, self.look, again):
            self.write(line)

    def abandon(self) -> None:
        """Nothing was drawn that must be undone."""

    def _ours(self, since_ms: int, phase: str, text: str, *, always: bool = False) -> None:
        self.last_ms = max(since_ms, self.last_ms)
        if always or not self.quiet:
            self.write(plain_line(self.last_ms, phase, "#", text))
