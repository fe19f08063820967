"""A build on a terminal: one line per finished phase, the running step with a short tail, redrawn in place.

At most ten redraws a second, never higher than the screen, no row that wraps, no alternate screen. `frame` is pure;
`Screen` knows the three escape sequences that are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from builder.cli import format as fmt
from builder.cli.failure import ended
from builder.cli.phases import Done, Progress, is_verdict
from builder.cli.plain import entry_line
from builder.cli.safe import shown
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

REDRAW_MS = 100
HIDE, SHOW, CLEAR_BELOW = "\x1b[?25l", "\x1b[?25h", "\x1b[J"
_STYLE = {"done": "green", "same": "green", "failed": "red", "cancelled": "yellow"}


def phase_row(done: Done, look: Look) -> str:
    """`✓ build           19.8s  compile`, cut to the width."""
    mark = {"done": look.symbols.done, "same": look.symbols.same}.get(done.mark, look.symbols.failed)
    head = f" {done.phase:<12}{fmt.duration(done.duration_ms):>9}"
    return look.paint(_STYLE.get(done.mark, "red"), mark) + _cut(head, done.detail, look, 1)


def _cut(head: str, detail: str, look: Look, before: int) -> str:
    if not detail:
        return head
    if look.columns is None:
        return f"{head}  {detail}"
    room = max(look.columns - 1 - before - len(head) - 2, 0)
    return f"{head}  {fmt.cut(detail, room, look.symbols.ellipsis)}" if room else head


def frame(
    progress: Progress, look: Look, *, elapsed_ms: int, in_phase_ms: int, rows: int, hint: str
) -> tuple[str, ...]:
    """The moving part: the running phase, the tail of its output, what is ahead. At most `rows` - 1 rows."""
    width = (look.columns or 80) - 1
    spinner = look.symbols.spinner
    turn = spinner[elapsed_ms // REDRAW_MS % len(spinner)]
    running = Done(phase=progress.phase, duration_ms=in_phase_ms, detail=progress.doing())
    head = f" {running.phase:<12}{fmt.duration(in_phase_ms):>9}"
    first = look.paint("cyan", turn) + _cut(head, running.detail, look, 1)
    room = max(rows - 1, 1)
    last = _ahead(progress.ahead(), f"{fmt.duration(elapsed_ms)}; {hint}", look, width)
    tail_rows = max(room - 2, 0)
    tail = [
        look.paint("dim", "    " + fmt.cut(line, max(width - 4, 1), look.symbols.ellipsis))
        for line in (list(progress.tail)[-tail_rows:] if tail_rows else [])
    ]
    return (first, *tail, last)[:room] if room < 2 else (first, *tail, last)


def _ahead(phases: Sequence[str], right: str, look: Look, width: int) -> str:
    left = f"{look.symbols.waiting} " + "  ".join(phases) if phases else ""
    left = fmt.cut(left, max(width - len(right) - 2, 0), look.symbols.ellipsis)
    return look.paint("dim", left + " " * max(width - fmt.cell_len(left) - len(right), 2) + right)


@dataclass
class Screen:
    """Lines that stay, and below them a region that is drawn again. `size` answers (columns, rows)."""

    write: Callable[[str], None]
    size: Callable[[], tuple[int, int]]
    drawn: list[int] = field(default_factory=list)
    """Cells of each row of the region, to find its top again after the window became narrower."""
    hidden: bool = False

    def show(self, rows: Sequence[str], widths: Sequence[int]) -> None:
        """Draw the region in place of the last one."""
        start = "" if self.hidden else HIDE
        self.hidden = True
        self.write(start + self._home() + "".join(row + "\n" for row in rows))
        self.drawn = list(widths)

    def keep(self, rows: Sequence[str]) -> None:
        """Put lines that stay in place of the region."""
        self.write(self._home() + "".join(row + "\n" for row in rows))
        self.drawn = []

    def close(self) -> None:
        """Remove the region and give the cursor back."""
        end = self._home() + (SHOW if self.hidden else "")
        self.hidden, self.drawn = False, []
        if end:
            self.write(end)

    def _home(self) -> str:
        columns = max(self.size()[0], 1)
        up = sum(max(-(-width // columns), 1) for width in self.drawn)
        return f"\x1b[{up}F{CLEAR_BELOW}" if up else ""


@dataclass
class LiveView:
    """The same events as `PlainView`, drawn. `now_ms` is a steady clock."""

    screen: Screen
    look: Look
    now_ms: Callable[[], int]
    verbose: bool = False
    progress: Progress = field(default_factory=lambda: Progress(created_ms=0))
    started_ms: int = 0
    phase_started_ms: int = 0
    drawn_ms: int = -REDRAW_MS
    hint: str = "Ctrl-C cancels"
    head: str = ""
    """The head line while there is no record."""
    now_doing: Callable[[], str] = str

    def open(self, head: str) -> None:
        """The head line, in the region: the record's own takes its place."""
        self.started_ms = self.phase_started_ms = self.now_ms()
        self.head = head
        self._draw(force=True)

    def created(self, build: pb.Build, head: str) -> None:
        """The server has a record: its head line stays, and time begins here."""
        self.head = ""
        self.started_ms = self.phase_started_ms = self.now_ms()
        self.progress = Progress(created_ms=build.created_at_ms)
        self.screen.keep([self._fit(head)])
        self._draw()

    def entry(self, entry: pb.LogEntry) -> None:
        """A log line; a phase that ended by it stays above."""
        done = self.progress.apply(entry)
        rows = []
        if done is not None:
            self.phase_started_ms = self.now_ms()
            rows.append(phase_row(done, self._look()))
        if self.verbose and not is_verdict(entry):
            rows.append(self.look.paint("dim", entry_line(entry, self.progress.created_ms).expandtabs(8)))
        if rows:
            self.screen.keep(rows)
            self.drawn_ms = -REDRAW_MS
        self._draw()

    def notice(self, text: str) -> None:
        """Something between us and the server; stays."""
        self.screen.keep([f"{self.look.paint('yellow', self.look.symbols.warning)} {shown(text)}"])
        self._draw(force=True)

    def status(self, text: str) -> None:
        """What the build waits for."""
        self.progress.detail = text
        self._draw(force=True)

    def doing(self, what: str | Callable[[], str]) -> None:
        """What happens before there is a record, drawn anew with the clock."""
        self.now_doing = what if callable(what) else lambda: what
        self._draw(force=True)

    def tick(self) -> None:
        """Let the clock run."""
        self._draw()

    def close(self, build: pb.Build, again: str) -> None:
        """Put the final lines in place of the region."""
        look = self._look()
        rows = [phase_row(done, look) for done in self.progress.rest(build)]
        if build.status == pb.BUILD_STATUS_SUCCEEDED:
            mark = look.paint("yellow", look.symbols.warning)
            rows += [f"{mark} {warning}" for warning in self.progress.warnings]
        rows += ended(build, look, again)
        self.screen.keep(rows)
        self.screen.close()

    def abandon(self) -> None:
        """Leave the terminal as it was found."""
        self.screen.close()

    def _look(self) -> Look:
        return replace(self.look, columns=min(self.screen.size()[0], self.look.columns or 120))

    def _fit(self, text: str) -> str:
        look = self._look()
        return fmt.cut(text, (look.columns or 80) - 1, look.symbols.ellipsis)

    def _draw(self, *, force: bool = False) -> None:
        now = self.now_ms()
        if not force and now - self.drawn_ms < REDRAW_MS:
            return
        self.drawn_ms = now
        if self.head and (text := self.now_doing()):
            self.progress.detail = text
        look, rows = self._look(), self.screen.size()[1]
        facts = {
            "elapsed_ms": now - self.started_ms,
            "in_phase_ms": now - self.phase_started_ms,
            "rows": rows,
        }
        lines = frame(self.progress, look, hint=self.hint, **facts)
        bare = frame(self.progress, replace(look, colour=False), hint=self.hint, **facts)
        if self.head:
            head = self._fit(self.head)
            lines, bare = (head, *lines)[: max(rows - 1, 1)], (head, *bare)[: max(rows - 1, 1)]
        self.screen.show(lines, [fmt.cell_len(line) for line in bare])
