"""One build: every step in every order. The guards, and two builds that share a key, are in tests/e2e."""

from __future__ import annotations

from builder.store.transitions import BY_NAME
from tests.exploration import ONE, PREBUILT, explore, opened

SILENT = {"heartbeat"}
"""It emits no event."""
BEFORE = {"submit"}
"""Where the exploration starts."""
HINTS = {"offer"}
"""It changes no state: what is offered may be claimed, and what is not, too."""
SHARED = {"attach", "reuse", "primary-succeeded", "primary-failed", "promote", "artifact-gone"}
"""They need a second build."""

OF_IMAGES = {"resolve", "image-refused"}
"""Events of the queue that no node reads: the model of prebuilt images."""
OF_JOBS = {"launching", "launched", "adopt-job", "caught-up", "release", "unwatched"}
"""Events of stage JOB: its models are in tests/e2e."""


def test_one_build() -> None:
    with opened(ONE) as world:
        explored = explore(world)
    assert explored.actions == set(BY_NAME) - SILENT - BEFORE - HINTS - SHARED - OF_IMAGES - OF_JOBS
    assert explored.states > 100


def test_one_prebuilt_image() -> None:
    with opened(PREBUILT) as world:
        explored = explore(world)
    assert explored.actions > OF_IMAGES
    assert explored.states > 30
