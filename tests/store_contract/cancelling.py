"""A cancel that was asked for wins over everything but a terminal status."""

from __future__ import annotations

import pytest

from builder.store import builds
from tests.store_contract.world import LEASE, World


def test_cancel_wins_over_hand_back(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    builds.hand_back(world.store, build, claim, "drain")
    assert world.row(build)["status"] == "CANCELLED"


def test_cancel_asked_for_before_planned_is_not_lost_in_reuse(world: World) -> None:
    first = world.submit()
    claim = world.claim(first)
    builds.planned(world.store, first, claim, "key", "code", "go")
    world.succeed_work(first, claim)
    world.finalize(first)
    build = world.submit()
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    builds.planned(world.store, build, claim, "key", "code", "go")
    for _ in range(3):
        row = builds.adopt_finalize(world.store, LEASE)
        if row is not None and builds.publish(world.store, build, row["claim"]):
            builds.succeed(world.store, build, row["claim"], ())
    assert world.row(build)["status"] != "SUCCEEDED"


def test_what_an_owner_waits_for_the_control_side_is_not_the_builds_time(world: World) -> None:
    build = world.submit(timeout_ms=1000)
    claim = world.claim(build)
    world.at[0] += 50_000
    builds.heartbeat(world.store, build, claim, "PUSH", LEASE, waited_ms=49_500)
    world.at[0] += LEASE
    assert not world.build_timeouts()
    world.at[0] += 499
    assert not world.build_timeouts()
    world.at[0] += 1
    [ended] = world.build_timeouts()
    assert (ended["status"], ended["phase"]) == ("FAILED", "PUSH")


def test_a_new_attempt_has_waited_for_nothing(world: World) -> None:
    build = world.submit(timeout_ms=1000)
    claim = world.claim(build)
    world.at[0] += 10_000
    builds.heartbeat(world.store, build, claim, "BUILD", LEASE, waited_ms=9_000)
    assert world.row(build)["waited_ms"] == 9_000
    builds.hand_back(world.store, build, 1, "drain")
    world.claim(build, "again")
    assert world.row(build)["waited_ms"] == 0


@pytest.mark.parametrize(("named", "counted"), [(2**63 - 1, 5_000), (-(2**63), 0), (5_001, 5_000)])
def test_an_owner_has_not_waited_longer_than_it_had_the_build(world: World, named: int, counted: int) -> None:
    build, other = world.submit(timeout_ms=1000), world.submit("another", timeout_ms=1000)
    claim = world.claim(build)
    world.claim(other)
    world.at[0] += 5_000
    assert builds.heartbeat(world.store, build, claim, "BUILD", LEASE, waited_ms=named) is not None
    assert world.row(build)["waited_ms"] == counted
    world.at[0] += LEASE
    assert other in [ended["build_id"] for ended in world.build_timeouts()]


def test_cancel_wins_over_build_timeout(world: World) -> None:
    build = world.submit(timeout_ms=1000)
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    world.at[0] += 1000 + LEASE + 1
    builds.heartbeat(world.store, build, claim, "BUILD", LEASE)
    world.build_timeouts()
    assert world.row(build)["status"] == "CANCELLED"
