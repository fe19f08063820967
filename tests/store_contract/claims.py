"""Submission, claims and their end: one owner at a time, and what it loses."""

from __future__ import annotations

import itertools

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, logs
from tests.store_contract.world import CAN, LEASE, World


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
    assert builds.claim(world.store, build, "node", "another", LEASE, CAN).row is None


@pytest.mark.parametrize("can", [(set(), {"go-1.26"}), ({"compile.go"}, {"go-1.19"})])
def test_a_node_without_queue_or_toolchain_gets_no_claim(world: World, can: tuple[set[str], set[str]]) -> None:
    assert builds.claim(world.store, world.submit(), "node", "n", LEASE, can).row is None


def test_a_stale_owner_changes_nothing(world: World) -> None:
    build = world.submit()
    old = world.claim(build)
    world.at[0] += LEASE + 1
    builds.expire_leases(world.store)
    new = world.claim(build, "second")
    assert new > old
    before = dict(world.row(build))
    assert builds.heartbeat(world.store, build, old, "BUILD", LEASE) is None
    assert builds.planned(world.store, build, old, "key", "code", "go") == "STALE"
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
            assert builds.claim(world.store, build, "node", "x", LEASE, CAN).row is None
            world.at[0] += 60_000
    assert world.row(build)["status"] == "FAILED"


@pytest.mark.parametrize(("asked", "waits"), [(0, 1_000), (500, 1_000), (90_000, 90_000), (86_400_000, 600_000)])
def test_a_retry_waits_as_long_as_the_other_side_asked_for(world: World, asked: int, waits: int) -> None:
    build = world.submit()
    failure = pb.Failure(reason="RegistryUnavailable", message="m", retry_after_ms=asked)
    request = pb.FinishRequest(build_id=build, claim=world.claim(build), failure=failure)
    builds.finish(world.store, request, LEASE, 1_000)
    assert world.row(build)["not_before"] == world.at[0] + waits


def test_three_lost_owners_are_poison(world: World) -> None:
    build = world.submit()
    for number in range(3):
        world.claim(build, str(number))
        world.at[0] += LEASE + 1
        builds.expire_leases(world.store)
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
