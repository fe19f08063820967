"""The store's promises (tests/store_contract) on SQLite."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store_contract import *  # noqa: F403
from tests.store_contract.world import World, Worlds, open_world


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    made: list[World] = []

    def make() -> World:
        made.append(open_world(f"sqlite:///{tmp_path / f'{len(made)}.db'}"))
        return made[-1]

    yield make
    for world in made:
        world.store.engine.dispose()


@pytest.fixture
def world(worlds: Worlds) -> World:
    return worlds()


@pytest.fixture
def empty_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'empty.db'}"
