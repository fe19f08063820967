"""The reconciler's patience: time in which no owner could beat does not count, and afterwards it goes on."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from builder import config
from builder.control.loops import Loops, event_log
from builder.store.engine import Store
from tests.store_contract.statements import begun
from tests.store_contract.world import LEASE, World, open_world

TICK_S = 0.5


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


class Control:
    """Loops whose clock, and the store's with it, only moves when it is told to."""

    def __init__(self, world: World) -> None:
        self.world, self.seconds, self.down, self.waits_s = world, 0.0, "", 0.0
        store = world.store

        class Breaking(Store):
            def transaction(self) -> Any:
                if outer.down:
                    raise OperationalError("select 1", None, Exception("no connection"))
                outer.advance(outer.waits_s)
                return super().transaction()

            def read(self) -> Any:
                if outer.down == "everything":
                    raise OperationalError("select 1", None, Exception("no connection"))
                return super().read()

        outer = self
        self.loops = Loops(
            settings=config.load({"lease_ms": LEASE}).settings,
            store=Breaking(engine=store.engine, emit=store.emit, clock=store.clock),
            celery=cast(Any, None),
            finalizer=cast(Any, None),
            redis=cast(Any, None),
            log=event_log(io.StringIO()),
            monotonic=lambda: self.seconds,
        )

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.world.at[0] += int(seconds * 1000)

    def tick(self, seconds: float) -> None:
        """Ticks for so long."""
        for _ in range(int(seconds / TICK_S)):
            self.advance(TICK_S)
            try:
                self.loops.reconcile()
            except OperationalError:
                assert self.down


def expired(world: World, build: str) -> bool:
    return bool(world.row(build)["status"] == "PENDING" and world.row(build)["failures"] == 1)


def test_a_lease_expires_while_all_is_well_but_a_lease_after_the_start_at_the_earliest(world: World) -> None:
    build = world.submit()
    world.claim(build)
    control = Control(world)
    control.advance(60)  # before this control side began
    control.tick(LEASE / 1000 - TICK_S)
    assert world.row(build)["status"] == "RUNNING"
    control.tick(2 * TICK_S)
    assert expired(world, build)


@pytest.mark.parametrize("times", [1, 3])
def test_a_pause_of_ours_gives_every_owner_a_whole_lease_and_then_leases_expire_again(world: World, times: int) -> None:
    control = Control(world)
    control.tick(60)
    build = world.submit()
    world.claim(build)
    for _ in range(times):
        control.advance(45)
        control.tick(LEASE / 1000 - TICK_S)
        assert world.row(build)["status"] == "RUNNING", "nobody could beat while we were paused"
    control.tick(2 * TICK_S)
    assert expired(world, build)


@pytest.mark.parametrize("what", ["everything", "writes"])
def test_an_outage_of_the_store_is_nobodys_fault(world: World, what: str) -> None:
    """Also one in which it still answers reads (a full disk): a heartbeat is a write."""
    control = Control(world)
    control.tick(60)
    build = world.submit()
    world.claim(build)
    control.down = what
    control.tick(50)
    control.down = ""
    control.tick(LEASE / 1000 - TICK_S)
    assert world.row(build)["status"] == "RUNNING", "the owner lives for two leases and could not beat"
    control.tick(2 * TICK_S)
    assert expired(world, build)


def test_a_writer_that_held_everybody_up_costs_no_owner_its_lease(world: World) -> None:
    control = Control(world)
    control.tick(60)
    build = world.submit()
    world.claim(build)
    control.waits_s = 15.0  # for the lock that heartbeats wait for too
    control.tick(LEASE / 1000)
    control.waits_s = 0.0
    assert world.row(build)["status"] == "RUNNING"
    control.tick(LEASE / 1000 - TICK_S)
    assert world.row(build)["status"] == "RUNNING", "since then it has a whole lease"
    control.tick(2 * TICK_S)
    assert expired(world, build)


def test_a_tick_with_nothing_to_do_is_one_read_of_each_loop_and_asks_no_broker(world: World) -> None:
    control = Control(world)
    control.tick(60)
    world.claim(world.submit())
    with begun(world.store) as seen:
        control.tick(TICK_S)
        control.loops.dispatch()  # without Redis and Celery: it would raise
    assert seen == ["BEGIN DEFERRED"] * 2


def test_a_build_that_no_node_takes_is_warned_of_once(world: World) -> None:
    control = Control(world)
    changed: list[str] = []
    control.loops.finalizer = SimpleNamespace(changed=changed.append)  # type: ignore[assignment]
    control.tick(60)
    build = world.submit(queue="compile.any")
    control.tick(2 * LEASE / 1000)
    assert changed == [build]
    assert world.row(build)["log_lines"] == 1
