"""One build, every step in every order; and each guard of the statements is needed. Two builds: tests/e2e."""

from __future__ import annotations

import pytest

from builder.store.transitions import BY_NAME
from tests.exploration import ONE, Violation, explore
from tests.exploration_guards import GUARDS, Guard, removed

SILENT = {"heartbeat"}
"""It emits no event."""
BEFORE = {"submit"}
"""Where the exploration starts."""
HINTS = {"offer"}
"""It changes no state: what is offered may be claimed, and what is not, too."""
SHARED = {"attach", "reuse", "primary-succeeded", "primary-failed", "promote", "artifact-gone"}
"""They need a second build."""


def test_one_build() -> None:
    explored = explore(ONE)
    assert explored.actions == set(BY_NAME) - SILENT - BEFORE - HINTS - SHARED
    assert explored.states > 100


@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard.model is ONE], ids=lambda guard: guard.name)
def test_each_guard_is_needed(guard: Guard) -> None:
    with removed(guard), pytest.raises(Violation):
        explore(guard.model)
