"""Patterns of sources and requests: hostile ones end, in time that grows as they do."""

from __future__ import annotations

import functools
import re
import time

import pytest

from builder.globs import name_glob, path_glob
from builder.globs.shell import _automaton, _is_regular
from builder.source.tree import match
from tests.growth import assert_linear


def plain(pattern: str) -> re.Pattern[str]:
    """A pattern of paths, token by token. It backtracks."""
    parts, at = [], 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            parts.append("(?:[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            parts.append(".*")
            at += 2
        else:
            parts.append({"*": "[^/]*", "?": "[^/]"}.get(pattern[at], re.escape(pattern[at])))
            at += 1
    return re.compile("".join(parts), re.DOTALL)


@pytest.mark.parametrize("pattern", ["a**/b*c", "**a**/*", "x**y?", "**/**z/***", "***/a"])
def test_what_no_expression_is_for_has_an_automaton(pattern: str) -> None:
    tokens = re.findall(r"\*\*/|\*\*|.", pattern)
    assert not _is_regular(tokens)
    assert path_glob(pattern).matches("a/b") == bool(plain(pattern).fullmatch("a/b"))
    assert isinstance(_automaton(tokens)("a"), bool)


HOSTILE_PATHS = {
    "stars": ("*a" * 60 + "b", "a"),
    "folders": ("**/a/" * 40 + "b", "a/"),
    "folders of stars": ("**/*a*a*a*a/" * 10 + "b", "aaaa/"),
    "any": ("**a" * 40 + "b", "a"),
    "folders in a name": ("a**/" * 40 + "b", "a/"),
    "one beside the other": ("**/**" * 40 + "b", "a/"),
    "question marks": ("*?" * 40 + "b", "a"),
}


@pytest.mark.parametrize("name", HOSTILE_PATHS)
def test_time_grows_as_the_path_does(name: str) -> None:
    """With each star tried at each place most of these do not end within the life of a machine."""
    pattern, unit = HOSTILE_PATHS[name]

    def spent(size: int) -> float:
        began = time.process_time()
        match((unit * size,), pattern)
        return time.process_time() - began

    assert_linear(functools.partial(spent, 1024), functools.partial(spent, 4096), 0.01, name)


@pytest.mark.parametrize("unit", ["[", "[a-", "z-a", "*a", "[!", "]["])
@pytest.mark.parametrize("after", ["", "]"])
def test_time_grows_as_the_pattern_does(unit: str, after: str) -> None:
    """fnmatch looks for the end of each bracket: 16,000 without one take it seconds."""

    def spent(size: int) -> float:
        began = time.process_time()
        for before in ("", "["):
            name_glob(before + unit * (size // len(unit)) + after).matches("a" * size * 2)
        return time.process_time() - began

    name_glob.cache_clear()
    assert_linear(functools.partial(spent, 2000), functools.partial(spent, 8000), 0.05, unit)


def test_no_expression_is_made_for_what_is_too_short() -> None:
    glob = name_glob("*a" * 1000)
    assert not glob.matches("a" * 999)
    assert glob._whole is None
    assert glob.matches("a" * 1000)
