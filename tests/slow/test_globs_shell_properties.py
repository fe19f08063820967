"""Patterns of sources and requests: fnmatch's verdicts and a plain expression's."""

from __future__ import annotations

import fnmatch
import warnings

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.globs import name_glob, path_glob
from tests.unit.test_globs_shell import plain

NAME_PARTS = (
    "a",
    "b",
    "-",
    "!",
    "]",
    "[",
    "*",
    "?",
    "^",
    "\\",
    "&&",
    "[!",
    "[a-b]",
    "[b-a]",
    "[]",
    "/",
    "~",
    ".",
    "\n",
)
NAMES = st.lists(st.sampled_from(["a", "b", "-", "!", "[", "]", "^", "\\", "&", "/", "\n"]), max_size=8).map("".join)
PATH_PARTS = ("a", "b", "/", "*", "**", "**/", "/**/", "?", "[", ".", "\\", "*a*b")
PATHS = st.lists(st.sampled_from(["a", "b", "/", "ab", "/a", ".", "\n", "["]), max_size=9).map("".join)


@given(pattern=st.lists(st.sampled_from(NAME_PARTS), max_size=9).map("".join), names=st.lists(NAMES, max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_name_is_judged_as_fnmatch_does(pattern: str, names: list[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in names:
            assert name_glob(pattern).matches(name) == fnmatch.fnmatchcase(name, pattern), (pattern, name)


@given(pattern=st.lists(st.sampled_from(PATH_PARTS), max_size=9).map("".join), paths=st.lists(PATHS, max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_path_is_judged_as_by_the_plain_expression(pattern: str, paths: list[str]) -> None:
    expected = plain(pattern)
    for path in paths:
        assert path_glob(pattern).matches(path) == bool(expected.fullmatch(path)), (pattern, path)
