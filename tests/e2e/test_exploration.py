"""The longer explorations: one build with the limits as shipped, two that share a key; and each guard is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest

from builder.store.transitions import BY_NAME
from tests.exploration import (
    JOBS,
    ONE_IN_FULL,
    TWO,
    TWO_APART,
    TWO_CALM,
    TWO_KEYS,
    TWO_LIMITED,
    TWO_PREBUILT,
    Model,
    Violation,
    World,
    explore,
    opened,
)
from tests.exploration_guards import GUARDS, Guard, removed

pytestmark = pytest.mark.e2e

OF_JOBS = {"launching", "launched", "adopt-job", "caught-up", "release", "unwatched"}
UNSEEN = {"heartbeat", "submit", "offer", "resolve", "image-refused", *OF_JOBS}
"""See tests/slow/test_exploration.py."""


Worlds = Callable[[Model], World]


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    """Model → its world, opened once."""
    with ExitStack() as stack:
        yield cache(lambda model: stack.enter_context(opened(model)))


def test_one_build_with_the_limits_as_shipped(worlds: Worlds) -> None:
    assert explore(worlds(ONE_IN_FULL)).states > 200


def test_two_builds_of_one_key(worlds: Worlds) -> None:
    explored = explore(worlds(TWO))
    assert explored.actions == set(BY_NAME) - UNSEEN
    assert explored.states > 1000


def test_one_build_whose_job_goes_on(worlds: Worlds) -> None:
    explored = explore(worlds(JOBS))
    assert explored.actions > OF_JOBS
    assert explored.states > 200


@pytest.mark.parametrize(
    "model",
    [TWO_CALM, TWO_KEYS, TWO_APART, TWO_LIMITED, TWO_PREBUILT],
    ids=["one key", "two keys", "two repositories", "one at work at a time", "two prebuilt images"],
)
def test_two_builds_that_nobody_stops(worlds: Worlds, model: Model) -> None:
    assert explore(worlds(model)).states > 100


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_each_guard_is_needed(worlds: Worlds, guard: Guard) -> None:
    world = worlds(guard.model)
    with removed(guard), pytest.raises(Violation):
        explore(world)
