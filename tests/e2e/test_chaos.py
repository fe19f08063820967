"""Eight histories of kills, two at a time (`make chaos` plays 200 others): whatever dies, the promises hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.chaos.__main__ import submit_all
from tests.chaos.schedule import SEEDS

pytestmark = pytest.mark.e2e

Played = Mapping[int, "Future[tuple[int, str]]"]


@pytest.fixture(scope="module")
def played(kept: Path) -> Iterator[Played]:
    """Seed → its exit code and what it printed, when it has ended."""
    with ThreadPoolExecutor() as pool:
        futures = submit_all(pool, SEEDS, kept)
        yield futures
        for future in futures.values():
            future.cancel()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_history_of_kills(played: Played, seed: int) -> None:
    code, out = played[seed].result()
    assert code == 0, out
