"""Numbers and rows as people read them: durations, ages, sizes, ids, tables, wrapping. Pure.

Times are ms, sizes bytes. A value is rounded before its unit is chosen, so that nothing reads "60.0s" or "1024.0 KiB".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo

from builder import text

SHORT_ID = 8
DAY_MS = 86_400_000


def cell_len(text: str) -> int:
    """How many terminal cells a text takes. It holds no control character: callers pass it through `safe.shown`."""
    if text.isascii():
        return len(text)
    # The tables of widths cost more than everything else that a help text loads.
    import wcwidth

    return wcwidth.width(text, control_codes="ignore")


def duration(ms: int) -> str:
    """`0.2s`, `21.0s`, `1m14s`, `2h05m`; a negative one (two clocks) is `0.0s`."""
    ms = max(ms, 0)
    tenths = (ms + 50) // 100
    if tenths < 600:
        return f"{tenths // 10}.{tenths % 10}s"
    seconds = (ms + 500) // 1000
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    minutes = (ms + 30_000) // 60_000
    return f"{minutes // 60}h{minutes % 60:02d}m"


def readiness(ms: int) -> str:
    """`14ms` below a second (readiness, requests), else as `duration`."""
    return f"{max(ms, 0)}ms" if ms < 1000 else duration(ms)


size = text.size


def ago(then_ms: int, now_ms: int) -> str:
    """`41s ago`, `3m ago`, `5h ago`; only below 24 h (callers show the date beyond)."""
    seconds = max(now_ms - then_ms, 0) // 1000
    if seconds < 60:
        return f"{seconds}s ago"
    if seconds < 3600:
        return f"{seconds // 60}m ago"
    return f"{seconds // 3600}h ago"


def local_time(ms: int, zone: tzinfo | None = None) -> str:
    """`2026-11-23 14:02:11 +01:00`; `zone` is the machine's by default."""
    when = datetime.fromtimestamp(ms / 1000, UTC).astimezone(zone)
    return when.isoformat(sep=" ", timespec="seconds").replace("+", " +", 1) if "+" in when.isoformat() else _west(when)


def _west(when: datetime) -> str:
    text = when.isoformat(sep=" ", timespec="seconds")
    return f"{text[:19]} {text[19:]}"


def utc_time(ms: int) -> str:
    """`2026-11-23T13:02:11Z`, for pipes."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def created(then_ms: int, now_ms: int, *, terminal: bool, zone: tzinfo | None = None) -> str:
    """A table's time: an age below 24 h and the local time beyond on a terminal, UTC with `Z` in a pipe."""
    if not terminal:
        return utc_time(then_ms)
    return ago(then_ms, now_ms) if now_ms - then_ms < DAY_MS else local_time(then_ms, zone)


def short_id(build_id: str) -> str:
    """The eight characters an id is shown by."""
    return build_id[:SHORT_ID]


def short_digest(digest: str) -> str:
    """`sha256:9f2c41d7b3a0`: twelve digits, for eyes."""
    algorithm, _, rest = digest.partition(":")
    return f"{algorithm}:{rest[:12]}" if rest else digest[:12]


def cut(text: str, columns: int, ellipsis: str = "…") -> str:
    """At most `columns` cells; what is cut ends in the ellipsis."""
    if cell_len(text) <= columns:
        return text
    room = columns - cell_len(ellipsis)
    return _first_cells(text, room).rstrip() + ellipsis if room > 0 else ellipsis[: max(columns, 0)]


def _first_cells(text: str, columns: int) -> str:
    if text.isascii():
        return text[:columns]
    import wcwidth

    return wcwidth.clip(text, 0, columns, tabsize=0, control_codes="ignore", propagate_sgr=False)


def wrap(text: str, columns: int | None) -> tuple[str, ...]:
    """Break at spaces where a line is longer than `columns`; a longer word stays whole. The indentation of the first
    row stays. None: never break (a pipe)."""
    if columns is None or cell_len(text) <= columns:
        return (text,)
    indentation = text[: len(text) - len(text.lstrip(" "))]
    rows: list[str] = []
    row = ""
    for word in text.split():
        candidate = f"{row} {word}" if row.strip() else f"{row}{word}" if row else f"{indentation}{word}"
        if row.strip() and cell_len(candidate) > columns:
            rows.append(row)
            indentation, row = "", word
        else:
            row = candidate
    return (*rows, row)


def table(rows: Iterable[Sequence[str]], right: frozenset[int] = frozenset()) -> tuple[str, ...]:
    """Rows in columns with two spaces between; `right` names the columns aligned to the right. Cells hold one line."""
    cells = [tuple(" ".join(cell.split("\n")) for cell in row) for row in rows]
    count = max((len(row) for row in cells), default=0)
    widths = [max((cell_len(row[i]) for row in cells if i < len(row)), default=0) for i in range(count)]
    out = []
    for row in cells:
        parts = []
        for i, cell in enumerate(row):
            space = " " * (widths[i] - cell_len(cell))
            parts.append(space + cell if i in right else cell + space)
        out.append("  ".join(parts).rstrip())
    return tuple(out)


def count(number: int, noun: str) -> str:
    """`1 file`, `14 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
