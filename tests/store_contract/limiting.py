"""The limit of an organization's image builds at work: others wait in the queue, and nobody else waits for them."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from builder.store import builds, jobs, offers, sweeps
from tests.store_contract.untaken import system_texts
from tests.store_contract.watching import adopt, launched, mark
from tests.store_contract.world import LEASE, LIVE_MS, World, race

MOST = 2
IMAGE: dict[str, Any] = {"queue": "image", "toolchain": ""}


def images(world: World, count: int, organization: str = "acme") -> list[str]:
    world.register("node", queue="image")
    return [world.submit(organization, **IMAGE) for _ in range(count)]


def offer(world: World, limit: int = 9) -> list[str]:
    with world.store.transaction() as tx:
        return offers.offerable(tx, world.store.now(tx), "image", ("",), limit, MOST)


def claim(world: World, build: str, node: str = "node") -> builds.Claimed:
    return builds.claim(world.store, build, node, f"{node} {build}", LEASE, MOST)


def test_no_more_are_offered_than_may_be_at_work(world: World) -> None:
    first, second, third, fourth = images(world, 4)
    assert offer(world) == [first, second]
    assert offer(world) == [], "two hints are enough"
    for build in (first, second):
        assert claim(world, build).row
    assert offer(world) == []
    world.fail_work(first, world.row(first)["claim"])
    assert offer(world) == [third]
    assert offer(world) == [], "one is at work, the other is hinted at"
    world.at[0] += 5_000
    assert offer(world) == [third], "its hint was lost; it takes no room from itself"
    assert world.row(fourth)["status"] == "PENDING"


@pytest.mark.parametrize("stage", ["WORK", "JOB without a watcher", "JOB"])
def test_a_claim_beyond_the_limit_is_refused_until_one_ends(world: World, stage: str) -> None:
    first, second, third = images(world, 3)
    for build in (first, second):
        granted = claim(world, build).row
        assert granted
        if stage != "WORK":
            mark(world, build, granted["claim"])
            assert jobs.launched(world.store, build, granted["claim"], 0).outcome == "done"
    ending = (second, world.row(second)["claim"])
    if stage == "JOB":
        row = adopt(world)
        ending = (row["build_id"], row["claim"])
    refused = claim(world, third)
    assert refused.row is None and "2 image builds at work" in refused.refused
    assert (world.row(third)["status"], world.row(third)["claim"]) == ("PENDING", 0)
    if stage == "JOB without a watcher":
        with world.store.transaction() as tx:  # the queue timeout of a Job that nobody watches
            world.at[0] += 3_600_000
            assert len(sweeps.run(tx, world.store.now(tx), [sweeps.unwatched()])) == 2
    else:
        world.succeed_work(*ending)  # FINALIZE: the Job has ended
    assert claim(world, third).row


def test_a_repeated_claim_is_granted_though_the_limit_is_reached(world: World) -> None:
    for build in images(world, MOST):
        first, again = claim(world, build).row, claim(world, build).row
        assert first and again and first["claim"] == again["claim"]


def test_a_refused_hint_is_spent_and_comes_again_once_there_is_room(world: World) -> None:
    first, second, third = images(world, 3)
    assert world.offer(9, "image", ()) == [first, second, third]  # by a process without this limit
    claim(world, first), claim(world, second)
    assert claim(world, third).row is None
    assert [world.row(third)[name] for name in ("offers", "offered_at", "offer_from")] == [0, 0, world.at[0]]
    assert offer(world) == []
    world.fail_work(first, world.row(first)["claim"])
    assert offer(world) == [third]


def test_others_are_neither_held_up_nor_counted(world: World) -> None:
    for build in images(world, MOST):
        assert claim(world, build).row
    waiting = images(world, 3)
    world.register("go")
    compiled = world.submit()
    assert builds.claim(world.store, compiled, "go", "n", LEASE, MOST).row, "its nodes are not the cluster"
    others = images(world, 3, "other")
    assert offer(world) == others[:MOST]
    assert claim(world, others[0]).row
    assert {world.row(build)["offers"] for build in waiting} == {0}


def test_organizations_at_their_limit_take_no_place_in_the_round(world: World) -> None:
    full = [f"a{number:03d}" for number in range(offers.ORGANIZATIONS)]
    for organization in full:
        for build in images(world, MOST, organization):
            assert claim(world, build).row
        images(world, 1, organization)
    (last,) = images(world, 1, "z")
    assert offer(world) == [last]


def test_of_claims_at_once_no_more_are_granted(world: World) -> None:
    names = [f"node-{number}" for number in range(4)]
    world.register(*names, queue="image")
    for number in range(5):
        waiting = [world.submit(f"org{number}", **IMAGE) for _ in names]
        answers = race(*(partial(claim, world, *one) for one in zip(waiting, names, strict=True)))
        assert len([answer for answer in answers if answer.row]) == MOST


def test_a_build_that_waits_for_others_says_so_once(world: World) -> None:
    at_work = images(world, MOST)
    assert all(claim(world, build).row for build in at_work)
    waiting, last = images(world, 2)
    (other,) = images(world, 1, "other")
    seen: sweeps.Warned = {}

    def warned() -> list[str]:
        due = sweeps.look(world.store, LEASE, LIVE_MS, seen, MOST)
        with world.store.transaction() as tx:
            rows, after = sweeps.warn_unschedulable(tx, world.store.now(tx), due.unschedulable, LEASE, seen)
        seen.clear()
        seen.update(after)
        return [row["build_id"] for row in rows]

    assert warned() == []
    world.at[0] += LEASE
    world.register("node", queue="image")
    assert (warned(), warned()) == ([waiting, last], [])
    says = (
        "its organization has 2 image builds at work, as many as it may (running_jobs); this build waits for one to end"
    )
    assert system_texts(world, waiting) == [says]
    assert system_texts(world, other) == []
    world.fail_work(at_work[0], world.row(at_work[0])["claim"])
    assert warned() == []
    assert claim(world, waiting).row
    assert warned() == [], "its organization is full again"
    assert system_texts(world, last) == [says]


def test_what_is_submitted_is_left_to_a_whole_look(world: World) -> None:
    first, second, third = images(world, 3)
    assert offers.offer_submitted(world.store, "image", [first], LIVE_MS) is None
    world.register("node-2", queue="image")
    looked = offers.offer_at_once(world.store, LIVE_MS, MOST)
    assert [build for _, build in looked.hints] == [first, second]
    assert (looked.full, looked.held_back) == (set(), {"image"})
    assert json.loads(world.row(third)["finished"]) == []
    assert offers.offer(world.store, offers.waiting(world.store, LIVE_MS), {}, MOST).hints == []


def test_a_retry_waits_as_any_other(world: World) -> None:
    build = launched(world)
    assert world.row(build)["stage"] == "JOB"
    first, second, third = images(world, 3)
    for one in (first, second):
        assert claim(world, one).row
    world.fail_work(first, world.row(first)["claim"], "RegistryUnavailable")
    assert claim(world, third).row
    world.at[0] += 60_000
    assert claim(world, first).row is None
    world.fail_work(second, world.row(second)["claim"])
    assert claim(world, first).row


@pytest.mark.parametrize("most", [MOST, 0])
def test_the_queue_timeout_of_a_build_that_waits_for_others_of_its_organization_says_so(
    world: World, most: int
) -> None:
    late, *others = images(world, MOST + 1)
    for build in others:
        assert claim(world, build).row
    other = world.submit("other", queue="image", toolchain="", queue_timeout_ms=1000)
    world.at[0] = max(world.row(build)["queue_until"] for build in (late, other))
    world.sweep(sweeps.queue_timeouts({"image": {""}}, most))
    says = [json.loads(world.row(build)["failure"])["message"].partition(" s")[2] for build in (late, other)]
    mine = "; its organization has 2 image builds at work, as many as it may (running_jobs)"
    assert says == [mine if most else " for a free slot", " for a free slot"]
