"""Submission, claims and their end: one owner at a time, and what it loses."""

from __future__ import annotations

import itertools
import json

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, logs, membership, nodes, offers
from builder.store.granting import AVOID_HINTS, AVOID_MS, AVOID_PAUSE_MS
from builder.store.offers import REFUSED
from tests.store_contract.world import LEASE, LIVE_MS, World, line


def test_a_submitted_build_has_its_record_and_first_report(world: World) -> None:
    build = world.submit()
    assert world.row(build)["status"] == "PENDING"
    assert [report["sequence"] for report in world.reports(build)] == [1]


def test_an_idempotency_key_answers_the_same_build_or_a_conflict(world: World) -> None:
    first = world.submit(idempotency_key="k", request_hash="h")
    values = dict(world.row(first))
    again = builds.submit(world.store, values | {"build_id": "b" * 20})
    other = builds.submit(world.store, values | {"build_id": "c" * 20, "request_hash": "x"})
    assert (again.outcome, again.row["build_id"]) == ("same", first)
    assert (other.outcome, other.row["build_id"]) == ("conflict", first)


def test_a_key_seen_by_another_transaction_a_moment_earlier_is_the_known_case(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = world.submit(idempotency_key="k")
    values = dict(world.row(first)) | {"build_id": "z" * 20}
    del values["number"]
    look, looks = builds._known, itertools.count()
    monkeypatch.setattr(builds, "_known", lambda tx, row: None if next(looks) == 0 else look(tx, row))
    again = builds.submit(world.store, values)
    assert (again.outcome, again.row["build_id"]) == ("same", first)


def test_a_claim_repeated_with_its_nonce_is_the_same_claim_with_a_new_lease(world: World) -> None:
    build = world.submit()
    first = world.claim(build)
    world.at[0] += 5_000
    assert world.claim(build) == first
    assert world.row(build)["lease_until"] == world.at[0] + LEASE
    assert world.row(build)["attempt"] == 1
    assert builds.claim(world.store, build, "node", "another", LEASE).row is None


@pytest.mark.parametrize(("queue", "toolchain"), [("compile.python", "go-1.26"), ("compile.go", "go-1.19")])
def test_a_node_without_queue_or_toolchain_gets_no_claim(world: World, queue: str, toolchain: str) -> None:
    world.register("other", queue=queue, toolchain=toolchain)
    assert builds.claim(world.store, world.submit(), "other", "n", LEASE).refused == "this node cannot build it"


def refused(world: World, build: str, node: str) -> str:
    return builds.claim(world.store, build, node, f"of {node}", LEASE).refused


@pytest.mark.parametrize("lost", [False, True])
def test_a_build_that_failed_on_a_node_goes_to_another_one_while_there_is_one(world: World, lost: bool) -> None:
    world.register("other")
    build = world.submit()
    claim = world.claim(build)
    if lost:
        world.at[0] += LEASE + 1
        world.expire_leases()
        world.register("node", "other")
    else:
        world.fail_work(build, claim, "NodeDiskFull")
        world.at[0] += 1_000
    assert "another node can take it" in refused(world, build, "node")
    row = world.row(build)
    assert (row["status"], row["offered_at"], row["offers"]) == ("PENDING", 0, REFUSED)
    assert row["offer_from"] == world.at[0], "the hint that this claim used up comes again"
    for _ in range(AVOID_HINTS - 1):
        assert "another node can take it" in refused(world, build, "node")
    row = world.row(build)
    assert (row["offers"], row["offer_from"]) == (0, world.at[0] + AVOID_PAUSE_MS), "but not again and again"
    assert refused(world, build, "other") == ""
    assert (world.row(build)["node_id"], world.row(build)["avoid"]) == ("other", "")


def test_a_build_waits_a_bounded_time_for_another_node(world: World) -> None:
    world.register("other")
    build = world.submit()
    world.fail_work(build, world.claim(build), "Internal")
    world.at[0] += 1_000 + AVOID_MS - 1
    world.register("node", "other")
    assert "another node" in refused(world, build, "node")
    world.at[0] += 1
    assert refused(world, build, "node") == ""


@pytest.mark.parametrize("other", ["none", "unseen", "drains", "lacks room", "other queue", "other toolchain"])
def test_a_node_that_nobody_replaces_tries_again_itself(world: World, other: str) -> None:
    build = world.submit()
    if other != "none":
        queue = "compile.python" if other == "other queue" else "compile.go"
        world.register("other", queue=queue, toolchain="go-1.19" if other == "other toolchain" else "go-1.26")
    if other == "drains":
        membership.set_drain(world.store, "other", True)
    if other == "lacks room":
        can = (["compile.go"], {"go-1.26": "sha256:0"}, 0, LIVE_MS)
        nodes.register(world.store, "other", *can, lacks="its disk is full")
    world.fail_work(build, world.claim(build), "Internal")
    world.at[0] += 1_000
    if other == "unseen":
        world.at[0] += LIVE_MS
        world.register("node")
    assert refused(world, build, "node") == ""


def test_a_node_that_lacks_something_offers_no_slot_and_says_why(world: World) -> None:
    world.submit()
    can = (["compile.go"], {"go-1.26": "sha256:0"}, 0, LIVE_MS)
    assert nodes.register(world.store, "node", *can, lacks="its disk is full").changed
    assert not nodes.register(world.store, "node", *can, lacks="its disk is full").changed
    assert offers.waiting(world.store, LIVE_MS) == []
    assert nodes.states(world.store, LIVE_MS) == {"node": ("lacking", "its disk is full")}
    world.register("node")
    assert nodes.states(world.store, LIVE_MS) == {"node": ("ready", "")}
    assert [each.queue for each in offers.waiting(world.store, LIVE_MS)] == ["compile.go"]


def test_a_node_is_in_one_state(world: World) -> None:
    world.register("gone", "drained", "leaving", "full")
    world.at[0] += LIVE_MS
    world.register("drained", "node")
    membership.set_drain(world.store, "drained", True)
    nodes.register(world.store, "leaving", [], {}, 2, LIVE_MS)
    nodes.register(world.store, "full", ["compile.go"], {}, 0, LIVE_MS, lacks="its disk is full")
    found = {name: state for name, (state, _) in nodes.states(world.store, LIVE_MS).items()}
    assert found == {
        "gone": "away", "drained": "draining", "leaving": "draining", "full": "lacking", "node": "ready"
    }  # fmt: skip


@pytest.mark.parametrize("reason", ["CompileFailed", ""])
def test_values_of_build_arguments_end_with_their_build(world: World, reason: str) -> None:
    request = json.dumps({"name": "n", "code": {"compile": {"buildArgs": {"TOKEN": "s3cret"}}}})
    build = world.submit(request=request, idempotency_key="k")
    claim = world.claim(build)
    assert world.row(build)["request"] == request
    if reason:
        world.fail_work(build, claim, reason)
    else:
        world.succeed_work(build, claim)
        world.finalize(build)
    kept = world.row(build)
    assert json.loads(kept["request"])["code"]["compile"]["buildArgs"] == {"TOKEN": "***"}
    assert builds.submit(world.store, dict(kept) | {"build_id": "b" * 20}).outcome == "same"


def test_a_node_that_never_registered_gets_no_claim(world: World) -> None:
    build = world.submit()
    with pytest.raises(builds.UnknownNode):
        builds.claim(world.store, build, "stranger", "n", LEASE)
    assert world.row(build)["status"] == "PENDING"


def test_another_node_with_the_right_claim_is_stale(world: World) -> None:
    """A claim is a small number: the node that it was granted to is a part of the fence of each write."""
    build = world.submit()
    claim = world.claim(build)
    before, events = dict(world.row(build)), len(world.events)
    failure = pb.Failure(reason="CompileFailed", message="m")
    request = pb.FinishRequest(build_id=build, claim=claim, failure=failure)
    for node, stale in (("other", True), ("node", False)):
        writes = (
            builds.heartbeat(world.store, build, claim, "BUILD", LEASE, node) is None,
            builds.planned(world.store, build, claim, "key", "code", "go", (), node).verdict == "STALE",
            logs.append(world.store, build, claim, 0, [line("x")], node)[0],
            builds.finish(world.store, request, 1000, node).outcome == "stale",
        )
        assert writes == (stale,) * 4
        if stale:
            assert builds.hand_back(world.store, build, claim, "drain", node) is None
            assert (dict(world.row(build)), len(world.events)) == (before, events)
    assert builds.finish(world.store, request, 1000, "other").outcome == "stale", "a kept finish too"
    assert builds.finish(world.store, request, 1000, "node").outcome == "done"
    again = world.submit()
    assert builds.hand_back(world.store, again, world.claim(again), "drain", "node") is not None


def test_a_build_without_a_key_waits_for_no_other(world: World) -> None:
    for _ in range(2):
        build = world.submit()
        assert builds.planned(world.store, build, world.claim(build), "", "code", "go").verdict == "GO_ON"


def test_a_stale_owner_changes_nothing(world: World) -> None:
    build = world.submit()
    old = world.claim(build)
    world.at[0] += LEASE + 1
    world.expire_leases()
    new = world.claim(build, "second")
    assert new > old
    before = dict(world.row(build))
    assert builds.heartbeat(world.store, build, old, "BUILD", LEASE) is None
    assert builds.planned(world.store, build, old, "key", "code", "go").verdict == "STALE"
    assert logs.append(world.store, build, old, 0, [{"t": 0, "p": "BUILD", "o": "STDOUT", "l": "x"}])[0]
    assert world.fail_work(build, old).outcome == "stale"
    assert world.succeed_work(build, old).outcome == "stale"
    assert builds.hand_back(world.store, build, old, "drain") is None
    assert builds.publish(world.store, build, old) is None
    assert builds.succeed(world.store, build, old, ()) is None
    assert dict(world.row(build)) == before


def test_platform_failures_are_retried_with_backoff_until_none_is_left(world: World) -> None:
    build = world.submit()
    for number in range(3):
        assert world.fail_work(build, world.claim(build, str(number)), "RegistryUnavailable").outcome == "done"
        if number < 2:
            assert builds.claim(world.store, build, "node", "x", LEASE).row is None
            world.at[0] += 60_000
    assert world.row(build)["status"] == "FAILED"


@pytest.mark.parametrize(("asked", "waits"), [(0, 1_000), (500, 1_000), (90_000, 90_000), (86_400_000, 600_000)])
def test_a_retry_waits_as_long_as_the_other_side_asked_for(world: World, asked: int, waits: int) -> None:
    build = world.submit()
    failure = pb.Failure(reason="RegistryUnavailable", message="m", retry_after_ms=asked)
    request = pb.FinishRequest(build_id=build, claim=world.claim(build), failure=failure)
    builds.finish(world.store, request, 1_000)
    assert world.row(build)["not_before"] == world.at[0] + waits


def test_three_lost_owners_are_poison(world: World) -> None:
    build = world.submit()
    for number in range(3):
        world.claim(build, str(number))
        world.at[0] += LEASE + 1
        world.expire_leases()
    assert world.row(build)["status"] == "FAILED"
    assert '"WorkerLost"' in world.row(build)["failure"]


def test_a_reason_of_another_version_is_kept_as_internal(world: World) -> None:
    build = world.submit()
    for number in range(3):
        world.fail_work(build, world.claim(build, str(number)), "NeverHeardOf")
        world.at[0] += 60_000
    assert '"Internal"' in world.row(build)["failure"] and "NeverHeardOf: m" in world.row(build)["failure"]


def test_a_repeated_finish_after_a_retry_is_answered_with_the_record(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    world.fail_work(build, claim, "RegistryUnavailable")
    assert world.fail_work(build, claim, "RegistryUnavailable").outcome == "done"


def test_a_repeated_finish_after_adoption_is_answered_with_the_record(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    world.succeed_work(build, claim)
    builds.adopt_finalize(world.store, LEASE)
    assert world.succeed_work(build, claim).outcome == "done"


def test_the_owner_of_the_work_renews_no_lease_in_finalize(world: World) -> None:
    """Neither under its old claim nor by a guess of the new one: FINALIZE is the control side's."""
    build = world.submit()
    claim = world.claim(build)
    world.succeed_work(build, claim)
    adopted = builds.adopt_finalize(world.store, LEASE)
    assert adopted is not None
    before = world.row(build)
    world.at[0] += 1
    for number in (claim, adopted["claim"]):
        assert builds.heartbeat(world.store, build, number, "BUILD", LEASE) is None
        assert builds.planned(world.store, build, number, "key", "code", "go").verdict == "STALE"
    assert world.row(build) == before


def test_a_claim_names_the_version_of_the_last_success_of_the_same_app(world: World) -> None:
    def built(version: str, end: bool = True, **more: str) -> None:
        build = world.submit(**more)
        claim = world.claim(build)
        key = f"key-{build}"
        assert (
            builds.planned(world.store, build, claim, key, "code", "go", version=version, warnings=["w"]).verdict
            == "GO_ON"
        )
        assert (world.row(build)["runtime_version"], world.row(build)["warnings"]) == (version, '["w"]')
        if not end:
            world.fail_work(build, claim)
            return
        world.succeed_work(build, claim)
        world.finalize(build)

    def last(**more: str) -> tuple[str, str] | None:
        build = world.submit(**more)
        first = builds.claim(world.store, build, "node", "n", LEASE)
        again = builds.claim(world.store, build, "node", "n", LEASE)
        assert first.row is not None and again.last == first.last
        world.fail_work(build, first.row["claim"])
        return first.last

    assert last() is None
    built("1.24")
    assert last() == ("go", "1.24")
    built("1.27", end=False)
    built("1.25", name="another")
    built("1.23", organization="other")
    assert last() == ("go", "1.24"), "a failure, another app and another organization decide nothing"
    built("1.26")
    assert last() == ("go", "1.26") and last(name="another") == ("go", "1.25")
