"""Numbers, rows and safe text at their borders."""

from __future__ import annotations

import unicodedata
from datetime import timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.cli import format as fmt
from builder.cli.safe import latest, lines, quoted, shown


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (-5, "0.0s"),
        (0, "0.0s"),
        (49, "0.0s"),
        (50, "0.1s"),
        (21_000, "21.0s"),
        (59_949, "59.9s"),
        (59_950, "1m00s"),
        (74_000, "1m14s"),
        (3_599_499, "59m59s"),
        (3_599_500, "1h00m"),
        (7_500_000, "2h05m"),
        (90_000_000, "25h00m"),
    ],
)
def test_duration(ms: int, text: str) -> None:
    assert fmt.duration(ms) == text


@pytest.mark.parametrize(("ms", "text"), [(0, "0ms"), (14, "14ms"), (999, "999ms"), (1000, "1.0s")])
def test_readiness(ms: int, text: str) -> None:
    assert fmt.readiness(ms) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (39_117, "38.2 KiB"),
        (1_048_524, "1023.9 KiB"),
        (1_048_525, "1 MiB"),
        (9_856_614, "9.4 MiB"),
        (1_073_741_823, "1 GiB"),
        (1024**4, "1 TiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert fmt.size(count) == text


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (-1, "0s ago"),
        (59_999, "59s ago"),
        (60_000, "1m ago"),
        (3_599_999, "59m ago"),
        (3_600_000, "1h ago"),
        (86_399_999, "23h ago"),
        (86_400_000, "2026-11-22 14:02:11 +01:00"),
    ],
)
def test_ages_on_a_terminal(age_ms: int, text: str) -> None:
    now = 1_795_438_931_000
    zone = timezone(timedelta(hours=1))
    assert fmt.created(now - age_ms, now, terminal=True, zone=zone) == text


def test_times_in_a_pipe_are_utc_and_west_of_it_keeps_the_sign() -> None:
    assert fmt.created(1_795_438_931_000, 1_795_438_931_001, terminal=False) == "2026-11-23T13:02:11Z"
    west = timezone(-timedelta(hours=3, minutes=30))
    assert fmt.local_time(1_795_438_931_000, west) == "2026-11-23 09:32:11 -03:30"


def test_cut_and_pad_count_cells() -> None:
    assert fmt.cut("abcdef", 6) == "abcdef"
    assert fmt.cut("abcdef", 5) == "abcd…"
    assert fmt.cut("abcdef", 5, "...") == "ab..."
    assert fmt.cut("漢字漢字", 5) == "漢字…"
    assert fmt.cut("abc", 0) == ""
    assert fmt.cut("漢字漢字", 6) == "漢字…"
    assert fmt.cell_len("e\u0301 漢 👩\u200d💻") == 7
    assert fmt.cell_len("") == 0


def test_wrap_keeps_words_whole_and_the_first_indentation() -> None:
    assert fmt.wrap("  one two three", 9) == ("  one two", "three")
    assert fmt.wrap("a /very/long/path b", 6) == ("a", "/very/long/path", "b")
    assert fmt.wrap("anything of any length", None) == ("anything of any length",)


def test_table_has_no_line_breaks_in_cells_and_aligns() -> None:
    rows = [("BUILD", "TOOK"), ("a\nb", "1.4s"), ("c", "41.0s")]
    assert fmt.table(rows, right=frozenset({1})) == ("BUILD   TOOK", "a b     1.4s", "c      41.0s")
    assert fmt.table([]) == ()


def test_hostile_text_is_shown() -> None:
    assert shown("../cron.d/\x1b[2Jx") == "../cron.d/\\x1b[2Jx"
    assert shown("\r\n\x07\x9b31m\x7f") == "\\x0d\\x0a\\x07\\x9b31m\\x7f"
    assert shown("a\u202egpj.exe\u2066\u200f") == "a\\u202egpj.exe\\u2066\\u200f"
    assert shown("\u2028\ud800\U000e0041") == "\\u2028\\ud800\\U000e0041"
    assert shown("naïve 漢字 👩\u200d💻") == "naïve 漢字 👩\u200d💻"
    assert shown("a\tb") == "a\\x09b"
    assert shown("a\tb\x1b", tabs=True) == "a\tb\\x1b"
    assert quoted("x\x1b]8;;http://evil\x07") == '"x\\x1b]8;;http://evil\\x07"'
    assert lines("a\n\tb") == ("a", "        b")
    assert latest("10%\r55%\r100%\r") == "100%"
    assert latest("") == ""


@given(st.text())
def test_nothing_hidden_is_left(text: str) -> None:
    left = {unicodedata.category(c) for c in shown(text) if c not in "\u200c\u200d"}
    assert not left & {"Cc", "Cf", "Cs", "Zl", "Zp"}
