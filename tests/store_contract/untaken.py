"""Builds that no live node takes say so: in their log while they wait, in their failure when they waited too long."""

from __future__ import annotations

import json

import pytest

from builder.store import logs, nodes, sweeps
from tests.store_contract.world import LEASE, LIVE_MS, World

GO_NODE = {"compile.go": {"go-1.26"}}


def warn(world: World, seen: sweeps.Warned, *nodes_: tuple[str, str]) -> list[str]:
    """The builds that a reconciler warns of with these nodes (queue, toolchain) alive and no other."""
    world.at[0] += 2 * LIVE_MS  # whoever registered before is gone
    for queue, toolchain in nodes_:
        world.register(queue, queue=queue, toolchain=toolchain)
    due = sweeps.look(world.store, LEASE, LIVE_MS, seen)
    with world.store.transaction() as tx:
        changed, warned = sweeps.warn_unschedulable(tx, world.store.now(tx), due.unschedulable, LEASE, seen)
    seen.clear()
    seen.update(warned)
    return [row["build_id"] for row in changed]


GO = ("compile.go", "go-1.26")


def system_texts(world: World, build: str) -> list[str]:
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
    taken = world.submit()
    seen: sweeps.Warned = {}
    warn(world, seen, GO)
    build = world.submit(queue=queue, toolchain=toolchain)
    assert not sweeps.look(world.store, LEASE, LIVE_MS, seen).unschedulable, "it may be a node that starts"
    assert warn(world, seen, GO) == [build]
    assert warn(world, seen, GO) == []
    assert (system_texts(world, build), system_texts(world, taken)) == ([says], [])


def test_builds_of_other_lanes_and_later_ones_are_told_too(world: World) -> None:
    seen: sweeps.Warned = {}
    first = [world.submit(toolchain="go-1.24"), world.submit(toolchain="")]
    warn(world, seen)
    later = world.submit(toolchain="go-1.24")
    warn(world, seen)
    assert [len(system_texts(world, one)) for one in (*first, later)] == [1, 1, 1]


def test_a_node_that_came_and_went_is_told_anew(world: World) -> None:
    build = world.submit(queue="compile.any", toolchain="")
    seen: sweeps.Warned = {}
    for alive in (GO, ("compile.any", "x"), GO):
        warn(world, seen, alive)
    assert len(system_texts(world, build)) == 2


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
    world.queue_timeouts(live)
    failure = json.loads(world.row(build)["failure"])
    assert failure["reason"] == reason
    assert why in failure["message"]


def test_a_build_whose_live_nodes_are_all_full_says_which_and_why(world: World) -> None:
    build = world.submit()
    can = (["compile.go"], {"go-1.26": "sha256:0"})
    seen: sweeps.Warned = {}
    world.at[0] += LEASE
    nodes.register(world.store, "node", *can, 0, LIVE_MS, lacks="its disk is full")
    world.register("second")
    assert not sweeps.look(world.store, LEASE, LIVE_MS, seen).unschedulable
    nodes.register(world.store, "second", *can, 0, LIVE_MS, lacks="no inodes")
    due = sweeps.look(world.store, LEASE, LIVE_MS, seen)
    with world.store.transaction() as tx:
        sweeps.warn_unschedulable(tx, world.store.now(tx), due.unschedulable, LEASE, seen)
    says = "no live node has room: node: its disk is full; second: no inodes; this build waits for one"
    assert system_texts(world, build) == [says]
