"""Canonical JSON, strangers' text made visible, sizes."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder import text as texts
from builder.sandbox.lines import LineSplitter
from builder.text import canonical_json, log_line, size, visible


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


# Lines of a log


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("plain ünï 漢字 👩\u200d💻\ttab\xa0", "plain ünï 漢字 👩\u200d💻\ttab\xa0"),
        ("\x1b[1;31merror\x1b[0m\x1b[K: x\r", "error: x"),
        ("\x9b31mred\x9bm", "red"),
        ("\x1b]8;;https://a.example\x1b\\link\x1b]8;;\x07", "link"),
        ("\x1b]52;c;ZXZpbA==\x07a\x9d0;title\x9cb", "ab"),
        ("\x1bPq#0;2\x1b\\a\x1b_x\x1b\\b\x1b^y\x9cc\x90z\x9cd", "abcd"),
        ("\x1b(Bbold\x1b7\x1b8\x1bc", "bold"),
        ("cut\x1b[38;5", "cut"),  # at the end of a piece of a long line
        ("\x1b]0;no end", r"\x1b]0;no end"),  # what has no end hides no text
        ("\x1b\x1b[m[31m", r"\x1b[31m"),  # what is left when a sequence went is none
        ("10%\r20%", r"10%\x0d20%"),
        ("\x00\x07\x08\x7f\x85\ufeff", r"\x00\x07\x08\x7f\x85\ufeff"),
        ("a\u202eb\u2066c\u061cd", r"a\u202eb\u2066c\u061cd"),
        ("\n\u2028", r"\x0a\u2028"),
    ],
)
def test_a_line_of_a_log_holds_text_and_nothing_that_acts(text: str, kept: str) -> None:
    assert log_line(text) == kept


HOSTILE = st.lists(
    st.sampled_from(["\x1b", "\x1b[", "\x1b]", "\x1bP", "\x9b", "\x9d", "\x90", "\x9c", "\x07", "\x1b\\", "\x00", "\r",
                     "\u202e", "\u2067", "31", ";", "m", "(B", "ü", "漢", "\t", "\n"])
    | st.text(max_size=4)
).map("".join)  # fmt: skip


@given(text=HOSTILE, cuts=st.lists(st.integers(0, 400)), limit=st.integers(1, 30))
def test_no_control_survives_however_the_output_is_split(text: str, cuts: list[int], limit: int) -> None:
    data = text.encode("utf-8", "surrogatepass")
    splitter, at = LineSplitter(limit), 0
    lines: list[bytes] = []
    for cut in sorted(cuts):
        lines += splitter.feed(data[at:cut])
        at = max(at, cut)
    lines += splitter.feed(data[at:]) + splitter.close()
    for line in lines:
        kept = log_line(line.decode("utf-8", "replace"))
        hidden = {c for c in kept if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
        assert hidden <= {"\t", "\u200c", "\u200d"}
        assert log_line(kept) == kept


@given(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]) | st.just("\t")))
def test_honest_text_survives_as_it_is(text: str) -> None:
    assert log_line(text) == text


def test_a_string_that_holds_another_introducer_ends_there() -> None:
    assert log_line("a\x1b]0;title\x9d1;other\x07b") == "a\\x1b]0;titleb"
    assert log_line("a\x90q\x9cb\x9dc\x07d") == "abd"


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


OF_STRANGERS = frozenset(("attest", "buildpacks", "dockerfile", "images", "kaniko", "kube", "pipelines"))
OURS = {
    "dockerfile/read.py": "has its own words for each fault",
    "images/layout.py": "the index of a store of ours",
    "images/store.py": "manifests that this node has checked, or that builds of ours have pushed",
    "kaniko/plan.py": "what `write_facts` wrote",
    "kube/api.py": "the cluster's answers",
    "pipelines/deno/remote.py": "a stub of ours",
    "pipelines/python/wheels.py": "the node's own words, and a stub of ours",
}


@pytest.mark.parametrize(
    "data",
    [r'"\ud800"', rb'{"a": ["\uDC00"]}', b'"\xed\xa0\x80"', '"\ud800"', "[" * 100_000, "{", "9" * 5000, b"\xff"]
    + [r'{"a": "\ud800"}'.encode(one) for one in ("utf-16-le", "utf-16", "utf-32-be")],
)
def test_json_of_a_stranger_that_is_no_text_is_no_json_and_nothing_else(data: str | bytes) -> None:
    with pytest.raises(ValueError):
        texts.strangers_json(data)


def test_json_of_a_stranger_keeps_pairs_of_surrogates() -> None:
    assert texts.strangers_json(rb'{"a": "\ud83d\ude00"}') == {"a": "\U0001f600"}


def test_json_of_strangers_is_read_in_one_place() -> None:
    package = Path(texts.__file__).parent
    used = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if path.relative_to(package).parts[0] in OF_STRANGERS
        and re.search(r"\bjson\.loads?\(", path.read_text("utf-8"))
    }
    assert used == set(OURS)
