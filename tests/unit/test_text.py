"""Canonical JSON, strangers' text made visible, sizes."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.text import canonical_json, size, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ünï 漢字", "plain ünï 漢字"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("two\nlines\r", r"two\x0alines\x0d"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("\x9b31m", r"\x9b31m"),
        (b"caf\xff", r"caf\xff"),
        ("caf\udcff", r"caf\xff"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\U000e0041"),
        ("a\tb", r"a\x09b"),
        ("👩\u200d💻", "👩\u200d💻"),
    ],
)
def test_what_no_terminal_may_get_is_escaped(text: str | bytes, shown: str) -> None:
    assert visible(text) == shown


def test_a_limit_counts_characters_before_they_are_escaped_and_shows_the_cut() -> None:
    assert visible("ab\x1bcd", limit=3) == r"ab\x1b" + "…"
    assert visible("abc", limit=3) == "abc"
    assert visible("a\tb", tabs=True) == "a\tb"


@given(st.text() | st.binary())
def test_nothing_hidden_is_left_and_it_is_one_line(text: str | bytes) -> None:
    shown = visible(text)
    assert len(shown.splitlines()) <= 1
    hidden = {c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert hidden <= {"\u200c", "\u200d"}
    assert visible(shown) == shown


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (39117, "38.2 KiB"), (1024**2 - 1, "1 MiB"),
     (3 * 1024**3 // 2, "1.5 GiB"), (5 * 1024**4, "5 TiB")],
)  # fmt: skip
def test_sizes(count: int, words: str) -> None:
    assert size(count) == words


def test_canonical_json_has_one_form() -> None:
    assert canonical_json({"b": [1, "ü"], "a": None}) == '{"a":null,"b":[1,"ü"]}'.encode()
    for value in (float("nan"), float("inf"), "\ud800"):
        with pytest.raises(ValueError):
            canonical_json(value)
