"""The outbox: what is due, in which order, and what a report that was not taken delays."""

from __future__ import annotations

import pytest

from builder.store import builds, outbox
from tests.store_contract.world import World


def ended(world: World, organization: str = "acme") -> str:
    """A build with three reports: submitted, claimed, FAILED."""
    build = world.submit(organization)
    world.fail_work(build, world.claim(build))
    return build


def postpone(world: World, row: outbox.Row, organization: str = "") -> None:
    outbox.postponed(world.store, row["id"], row["tries"], organization)


def due(world: World, *busy: str) -> list[tuple[str, int]]:
    return [(row["build_id"], row["sequence"]) for row in outbox.due(world.store, 100, busy)]


def test_reports_are_due_in_the_order_of_what_they_tell_with_their_organization(world: World) -> None:
    first, second = ended(world), ended(world, "beta")
    assert due(world) == [(first, 1), (first, 2), (first, 3), (second, 1), (second, 2), (second, 3)]
    assert [row["organization"] for row in outbox.due(world.store, 100)] == ["acme"] * 3 + ["beta"] * 3
    assert due(world, "acme") == [(second, 1), (second, 2), (second, 3)]
    assert due(world, "acme", "beta") == []


def test_what_was_delivered_is_due_no_more(world: World) -> None:
    build = ended(world)
    assert outbox.waiting(world.store) == 3
    outbox.delivered(world.store, [row["id"] for row in outbox.due(world.store, 2)])
    assert (due(world), outbox.waiting(world.store)) == ([(build, 3)], 1)
    outbox.delivered(world.store, [])
    assert outbox.waiting(world.store) == 1
    assert [row["sequence"] for row in outbox.exchange(world.store, (), "acme", 9)] == [3]
    assert outbox.exchange(world.store, (), "other", 9) == []
    last = outbox.due(world.store, 9)[0]["id"]
    assert outbox.exchange(world.store, [last], "acme", 9) == [], "noted first"
    assert outbox.waiting(world.store) == 0


def test_a_report_that_was_not_taken_delays_the_later_ones_of_its_build_alone(world: World) -> None:
    first, second = ended(world), ended(world)
    postpone(world, outbox.due(world.store, 1)[0])
    assert due(world) == [(second, 1), (second, 2), (second, 3)]
    world.at[0] += 1_000
    assert due(world)[:3] == [(first, 1), (first, 2), (first, 3)]


def test_a_receiver_that_is_not_there_delays_its_organization_alone(world: World) -> None:
    first, second, other = ended(world), ended(world), ended(world, "beta")
    postpone(world, outbox.due(world.store, 1)[0], "acme")
    assert due(world) == [(other, 1), (other, 2), (other, 3)]
    world.at[0] += 1_000
    assert {build for build, _ in due(world)} == {first, second, other}


@pytest.mark.parametrize("organization", ["", "acme"])
def test_the_pause_of_a_report_grows(world: World, organization: str) -> None:
    build = ended(world)
    for seconds in (1, 2, 4, 8, 16, 32, 60, 60):
        postpone(world, outbox.due(world.store, 1)[0], organization)
        world.at[0] += seconds * 1000 - 1
        assert due(world) == [], f"before {seconds} s"
        world.at[0] += 1
        assert due(world)[0] == (build, 1)


def test_what_is_postponed_is_never_due_earlier_for_it(world: World) -> None:
    ended(world), ended(world)
    late, early = outbox.due(world.store, 1)[0], outbox.due(world.store, 4)[3]
    for _ in range(3):
        outbox.postponed(world.store, late["id"], 5)
    postpone(world, early, "acme")
    world.at[0] += 1_000
    assert {row["build_id"] for row in outbox.due(world.store, 100)} == {early["build_id"]}


def test_the_age_of_the_oldest_queued_build_is_its_queues(world: World) -> None:
    from builder.store.queues import oldest_ms

    assert oldest_ms(world.store) == {}
    first = world.submit()
    world.at[0] += 5_000
    world.submit()
    world.submit(queue="compile.other")
    world.at[0] += 1_000
    assert oldest_ms(world.store) == {"compile.go": 6_000, "compile.other": 1_000}
    builds.cancel(world.store, "acme", first)
    assert oldest_ms(world.store)["compile.go"] == 1_000
