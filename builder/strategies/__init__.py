"""The strategies of image mode: which there are (`STRATEGIES`, the one list), and the choice between them.

A strategy is a module that fulfils `base.Strategy`. A new one is its module and its line here.
"""

from __future__ import annotations

from pathlib import Path

from builder.dockerfile.choose import ImageRequest
from builder.strategies import buildpacks, engine, kaniko
from builder.strategies.base import Choice, Planner, Strategy

STRATEGIES: tuple[Strategy, ...] = (kaniko, buildpacks)
"""In the order in which they are asked whether they take a source. The last takes what no other does."""
PLANNERS: tuple[Planner, ...] = (*STRATEGIES, engine)
"""What plans images: strategies, and what builds one without a Job."""


def choose(root: Path, asked: ImageRequest) -> Choice:
    """The first strategy that takes the source below `root`.

    Raises `BuildError` InvalidRequest for a Dockerfile or folder that is not there.
    """
    for strategy in STRATEGIES:
        if because := strategy.takes(root, asked):
            return Choice(strategy=strategy.NAME, because=because)
    raise AssertionError("the last strategy takes every source")


def by_name(name: str) -> Strategy | None:
    """The strategy of that name; None where there is none here."""
    return next((one for one in STRATEGIES if name == one.NAME), None)


def planner(name: str) -> Planner | None:
    """What plans under that name; None where there is none here."""
    return next((one for one in PLANNERS if name == one.NAME), None)
