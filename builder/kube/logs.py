"""A container's log as a sequence of lines that a cut does not double. Pure.

The API resumes by `sinceTime`, which has whole seconds, and gives each line's own time. Two streams of a container may
be written in another order than their times, so a cursor stays behind: it is a second that is one before the newest,
and how many lines at or after it were delivered. The same file filtered by the same second gives the same lines, of
which the first so many are skipped.

A node begins a new file every 10 MiB, and the API gives the newest alone: there the first so many are others. So none
is skipped that is newer than the newest that was delivered, whose time a cursor has in full. Where a watcher of an
earlier version stored it, its second is known and no more: of a file that began in the last two seconds before the cut
lines of these two may then be missed, and none later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

NS = 10**9
MOST_LINE = 128 * 1024
"""Bytes of a line with its time. A program that never ends its line would fill the memory of whoever follows it."""


@dataclass(frozen=True, kw_only=True)
class Cursor:
    """Where a reader of one container's log stands. `since` is in seconds since the epoch, 0 at the beginning; `lines`
    were delivered that are not older, the newest of them at `newest`, in ns since the epoch; 0: not known."""

    since: int = 0
    lines: int = 0
    newest: int = 0

    @property
    def since_time(self) -> str:
        """For the API; empty: from the beginning."""
        return datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if self.since else ""

    @property
    def latest(self) -> int:
        """No delivered line is newer, in ns: the newest is of the second behind `since` where nothing tells more."""
        return self.newest or (self.since + 2) * NS - 1


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line, its time in ms since the epoch."""

    at_ms: int
    text: str


@dataclass
class Reading:
    """One connection's bytes → lines. A line without its end is none: the next connection brings it whole."""

    cursor: Cursor
    _rest: bytearray = field(default_factory=bytearray)
    _skip: int = 0
    _seconds: dict[int, int] = field(default_factory=dict)
    """Second → lines delivered in it, not older than the cursor's."""

    _newest: int = 0
    _latest: int = 0

    def __post_init__(self) -> None:
        self._skip, self._newest, self._latest = self.cursor.lines, self.cursor.newest, self.cursor.latest

    def feed(self, data: bytes) -> list[Line]:
        """The new whole lines. `cursor` stands behind them."""
        first, *others = data.split(b"\n")
        self._add(first)
        found: list[Line] = []
        for piece in others:
            if line := self._take(bytes(self._rest)):
                found.append(line)
            self._rest = bytearray()
            self._add(piece)
        return found

    def _add(self, piece: bytes) -> None:
        """Up to the limit of a line: what is behind it is dropped, in each reading alike."""
        self._rest += piece[: max(0, MOST_LINE - len(self._rest))]

    def rest(self) -> bytes:
        """What came after the last line's end."""
        return bytes(self._rest)

    def end(self) -> list[Line]:
        """The log is whole: what is left is its last line."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [line for line in (self._take(rest),) if line] if rest else []

    def _take(self, raw: bytes) -> Line | None:
        stamp, _, text = raw.partition(b" ")
        at = _time(stamp)
        second = at // NS
        if second < self.cursor.since:
            return None
        self._seconds[second] = self._seconds.get(second, 0) + 1
        self._newest = max(self._newest, at)
        if at > self._latest:
            self._skip = 0
        skipped = self._skip > 0
        self._skip -= skipped
        if not self._skip:
            since = max(self.cursor.since, max(self._seconds) - 1)
            self._seconds = {key: count for key, count in self._seconds.items() if key >= since}
            self.cursor = Cursor(since=since, lines=sum(self._seconds.values()), newest=self._newest)
        return None if skipped else Line(at_ms=at // 1_000_000, text=text.decode("utf-8", "replace"))


def _time(stamp: bytes) -> int:
    """RFC 3339 with up to nine digits of a second → ns since the epoch."""
    text = stamp.decode("ascii", "replace")
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        moment = datetime.fromisoformat(whole + "+00:00")
        return int(moment.timestamp()) * NS + int((fraction + "000000000")[:9])
    except ValueError:
        return 0
