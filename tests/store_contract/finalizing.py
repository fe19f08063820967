"""FINALIZE: adopt, release, the PUBLISH mark, tags."""

from __future__ import annotations

from builder.store import builds
from tests.store_contract.world import LEASE, World, in_finalize


def test_the_newest_submitted_holds_a_tag_and_only_its_owner_takes_it(world: World) -> None:
    old, new = in_finalize(world), in_finalize(world)
    assert not builds.claim_tag(world.store, new, "latest", "sha256:b"), "before the PUBLISH mark"
    for row in (old, new):
        assert builds.publish(world.store, row["build_id"], row["claim"])
    assert builds.claim_tag(world.store, new, "latest", "sha256:b")
    assert not builds.claim_tag(world.store, old, "latest", "sha256:a")
    assert builds.claim_tag(world.store, new, "latest", "sha256:b"), "repeatable"
    assert builds.claim_tag(world.store, old, "other", "sha256:a")
    world.at[0] += LEASE
    assert builds.adopt_finalize(world.store, LEASE)["build_id"] == old["build_id"]  # type: ignore[index]
    assert not builds.claim_tag(world.store, old, "third", "sha256:a"), "its claim is stale"


def test_publish_of_a_build_whose_cancel_was_asked_for_cancels_it(world: World) -> None:
    row = in_finalize(world)
    with world.store.engine.begin() as tx:
        tx.execute(builds.builds.update().values(cancel_requested=True))
    assert builds.publish(world.store, row["build_id"], row["claim"]) is None
    assert world.row(row["build_id"])["status"] == "CANCELLED"


def test_a_release_costs_nothing_and_after_the_mark_it_only_goes_forward(world: World) -> None:
    build = in_finalize(world)["build_id"]
    for _ in range(5):
        builds.release_finalize(world.store, build, world.row(build)["claim"], 2000)
        assert builds.adopt_finalize(world.store, LEASE) is None
        world.at[0] += 2000
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
