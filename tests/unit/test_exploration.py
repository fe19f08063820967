"""One build: every step in every order. The guards, and two builds that share a key, are in tests/e2e."""

from __future__ import annotations

from builder.store.transitions import BY_NAME
from tests.exploration import ONE, explore, opened

SILENT = {"heartbeat"}
"""It emits no event."""
BEFORE = {"submit"}
"""Where the exploration starts."""
HINTS = {"offer"}
"""It changes no state: what is offered may be claimed, and what is not, too."""
SHARED = {"attach", "reuse", "primary-succeeded", "primary-failed", "promote", "artifact-gone"}
"""They need a second build."""

PREBUILT = {"resolve", "image-refused"}
"""Of the queue that no node reads: tests/unit/test_prebuilt.py takes each of them."""


def test_one_build() -> None:
    with opened(ONE) as world:
        explored = explore(world)
    assert explored.actions == set(BY_NAME) - SILENT - BEFORE - HINTS - SHARED - PREBUILT
    assert explored.states > 100
