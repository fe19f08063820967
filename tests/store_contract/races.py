"""Calls that arrive at once, each on a connection of its own: exactly one wins, and nothing counts twice."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import Any

import pytest

from builder.store import builds, logs, nodes, outbox, rows
from tests.store_contract.world import LEASE, LIVE_MS, World, line, open_world, race, two_in_finalize

ROUNDS = 10


def claims(world: World, build: str, count: int) -> list[Any]:
    world.register(*(f"node-{n}" for n in range(count)))
    return [partial(builds.claim, world.store, build, f"node-{n}", f"nonce-{n}", LEASE) for n in range(count)]


def test_two_that_claim_a_build_at_once_are_one_owner(world: World) -> None:
    for _ in range(ROUNDS):
        build = world.submit()
        granted = [claimed for claimed in race(*claims(world, build, 2)) if claimed.row is not None]
        assert len(granted) == 1
        row = world.row(build)
        assert (row["claim"], row["attempt"], row["node_id"]) == (1, 1, granted[0].row["node_id"])


def test_eight_threads_grant_each_of_fifty_builds_once(world: World) -> None:
    ids = [world.submit() for _ in range(50)]
    granted: list[str] = []
    world.register(*(f"node-{number}" for number in range(8)))

    def work(name: str) -> None:
        for build in ids:
            if builds.claim(world.store, build, name, name, LEASE).row is not None:
                granted.append(build)

    race(*(partial(work, f"node-{number}") for number in range(8)))
    assert sorted(granted) == sorted(ids)


def test_a_claim_repeated_at_once_is_one_attempt(world: World) -> None:
    build = world.submit()
    repeated = partial(builds.claim, world.store, build, "node", "nonce", LEASE)
    assert [claimed.row["claim"] for claimed in race(*[repeated] * 4)] == [1] * 4
    assert world.row(build)["attempt"] == 1


def test_a_key_submitted_at_once_is_one_build(world: World) -> None:
    for number in range(ROUNDS):
        values = dict(world.row(world.submit())) | {"idempotency_key": f"k{number}"}
        del values["number"]
        both = [values | {"build_id": f"{letter}{number:019d}"} for letter in "xy"]
        answers = race(*(partial(builds.submit, world.store, one) for one in both))
        assert sorted(answer.outcome for answer in answers) == ["new", "same"]
        assert answers[0].row["build_id"] == answers[1].row["build_id"]


def test_a_batch_sent_twice_at_once_is_kept_once(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    for first in range(0, 3 * ROUNDS, 3):
        lines = [line(str(first + n)) for n in range(3)]
        race(*[partial(logs.append, world.store, build, claim, first, lines)] * 3)
    kept = [one for one in logs.read(world.store, build, 0) if one["o"] == "STDOUT"]
    assert [one["l"] for one in kept] == [str(n) for n in range(3 * ROUNDS)]


def test_lines_of_the_owner_and_of_the_control_side_at_once_are_all_kept(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)

    def send() -> None:
        for number in range(20):
            logs.append(world.store, build, claim, number, [line(str(number))])

    def write() -> None:
        for number in range(20):
            with world.store.transaction() as tx:
                row = rows.lock_one(tx, builds.builds.c.build_id == build)
                assert row is not None
                rows.write(tx, row, **logs.system(tx, 0, row, str(number)))

    race(send, write)
    lines = logs.read(world.store, build, 0)
    assert [one["s"] for one in lines] == list(range(1, 41))
    for stream in ("STDOUT", "SYSTEM"):
        assert [one["l"] for one in lines if one["o"] == stream] == [str(number) for number in range(20)]


def test_of_builds_with_one_key_planned_at_once_one_goes_on(world: World) -> None:
    for number in range(ROUNDS):
        owned = [(build, world.claim(build)) for build in (world.submit() for _ in range(4))]
        planned = [partial(builds.planned, world.store, *one, f"key{number}", "code", "go") for one in owned]
        verdicts = [found.verdict for found in race(*planned)]
        assert sorted(verdicts) == ["ATTACHED", "ATTACHED", "ATTACHED", "GO_ON"]
        primary = owned[verdicts.index("GO_ON")][0]
        assert {world.row(build)["attached_to"] for build, _ in owned} == {"", primary}


def test_a_build_planned_while_its_primary_ends_does_not_wait_for_ever(world: World) -> None:
    for number in range(ROUNDS):
        primary, late = world.submit(), world.submit()
        claim, later = world.claim(primary), world.claim(late)
        key = f"key{number}"
        assert builds.planned(world.store, primary, claim, key, "code", "go").verdict == "GO_ON"
        found, _ = race(
            partial(builds.planned, world.store, late, later, key, "code", "go"),
            partial(world.fail_work, primary, claim, "OutOfMemory"),
        )
        row, verdict = world.row(late), found.verdict
        assert (verdict, row["status"]) in (("GO_ON", "RUNNING"), ("ATTACHED", "PENDING"))
        assert row["attached_to"] == ""
        world.fail_work(late, row["claim"]) if verdict == "GO_ON" else builds.cancel(world.store, "acme", late)


def test_two_finalizers_adopt_different_builds(world: World) -> None:
    for build in [world.submit(repository=f"acme/{number}") for number in range(4)]:
        world.succeed_work(build, world.claim(build))
    adopted = race(*[partial(builds.adopt_finalize, world.store, LEASE)] * 4)
    found = [row["build_id"] for row in adopted if row is not None]
    assert len(found) == len(set(found)) >= 1
    while (row := builds.adopt_finalize(world.store, LEASE)) is not None:
        found.append(row["build_id"])
    assert len(found) == len(set(found)) == 4


def test_finalizers_that_adopt_at_once_are_never_two_at_one_repository(world: World) -> None:
    for number in range(ROUNDS):
        for build in [world.submit(repository=f"acme/{number}-{index % 2}") for index in range(6)]:
            world.succeed_work(build, world.claim(build))
        left = 6
        while left:
            adopted = race(*[partial(builds.adopt_finalize, world.store, LEASE)] * 4)
            found = [row for row in adopted if row is not None]
            repositories = [row["repository"] for row in found]
            assert len(repositories) == len(set(repositories)) >= 1
            for row in found:
                assert builds.publish(world.store, row["build_id"], row["claim"])
                assert builds.succeed(world.store, row["build_id"], row["claim"], ())
            left -= len(found)


def test_two_reconcilers_count_a_lost_owner_once(world: World) -> None:
    ids = [world.submit() for _ in range(ROUNDS)]
    for build in ids:
        world.claim(build)
    world.at[0] += LEASE + 1
    race(*[world.expire_leases] * 3)
    world.expire_leases()
    assert [(world.row(build)["status"], world.row(build)["failures"]) for build in ids] == [("PENDING", 1)] * ROUNDS


def test_a_finish_and_a_cancel_at_once_end_a_build_once(world: World) -> None:
    for _ in range(ROUNDS):
        build = world.submit()
        claim = world.claim(build)
        race(partial(world.fail_work, build, claim), partial(builds.cancel, world.store, "acme", build))
        assert world.row(build)["status"] in ("FAILED", "CANCELLED")
        reports = [json.loads(report["body"]) for report in world.reports(build)]
        assert len([report for report in reports if report["versionStatus"] == "VERSION_STATUS_FAILED"]) == 1


def test_of_two_builds_that_take_a_tag_at_once_the_newest_submitted_holds_it(world: World) -> None:
    for number in range(ROUNDS):
        old, new = two_in_finalize(world)
        tag = f"tag{number}"
        take = [
            partial(builds.publish, world.store, row["build_id"], row["claim"], [tag], "sha256:a") for row in (old, new)
        ]
        race(*take)
        held = [each() for each in take]
        assert [each.tags for each in held if each is not None] == [(), (tag,)]
        for row in (old, new):
            assert builds.succeed(world.store, row["build_id"], row["claim"], ())


def test_a_node_that_registers_twice_at_once_is_one_node(world: World) -> None:
    for number in range(ROUNDS):
        registered = partial(
            nodes.register, world.store, f"node-{number}", ["compile.go"], {"go-1.26": "d"}, 2, LIVE_MS
        )
        assert [one.drain for one in race(registered, registered)] == [False, False]
    assert len([node for node in nodes.all_nodes(world.store) if node.node_id.startswith("node-")]) == ROUNDS


def test_two_dispatchers_offer_and_everything_is_offered(world: World) -> None:
    ids = [world.submit(f"org{number % 3}") for number in range(12)]
    offer = partial(world.offer, 6)
    offered = [build for part in race(offer, offer) for build in part]
    assert len(set(offered)) >= 6, "a second dispatcher may repeat a hint, never lose one"
    world.at[0] += 5_001
    while some := offer():
        offered += some
        for build in some:
            world.claim(build)
    assert set(offered) == set(ids)


@pytest.mark.slow
def test_a_mixed_crowd_ends_every_build_once(world: World) -> None:
    """Workers that claim, plan one of two keys, fail or succeed; finalizers, cancels and reconcilers beside them."""
    ids = [world.submit() for _ in range(24)]
    world.register(*(f"node-{number}" for number in range(3)), *(f"last-{turn}" for turn in range(9)))
    stop = threading.Event()

    def work(name: str) -> None:
        for turn in range(3):
            for index, build in enumerate(ids):
                granted = builds.claim(world.store, build, name, f"{name}-{turn}", LEASE)
                if granted.row is None:
                    continue
                claim = granted.row["claim"]
                if builds.planned(world.store, build, claim, f"key{index % 2}", "code", "go").verdict != "GO_ON":
                    continue
                reason = ("", "CompileFailed", "OutOfMemory")[(index + turn) % 3]
                logs.append(world.store, build, claim, 0, [line("x")])
                world.fail_work(build, claim, reason) if reason else world.succeed_work(build, claim)

    def finalize() -> None:
        while not stop.is_set():
            row = builds.adopt_finalize(world.store, LEASE)
            if row is not None and builds.publish(world.store, row["build_id"], row["claim"]):
                builds.succeed(world.store, row["build_id"], row["claim"], ())
            stop.wait(0.002)

    def sweep() -> None:
        while not stop.is_set():
            world.expire_leases()
            world.offer(4)
            stop.wait(0.005)

    def cancel() -> None:
        for build in ids[::5]:
            builds.cancel(world.store, "acme", build)

    def owners() -> None:
        try:
            race(*(partial(work, f"node-{number}") for number in range(3)), cancel)
            for turn in range(9):  # what was queued again meanwhile
                work(f"last-{turn}")
        finally:
            stop.set()

    race(owners, finalize, finalize, sweep)
    world.at[0] += LEASE  # what a finalizer that was stopped still holds
    for build in ids:
        world.finalize(build)
    assert {world.row(build)["status"] for build in ids} <= {"SUCCEEDED", "FAILED", "CANCELLED"}
    for build in ids:
        lines = logs.read(world.store, build, 0)
        assert [one["s"] for one in lines] == list(range(1, len(lines) + 1))
        ends = [one for one in lines if one["o"] == "SYSTEM" and one["l"].startswith(("SUCCEEDED", "FAILED", "CANCEL"))]
        assert len(ends) == 1
    assert len(outbox.due(world.store, 10_000)) == sum(world.row(build)["report_sequence"] for build in ids)


def test_two_that_open_an_empty_store_at_once_make_it_once(empty_url: str) -> None:
    opened = race(partial(open_world, empty_url), partial(open_world, empty_url))
    try:
        assert [one.row(one.submit())["status"] for one in opened] == ["PENDING", "PENDING"]
    finally:
        for one in opened:
            one.store.engine.dispose()
