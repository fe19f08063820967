"""Lines of a container's log through cuts at every byte: each once, in order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.kube.logs import MOST_LINE, Cursor, Reading
from builder.watcher.build import cursor_of, cursor_record


def stamp(ns: int) -> str:
    second, rest = divmod(ns, 10**9)
    return f"2026-01-01T00:{second // 60:02d}:{second % 60:02d}.{rest:09d}Z"


BEGIN = 1_767_225_600
"""2026-01-01T00:00:00Z"""


def served(rows: list[tuple[int, str]], cursor: Cursor) -> bytes:
    """What the API gives for a cursor: every line of the file that is not older, in the file's order."""
    return b"".join(
        f"{stamp(ns)} {text}\n".encode() for ns, text in rows if not cursor.since or BEGIN + ns // 10**9 >= cursor.since
    )


def stored(cursor: Cursor) -> Cursor:
    """The cursor as another watcher gets it."""
    return cursor_of(cursor_record(cursor, takes_newest=True))


def stored_before(cursor: Cursor) -> Cursor:
    """The same by a control side of an earlier version."""
    return cursor_of(cursor_record(cursor, takes_newest=False))


def read_with_cuts(rows: list[tuple[int, str]], cuts: list[tuple[int, int]], *, adopted: bool = False) -> list[str]:
    """Read the file over connections that break: at each cut (rows written by then, bytes that arrive of them)."""
    cursor, got = Cursor(), []
    for written, arrived in cuts:
        reading = Reading(cursor)
        got += [line.text for line in reading.feed(served(rows[:written], cursor)[:arrived])]
        cursor = stored(reading.cursor) if adopted else reading.cursor
    reading = Reading(cursor)
    got += [line.text for line in reading.feed(served(rows, cursor))]
    return got + [line.text for line in reading.end()]


@given(
    gaps=st.lists(st.integers(-900_000_000, 2_500_000_000), max_size=40),
    cuts=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2000)), max_size=6),
    adopted=st.booleans(),
)
def test_no_cut_loses_or_doubles_a_line(gaps: list[int], cuts: list[tuple[int, int]], *, adopted: bool) -> None:
    """Times may go back by less than a second: two streams of a container are written side by side."""
    newest, rows = 1_000_000_000, []
    for number, gap in enumerate(gaps):
        rows.append((newest + gap, f"line {number}"))
        newest = max(newest, newest + gap)
    written = sorted(min(count, len(rows)) for count, _ in cuts)
    made = list(zip(written, (bytes_ for _, bytes_ in cuts), strict=True))
    assert read_with_cuts(rows, made, adopted=adopted) == [text for _, text in rows]


def read_on(rows: list[tuple[int, str]], first: int, cursor: Cursor) -> tuple[list[str], Cursor]:
    """Read the newest file, which begins with that row."""
    reading = Reading(cursor)
    return [line.text for line in reading.feed(served(rows[first:], cursor))], reading.cursor


@given(
    gaps=st.lists(st.integers(1, 2_500_000_000), min_size=1, max_size=40),
    delivered=st.integers(0, 40),
    files=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    adopted=st.booleans(),
)
def test_a_new_file_swallows_no_line_that_was_not_delivered(
    gaps: list[int], delivered: int, files: list[int], *, adopted: bool
) -> None:
    """A file may begin before what was delivered, within it, or behind: only what no file has is missing."""
    rows, at = [], 1_000_000_000
    for number, gap in enumerate(gaps):
        at += gap
        rows.append((at, f"line {number}"))
    texts = [text for _, text in rows]
    got, cursor = read_on(rows[:delivered], 0, Cursor())
    assert got == texts[:delivered]
    for first in sorted(files):
        got, cursor = read_on(rows, first, stored(cursor) if adopted else cursor)
        assert got == texts[max(first, delivered) :]
        delivered = len(rows)


def test_an_adopter_misses_no_line_of_the_second_of_the_cut() -> None:
    """A new file that begins within a second of the newest line."""
    many = [(2_000_000_000 + number, f"line {number}") for number in range(1000)]
    _, cursor = read_on(many, 0, Cursor())
    fresh = [(2_000_001_000 + number, f"fresh {number}") for number in range(10)]
    got, after = read_on(fresh, 0, stored(cursor))
    assert got == [text for _, text in fresh]
    assert read_on([*fresh, (2_000_002_000, "next")], 0, stored(after))[0] == ["next"]
    assert read_on(fresh, 0, stored_before(cursor))[0] == [], "which is why it has the full time"


def test_an_adopter_of_an_earlier_cursor_skips_no_line_of_a_later_second() -> None:
    """Such a cursor tells the second of the newest line, and no more."""
    many = [(2_000_000_000 + number, f"line {number}") for number in range(1000)]
    _, cursor = read_on(many, 0, Cursor())
    assert (stored_before(cursor).since, cursor.lines) == (BEGIN + 1, 1000)
    fresh = [(3_000_000_000 + number, f"fresh {number}") for number in range(10)]
    got, after = read_on(fresh, 0, stored_before(cursor))
    assert got == [text for _, text in fresh]
    assert after.lines == 10, "of the file that is read from here on"
    assert read_on([*fresh, (3_000_000_500, "next")], 0, stored_before(after))[0] == ["next"]
    assert read_on(fresh, 0, cursor)[0] == [text for _, text in fresh]


def test_every_byte_may_be_the_last_of_a_connection() -> None:
    rows = [(1_000_000_000 + number * 300_000_000, f"äöü {number}") for number in range(6)]
    whole = served(rows, Cursor())
    for cut in range(len(whole) + 1):
        assert read_with_cuts(rows, [(6, cut)]) == [text for _, text in rows]


def test_a_time_has_milliseconds_and_a_line_keeps_its_spaces() -> None:
    reading = Reading(Cursor())
    (line,) = reading.feed(b"2026-01-01T00:00:01.234567891Z   two  spaces \n")
    assert (line.at_ms, line.text) == (BEGIN * 1000 + 1234, "  two  spaces ")


@pytest.mark.parametrize("text", ["2026-01-01T00:00:05Z x\n", "2026-01-01T00:00:05.1Z x\n"])
def test_short_fractions_are_read(text: str) -> None:
    assert [line.text for line in Reading(Cursor()).feed(text.encode())] == ["x"]


def test_a_cursor_names_a_second_and_the_beginning_none() -> None:
    assert Cursor().since_time == ""
    assert Cursor(since=BEGIN + 5, lines=3).since_time == "2026-01-01T00:00:05Z"


def test_a_last_line_without_its_end_comes_when_the_log_is_whole() -> None:
    reading = Reading(Cursor())
    assert reading.feed(b"2026-01-01T00:00:01Z last") == []
    assert [line.text for line in reading.end()] == ["last"]
    assert reading.end() == []


def test_a_line_without_an_end_takes_no_more_than_its_limit() -> None:
    reading, stamp = Reading(Cursor()), b"2026-01-01T00:00:01.5Z "
    assert reading.feed(stamp) == []
    for _ in range(10):
        assert reading.feed(b"x" * MOST_LINE) == []
    assert len(reading.rest()) == MOST_LINE
    (long, next_) = reading.feed(b"\n" + stamp + b"next\n")
    assert len(long.text) == MOST_LINE - len(stamp) and next_.text == "next"
    assert reading.cursor.lines == 2
