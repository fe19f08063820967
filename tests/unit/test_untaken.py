"""Builds that no live node takes say so: in their log while they wait, in their failure when they waited too long."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from builder.store import builds, logs, sweeps
from builder.store.engine import Store, open_store

LEASE = 30_000
_IDS = itertools.count()


@dataclass
class World:
    """A store on its own clock."""

    store: Store
    at: list[int]

    def submit(self, **more: Any) -> str:
        build_id = f"u{next(_IDS):019d}"
        values = {
            "build_id": build_id, "organization": "acme", "name": "n", "request_hash": "h", "request": "{}",
            "source_sha256": "0" * 64, "source_size": 1, "single_file": False, "runtime": "go", "queue": "compile.go",
            "toolchain": "go-1.26", "repository": "acme/n", "tags": '["latest"]', "priority": 0,
            "no_cache": False, "timeout_ms": 600_000, "queue_timeout_ms": 3_600_000,
        }  # fmt: skip
        builds.submit(self.store, values | more)
        return build_id

    def row(self, build_id: str) -> Any:
        row = builds.by_id(self.store, build_id)
        assert row is not None
        return row


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    at = [1_000_000]
    opened = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield World(store=Store(engine=opened.engine, clock=lambda: at[0]), at=at)
    opened.engine.dispose()


GO_NODE = {"compile.go": {"go-1.26"}}


def told(world: World, build: str) -> list[str]:
    return [line["l"] for line in logs.read(world.store, build, 0) if line["o"] == "SYSTEM"]


@pytest.mark.parametrize(
    ("queue", "toolchain", "says"),
    [
        ("compile.any", "", "no live node reads compile.any; this build waits for one"),
        ("compile.python", "", "no live node reads compile.python; this build waits for one"),
        ("compile.go", "go-1.24", "no live node has go-1.24; this build waits for one"),
    ],
)
def test_a_build_that_no_node_takes_says_so_once_after_a_lease(
    world: World, queue: str, toolchain: str, says: str
) -> None:
    build = world.submit(queue=queue, toolchain=toolchain)
    taken = world.submit()
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    assert sweeps.tell_untaken(world.store, GO_NODE, LEASE, seen) == []
    world.at[0] += LEASE
    assert [row["build_id"] for row in sweeps.tell_untaken(world.store, GO_NODE, LEASE, seen)] == [build]
    assert sweeps.tell_untaken(world.store, GO_NODE, LEASE, seen) == []
    assert (told(world, build), told(world, taken)) == ([says], [])


def test_builds_of_other_lanes_and_later_ones_are_told_too(world: World) -> None:
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    first = [world.submit(toolchain="go-1.24"), world.submit(toolchain="")]
    world.at[0] += LEASE
    sweeps.tell_untaken(world.store, {}, LEASE, seen)
    later = world.submit(toolchain="go-1.24")
    world.at[0] += LEASE
    sweeps.tell_untaken(world.store, {}, LEASE, seen)
    assert [len(told(world, one)) for one in (*first, later)] == [1, 1, 1]


def test_a_node_that_came_and_went_is_told_anew(world: World) -> None:
    build = world.submit(queue="compile.any", toolchain="")
    seen: dict[tuple[str, str], tuple[int, int]] = {}
    world.at[0] += LEASE
    for live in (GO_NODE, {"compile.any": set()}, GO_NODE):
        sweeps.tell_untaken(world.store, live, LEASE, seen)
    assert len(told(world, build)) == 2


@pytest.mark.parametrize(
    ("live", "reason", "why"),
    [
        ({"compile.go": {"go-1.26"}}, "QueueTimeout", "for a free slot"),
        ({"compile.go": {"go-1.24"}}, "ToolchainUnavailable", "no live node has go-1.26"),
        ({"compile.python": {"go-1.26"}}, "ToolchainUnavailable", "no live node reads compile.go"),
    ],
)
def test_the_queue_timeout_says_what_was_missing(
    world: World, live: dict[str, set[str]], reason: str, why: str
) -> None:
    build = world.submit(queue_timeout_ms=1000)
    world.at[0] += 1000
    builds.queue_timeouts(world.store, live)
    failure = json.loads(world.row(build)["failure"])
    assert failure["reason"] == reason
    assert why in failure["message"]
