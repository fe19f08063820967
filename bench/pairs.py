"""Interleaved measurement and the statistics of it.

Machines drift (clock, caches, neighbours), so the arms of a comparison take turns in one run, each round in the
opposite order, and what is compared is the ratio or difference inside a round, never two runs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Arm = Callable[[int], float]
"""Does one thing for the given round and says how long it took, s."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Values in order of size, summed up."""

    median: float
    p95: float
    least: float
    most: float
    low: float
    high: float
    """`low` and `high` are the quartiles."""
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Sum up at least one value. Percentiles are interpolated between neighbours."""
    ordered = sorted(values)
    return Spread(
        median=statistics.median(ordered),
        p95=percentile(ordered, 95),
        least=ordered[0],
        most=ordered[-1],
        low=percentile(ordered, 25),
        high=percentile(ordered, 75),
        count=len(ordered),
    )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The percentile of ascending values, interpolated between neighbours."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def ratios(measured: Sequence[float], against: Sequence[float]) -> list[float]:
    """Round by round; both have the same number of rounds."""
    return [one / other for one, other in zip(measured, against, strict=True)]


def differences(measured: Sequence[float], against: Sequence[float]) -> list[float]:
    """Round by round."""
    return [one - other for one, other in zip(measured, against, strict=True)]


def interleave(arms: Mapping[str, Arm], rounds: int, *, first: int = 1, warm: int = 1) -> dict[str, list[float]]:
    """Run all arms once a round, every second round in the opposite order; `warm` rounds before do not count.

    Rounds are numbered from `first`, so that each can make a source that nobody has built.
    """
    took: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(first, first + warm + rounds):
        names = list(arms)[:: 1 if number % 2 else -1]
        for name in names:
            seconds = arms[name](number)
            if number >= first + warm:
                took[name].append(seconds)
    return took
