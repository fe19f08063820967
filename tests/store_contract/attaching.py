"""Builds with the same key: one runs, the others wait for it."""

from __future__ import annotations

from builder.store import builds
from tests.store_contract.world import LEASE, World, attached


def test_attached_builds_share_success_with_their_own_end(world: World) -> None:
    primary, claim, followers = attached(world)
    world.succeed_work(primary, claim)
    world.finalize(primary)
    for follower in followers:
        world.finalize(follower)
        assert world.row(follower)["status"] == "SUCCEEDED"


def test_attached_builds_fail_alike_for_user_code(world: World) -> None:
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim)
    assert [world.row(one)["status"] for one in followers] == ["FAILED"] * 3


def test_a_limit_of_the_primary_is_no_verdict_on_its_followers(world: World) -> None:
    """Each has limits and a time of its own. The words of state.md: user_code but for limits, or poison."""
    for reason in ("Timeout", "OutOfMemory", "DiskQuotaExceeded", "ProcessLimitExceeded"):
        primary, claim, followers = attached(world)
        world.fail_work(primary, claim, reason)
        assert world.row(primary)["status"] == "FAILED"
        assert [world.row(one)["status"] for one in followers] == ["PENDING"] * 3, reason
        for one in followers:
            builds.cancel(world.store, "acme", one)


def test_a_build_timeout_of_the_primary_is_none_of_its_followers(world: World) -> None:
    primary, _, followers = attached(world)
    world.at[0] += 600_000 + LEASE
    world.build_timeouts()
    assert world.row(primary)["status"] == "FAILED"
    assert [world.row(one)["status"] for one in followers] == ["PENDING"] * 3


def test_after_a_limit_or_a_cancel_the_oldest_is_queued_and_the_others_follow_it(world: World) -> None:
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim, "OutOfMemory")
    assert [world.row(one)["attached_to"] for one in followers] == ["", followers[0], followers[0]]
    builds.cancel(world.store, "acme", followers[0])
    assert [world.row(one)["attached_to"] for one in followers[1:]] == ["", followers[1]]


def test_a_retry_with_another_key_hands_its_followers_over(world: World) -> None:
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim, "RegistryUnavailable")
    assert [world.row(one)["attached_to"] for one in followers] == [primary] * 3
    world.at[0] += 60_000
    assert builds.planned(world.store, primary, world.claim(primary, "2"), "other", "code", "go").verdict == "GO_ON"
    assert [world.row(one)["attached_to"] for one in followers] == ["", followers[0], followers[0]]
    late = world.submit()
    assert builds.planned(world.store, late, world.claim(late), "key", "code", "go").verdict == "ATTACHED"
    assert world.row(late)["attached_to"] == followers[0]
    number = world.claim(followers[0], "2")
    assert builds.planned(world.store, followers[0], number, "key", "code", "go").verdict == "GO_ON"


def test_a_build_for_another_repository_is_not_attached(world: World) -> None:
    attached(world)
    other = world.submit(repository="acme/other")
    assert builds.planned(world.store, other, world.claim(other), "key", "code", "go").verdict == "GO_ON"


def test_a_primary_is_never_attached(world: World) -> None:
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim, "RegistryUnavailable")  # PENDING again: a retry is not an end
    world.at[0] += 60_000
    again = world.claim(primary, "again")
    builds.planned(world.store, primary, again, "key", "code", "go")
    oldest = followers[0]
    if world.row(oldest)["attached_to"] == "":
        number = world.claim(oldest, "again")
        builds.planned(world.store, oldest, number, "key", "code", "go")
    rows = [world.row(one) for one in (primary, *followers)]
    primaries = {row["attached_to"] for row in rows if row["attached_to"]}
    assert not [row["build_id"] for row in rows if row["attached_to"] and row["build_id"] in primaries]
