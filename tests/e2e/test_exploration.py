"""The longer explorations: one build with the limits as shipped, two that share a key, and what only these two show."""

from __future__ import annotations

import pytest

from builder.store.transitions import BY_NAME
from tests.exploration import ONE, ONE_IN_FULL, TWO, TWO_APART, Violation, explore
from tests.exploration_guards import GUARDS, Guard, removed

pytestmark = pytest.mark.e2e

UNSEEN = {"heartbeat", "submit", "offer"}
"""See tests/unit/test_exploration.py."""


def test_one_build_with_the_limits_as_shipped() -> None:
    assert explore(ONE_IN_FULL).states > 200


def test_two_builds_of_one_key() -> None:
    explored = explore(TWO)
    assert explored.actions == set(BY_NAME) - UNSEEN
    assert explored.states > 1000


def test_two_builds_of_one_key_in_repositories_of_their_own() -> None:
    assert explore(TWO_APART).states > 1000


@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard.model is not ONE], ids=lambda guard: guard.name)
def test_each_guard_is_needed(guard: Guard) -> None:
    with removed(guard), pytest.raises(Violation):
        explore(guard.model)
