"""The outbox: what is due, in which order, and what a report that was not taken delays."""

from __future__ import annotations

import pytest
from sqlalchemy import insert

from builder.store import builds, outbox, retention
from builder.store.schema import labels, reports
from tests.store_contract.world import World, race


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


def test_the_oldest_report_that_waits_is_as_old_as_what_it_tells_whatever_was_tried_since(world: World) -> None:
    assert outbox.oldest_ms(world.store) == 0
    ended(world)
    world.at[0] += 5_000
    ended(world)
    for _ in range(3):
        postpone(world, outbox.due(world.store, 1)[0], "acme")
        world.at[0] += 60_000
    assert outbox.oldest_ms(world.store) == 185_000
    outbox.delivered(world.store, [row["id"] for row in outbox.due(world.store, 3)])
    assert outbox.oldest_ms(world.store) == 180_000


def read(world: World, after: int = 0, limit: int = 100, organization: str = "acme") -> list[outbox.Row]:
    return list(outbox.feed(world.store, organization, after, limit))


def test_the_feed_is_of_one_organization_in_order_and_goes_on_at_a_position(world: World) -> None:
    first = ended(world)
    ended(world, "beta")
    second = ended(world)
    every = read(world)
    assert [(row["build_id"], row["sequence"]) for row in every] == [
        (one, n) for one in (first, second) for n in (1, 2, 3)
    ]
    assert [row["position"] for row in every] == [1, 2, 3, 4, 5, 6]
    assert [row["id"] for row in read(world, after=2, limit=2)] == [row["id"] for row in every[2:4]]
    assert read(world, after=6) == [] and len(read(world, organization="beta")) == 3
    outbox.delivered(world.store, [row["id"] for row in every])
    assert [row["id"] for row in read(world)] == [row["id"] for row in every], "a receiver takes nothing out of it"
    world.submit()
    assert [row["position"] for row in read(world, after=6)] == [7]


def test_a_position_is_never_given_twice(world: World) -> None:
    """Whoever has read up to it would miss what is there now. What is delivered is deleted, the last one too."""
    ended(world)
    last = read(world)[-1]["position"]
    outbox.delivered(world.store, [row["id"] for row in outbox.due(world.store, 9)])
    world.at[0] += 2
    assert retention.delete_reports(world.store, 1).deleted == 3
    ended(world)
    assert [row["position"] for row in read(world, after=last)] == [last + 1, last + 2, last + 3]


def test_a_report_that_is_committed_late_comes_after_what_was_read_before(world: World) -> None:
    """Its id is lower than that of a report which was read already: two transactions, the first one the slower."""
    build, other = world.submit(), world.submit()
    seen = read(world)
    values = {"body": "{}", "due_at": 1, "organization": "acme"}
    with world.store.transaction() as tx:
        tx.execute(insert(reports).values(id=1000, build_id=other, sequence=7, **values))
    later = read(world, after=seen[-1]["position"])
    assert [row["id"] for row in later] == [1000]
    with world.store.transaction() as tx:
        tx.execute(insert(reports).values(id=900, build_id=build, sequence=7, **values))
    assert [row["id"] for row in read(world, after=later[-1]["position"])] == [900]


def test_readers_at_once_see_one_order(world: World) -> None:
    for _ in range(20):
        ended(world)
    seen = race(*(lambda: [(row["id"], row["position"]) for row in read(world)] for _ in range(6)))
    assert [one for one in seen if one != seen[0]] == []
    assert [position for _, position in seen[0]] == list(range(1, 61))


def test_labels_are_recorded_with_the_build_and_go_with_it(world: World) -> None:
    values = {name: world.row(world.submit())[name] for name in ("organization", "name", "request_hash")}

    def labelled(**of: str) -> str:
        row = dict(world.row(world.submit())) | values
        build = f"l{row['number']:019d}"
        row |= {"build_id": build, "idempotency_key": build}
        del row["number"]
        for _ in range(2):  # the second is the same submission again
            assert builds.submit(world.store, row, labelled=of).row["build_id"] == build
        return build

    a, b = labelled(app="one", stage="test"), labelled(app="two", stage="test")

    def found(organization: str = "acme", **of: str) -> list[str]:
        return [row["build_id"] for row in builds.page(world.store, organization, 9, None, labelled=of)]

    assert found(stage="test") == [b, a] and found(stage="test", app="one") == [a]
    assert found(stage="tes") == found(app="") == found("beta", stage="test") == []
    builds.cancel(world.store, "acme", a)
    world.submit()
    world.at[0] += 2
    assert retention.delete_builds(world.store, "CANCELLED", 1, tagged_stay=False).deleted == 1
    with world.store.read() as tx:
        assert {row.build_id for row in tx.execute(labels.select())} == {b}
