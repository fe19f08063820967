"""FINALIZE: adopt (in due order, one for each repository), release, the PUBLISH mark, tags."""

from __future__ import annotations

import json
from typing import Any

import pytest

from builder.store import builds
from tests.store_contract.world import LEASE, World, in_finalize, two_in_finalize


def tags_of(world: World, row: Any, tag: str, digest: str) -> tuple[str, ...] | None:
    """The tags that the mark gives a build; None when it has no mark."""
    published = builds.publish(world.store, row["build_id"], row["claim"], [tag, tag], digest)
    return None if published is None else published.tags


def test_the_newest_submitted_holds_a_tag_and_only_its_owner_takes_it(world: World) -> None:
    old, new = two_in_finalize(world)
    assert tags_of(world, new, "latest", "sha256:b") == ("latest",)
    assert tags_of(world, old, "latest", "sha256:a") == ()
    assert tags_of(world, new, "latest", "sha256:b") == ("latest",), "repeatable"
    assert tags_of(world, old, "other", "sha256:a") == ("other",)
    assert builds.tag_digest(world.store, "acme/n", "latest") == "sha256:b"
    world.at[0] += LEASE
    adopted = builds.adopt_finalize(world.store, LEASE)
    assert adopted is not None and adopted["build_id"] == old["build_id"]
    assert tags_of(world, old, "third", "sha256:a") is None, "its claim is stale"
    assert builds.tag_digest(world.store, "acme/n", "third") == ""


def test_a_build_whose_tag_a_newer_one_took_meanwhile_does_not_end_before_it_points_there(world: World) -> None:
    old, new = two_in_finalize(world)
    assert tags_of(world, old, "latest", "sha256:a") == ("latest",)
    assert tags_of(world, new, "latest", "sha256:b") == ("latest",)
    with pytest.raises(builds.TagsMoved) as moved:
        builds.succeed(world.store, old["build_id"], old["claim"], (), {"latest": "sha256:a"})
    assert moved.value.tags == {"latest": "sha256:b"}
    assert world.row(old["build_id"])["status"] == "RUNNING"
    assert builds.succeed(world.store, old["build_id"], old["claim"], (), {"latest": "sha256:b"})


def test_adopting_several_takes_one_of_each_repository_and_names_that_others_wait(world: World) -> None:
    first, second = waiting(world), waiting(world)
    other, third = waiting(world, repository="acme/other"), waiting(world, repository="acme/third")
    adopted = builds.adopt_due(world.store, LEASE, 2, look=False)
    assert ([row["build_id"] for row in adopted.rows], adopted.left) == ([first, other], True)
    adopted = builds.adopt_due(world.store, LEASE, 2)
    assert ([row["build_id"] for row in adopted.rows], adopted.left) == ([third], True)
    assert builds.adopt_due(world.store, LEASE, 2) == builds.AdoptedBuilds(left=True), "its repository is busy"
    for build in (first, other, third):
        row = world.row(build)
        assert builds.publish(world.store, build, row["claim"]) and builds.succeed(world.store, build, row["claim"], ())
    adopted = builds.adopt_due(world.store, LEASE, 2)
    assert ([row["build_id"] for row in adopted.rows], adopted.left) == ([second], False)
    assert builds.adopt_due(world.store, LEASE, 2, look=False) == builds.AdoptedBuilds()


def test_publish_of_a_build_whose_cancel_was_asked_for_cancels_it(world: World) -> None:
    row = in_finalize(world)
    with world.store.engine.begin() as tx:
        tx.execute(builds.builds.update().values(cancel_requested=True))
    assert builds.publish(world.store, row["build_id"], row["claim"]) is None
    assert world.row(row["build_id"])["status"] == "CANCELLED"


def test_a_refused_artifact_costs_its_attempt_a_retry_and_the_last_one_the_build(world: World) -> None:
    build, dead = in_finalize(world)["build_id"], "the tag is another's"
    for retries in (1, 2):
        claim = world.row(build)["claim"]
        assert builds.refuse(world.store, build, claim, dead, 1_000)
        assert builds.refuse(world.store, build, claim, dead, 1_000) is None, "stale when it is repeated"
        row = world.row(build)
        assert (row["status"], row["retries"], row["failures"], row["artifact"]) == ("PENDING", retries, 0, "")
        assert (row["avoid"], row["not_before"]) == ("node", world.at[0] + 1_000 * retries)
        world.at[0] += 600_000
        world.succeed_work(build, world.claim(build, f"n{retries}"))
        assert builds.adopt_finalize(world.store, LEASE) is not None
    assert builds.refuse(world.store, build, world.row(build)["claim"], dead, 1_000)
    row = world.row(build)
    assert (row["status"], json.loads(row["failure"])["reason"], row["artifact"]) == ("FAILED", "Internal", "")


def test_behind_the_mark_no_artifact_is_refused(world: World) -> None:
    row = in_finalize(world)
    assert builds.publish(world.store, row["build_id"], row["claim"])
    assert builds.refuse(world.store, row["build_id"], row["claim"], "too late", 1_000) is None
    assert world.row(row["build_id"])["status"] == "RUNNING"


def test_what_the_control_side_found_takes_the_place_of_what_was_reported(world: World) -> None:
    row = in_finalize(world)
    found = json.dumps({"digest": "sha256:" + "a" * 64, "reference": "ours", "sizeBytes": "7"})
    published = builds.publish(world.store, row["build_id"], row["claim"], (), "", found)
    assert published and builds.succeed(world.store, row["build_id"], row["claim"], ())
    assert world.row(row["build_id"])["artifact"] == found


def test_a_release_costs_nothing_and_after_the_mark_it_only_goes_forward(world: World) -> None:
    build = in_finalize(world)["build_id"]
    for _ in range(5):
        builds.release_finalize(world.store, build, world.row(build)["claim"])
        assert builds.adopt_finalize(world.store, LEASE) is None
        world.at[0] += 60_000
        assert builds.adopt_finalize(world.store, LEASE) is not None
    assert world.row(build)["failures"] == 0
    assert builds.publish(world.store, build, world.row(build)["claim"])
    world.at[0] += 10_000_000
    assert not world.build_timeouts()
    for _ in range(5):
        assert builds.adopt_finalize(world.store, LEASE) is not None
        world.at[0] += LEASE
    assert builds.cancel(world.store, "acme", build)
    world.finalize(build)
    assert world.row(build)["status"] == "SUCCEEDED"


def waiting(world: World, **fields: Any) -> str:
    """A build whose work has ended now; it waits in FINALIZE."""
    build = world.submit(**fields)
    world.succeed_work(build, world.claim(build))
    return build


def adopted(world: World) -> str:
    """The build that is adopted next; "" for none."""
    row = builds.adopt_finalize(world.store, LEASE)
    return str(row["build_id"]) if row is not None else ""


def test_the_build_that_has_been_due_for_longest_is_taken_first(world: World) -> None:
    oldest, second, third = (world.submit(repository=f"acme/{number}") for number in range(3))
    for build in (third, second):  # the work ends in another order than it was asked for
        world.succeed_work(build, world.claim(build))
        world.at[0] += 1
    assert adopted(world) == third
    builds.release_finalize(world.store, third, world.row(third)["claim"])
    world.at[0] += 10_000
    world.succeed_work(oldest, world.claim(oldest))
    world.at[0] += 1
    assert [adopted(world) for _ in range(4)] == [second, third, oldest, ""]


def test_of_two_that_are_due_since_one_moment_the_first_submitted_is_taken_first(world: World) -> None:
    first, second = (world.submit(repository=f"acme/{number}") for number in range(2))
    for build in (second, first):
        world.succeed_work(build, world.claim(build))
    assert [adopted(world), adopted(world)] == [first, second]


def test_builds_that_are_in_trouble_do_not_keep_a_younger_one_waiting(world: World) -> None:
    """Each attempt of the two takes longer than their pause, so that they are always due again."""
    troubled = [waiting(world, repository=f"acme/{number}") for number in range(2)]
    healthy = waiting(world, organization="beta")
    taken = []
    while healthy not in taken:
        taken.append(adopted(world))
        world.at[0] += 20_000
        builds.release_finalize(world.store, taken[-1], world.row(taken[-1])["claim"])
    assert taken == [*troubled, healthy]


def test_a_repository_has_one_finalizer_at_a_time(world: World) -> None:
    first, second = waiting(world), waiting(world)
    elsewhere = waiting(world, organization="beta")
    assert [adopted(world) for _ in range(3)] == [first, elsewhere, ""]
    world.at[0] += LEASE - 1
    assert builds.keep_finalize(world.store, first, world.row(first)["claim"], LEASE)
    assert builds.keep_finalize(world.store, elsewhere, world.row(elsewhere)["claim"], LEASE)
    world.at[0] += LEASE - 1
    assert adopted(world) == "", "its finalizer is still at work"
    builds.release_finalize(world.store, first, world.row(first)["claim"])
    assert adopted(world) == second, "a build that only waits for its next attempt keeps no other one waiting"
    assert builds.publish(world.store, second, world.row(second)["claim"])
    assert builds.succeed(world.store, second, world.row(second)["claim"], ())
    world.at[0] += 60_000
    assert adopted(world) in (first, elsewhere)


def test_a_finalizer_that_died_closes_its_repository_for_a_lease(world: World) -> None:
    first, second = waiting(world), waiting(world)
    assert adopted(world) == first
    world.at[0] += LEASE - 1
    assert adopted(world) == ""
    world.at[0] += 1
    assert adopted(world) == second, "due for longer"


@pytest.mark.parametrize(("wish_ms", "pauses"), [(0, [2, 4, 8, 16, 32, 60, 60]), (5_000, [5, 5, 8, 16, 32, 60, 60])])
def test_the_pause_of_a_build_grows_with_each_attempt_that_failed(
    world: World, wish_ms: int, pauses: list[int]
) -> None:
    build = waiting(world)
    for seconds in pauses:
        assert adopted(world) == build
        builds.release_finalize(world.store, build, world.row(build)["claim"], wish_ms)
        world.at[0] += seconds * 1000 - 1
        assert adopted(world) == "", f"before {seconds} s"
        world.at[0] += 1
    assert adopted(world) == build
    builds.release_finalize(world.store, build, world.row(build)["claim"], 3_600_000)
    world.at[0] += 60_000
    assert adopted(world) == build, "whatever a registry wishes"


def test_a_build_whose_finalizers_process_ends_is_due_at_once_and_pays_nothing(world: World) -> None:
    build = waiting(world)
    assert adopted(world) == build
    builds.release_finalize(world.store, build, world.row(build)["claim"], leaves=True)
    assert adopted(world) == build
    assert (world.row(build)["failures"], world.row(build)["finalize_tries"]) == (0, 0)


def test_an_artifact_that_is_built_again_starts_with_the_first_pause(world: World) -> None:
    first = waiting(world)
    assert adopted(world) == first
    with world.store.engine.begin() as tx:
        tx.execute(builds.builds.update().values(from_cache_of="another", finalize_tries=4))
    claim = world.row(first)["claim"]
    assert builds.rebuild(world.store, first, claim, "sha256:gone")
    world.succeed_work(first, world.claim(first, "again"))
    assert adopted(world) == first
    builds.release_finalize(world.store, first, world.row(first)["claim"])
    world.at[0] += 2_000
    assert adopted(world) == first


def test_finalize_is_timed_out_before_the_mark(world: World) -> None:
    build = world.submit(timeout_ms=1000)
    world.succeed_work(build, world.claim(build))
    world.at[0] += 1000 + LEASE + 1
    world.build_timeouts()
    assert world.row(build)["status"] == "FAILED"


def test_finalize_owners_lost_without_progress_are_poison(world: World) -> None:
    build = world.submit()
    world.succeed_work(build, world.claim(build))
    for _ in range(4):
        builds.adopt_finalize(world.store, LEASE)
        world.at[0] += LEASE + 1
    assert world.row(build)["status"] == "FAILED"
