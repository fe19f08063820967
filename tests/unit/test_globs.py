"""Patterns of ignore files: hostile ones end, in time that grows as the path does."""

from __future__ import annotations

import re
import time
import tracemalloc

import pytest

from builder.globs import git_patterns, moby_pattern
from builder.globs.moby import _is_regular, _moby_tokens

REGULAR = ("*a*a*a*a*a*a*b", "**/a*/**/a*/**/a*/**/b", "**/*a*a*a*a*b/**")
OTHERS = ("**a" * 12 + "b", "[^b]*" * 12 + "c", "x**" * 12 + "y", "*****" * 12)
ALL = (*REGULAR, *OTHERS)


def test_both_ways_to_match_are_there() -> None:
    assert all(_is_regular(_moby_tokens(pattern)) for pattern in REGULAR)
    assert not any(_is_regular(_moby_tokens(pattern)) for pattern in OTHERS[:3])


@pytest.mark.parametrize("pattern", ALL)
@pytest.mark.parametrize("part", ["a", "a/", "xa", "aab/"])
def test_time_grows_as_the_path_does(pattern: str, part: str) -> None:
    """With backtracking the longer path takes from hundreds of times as long to for ever."""
    made = moby_pattern(pattern)

    def spent(size: int) -> float:
        path, began = part * size, time.process_time()
        made.matches(path)
        return time.process_time() - began

    spent(64)
    ratios = []
    for _ in range(9):  # another process's use of the machine adds to one try, not to each
        ratios.append(spent(4096) / max(0.001, spent(512)))
        if ratios[-1] <= 32:
            break
    assert min(ratios) <= 32, ratios


@pytest.mark.slow
def test_memory_grows_as_the_pattern_does() -> None:
    """Each class has a number with a bit for each state: of a pattern that no path can match none is made."""
    pattern = "".join(f"**[{chr(0x4E00 + number)}b]" for number in range(2_000))
    tracemalloc.start()
    try:
        made = moby_pattern(pattern)
        assert not made.matches("b" * 512)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_300_000, peak  # of 700,000 without the numbers, 2,000,000 with them


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 60 + "b", "a" * 4000),
        ("*?" * 60 + "b", "a" * 4000),
        ("*[ab]" * 60 + "c", "a" * 4000),
        ("**/a/" * 60 + "b", "a/" * 2000),
        ("/".join(["*a*a*a"] * 30) + "b", "/".join(["a" * 100] * 30)),
        ("/**" + "\\/a/**" * 40 + "/b", "/".join("a" * 2000)),
    ],
)
def test_a_hostile_pattern_of_git_ends(pattern: str, path: str) -> None:
    """With each star tried at each place none of these ends within the life of a machine."""
    (made,) = git_patterns(pattern.encode())
    assert not re.compile(made.regex, re.DOTALL).fullmatch(path.encode())
