"""The dispatcher's window and the waiting in the queue."""

from __future__ import annotations

from builder.store import builds, offers
from tests.store_contract.world import LIVE_MS, World


def test_a_hint_is_offered_again_after_5_10_20_and_30_seconds(world: World) -> None:
    build = world.submit()
    offered = []
    for second in range(130):
        if world.offer(4):
            offered.append(second)
        world.at[0] += 1000
    assert offered == [0, 5, 15, 35, 65, 95, 125]
    assert world.claim(build)


def test_hints_nobody_claimed_yet_fill_the_window(world: World) -> None:
    ids = [world.submit() for _ in range(6)]

    def offer() -> list[str]:
        return world.offer(4)

    assert (offer(), offer()) == (ids[:4], [])
    world.claim(ids[0])
    assert offer() == ids[4:5]


def test_the_window_is_twice_the_free_slots_of_the_live_nodes(world: World) -> None:
    world.submit()
    (queue,) = offers.waiting(world.store, LIVE_MS)
    assert (queue.queue, queue.limit) == ("compile.go", 4), "one node with 2 slots"
    world.register("second")
    (queue,) = offers.waiting(world.store, LIVE_MS)
    assert queue.limit == 8
    world.claim(world.submit())
    (queue,) = offers.waiting(world.store, LIVE_MS)
    assert queue.limit == 6, "a slot is used"
    world.at[0] += LIVE_MS
    world.register("second")
    (queue,) = offers.waiting(world.store, LIVE_MS)
    assert queue.limit == 4, "the first node was not seen for two leases"


def test_organizations_share_the_window_and_take_turns(world: World) -> None:
    for organization, count in (("a", 9), ("b", 9), ("c", 1)):
        for _ in range(count):
            world.submit(organization)
    seen: list[str] = []
    for _ in range(7):
        (build,) = world.offer(1)
        seen.append(world.row(build)["organization"])
        world.fail_work(build, world.claim(build))  # nothing runs any more: only the turns tell
    assert seen == list("abcabab")


def test_an_outranking_priority_goes_first_and_an_absent_toolchain_waits(world: World) -> None:
    world.submit(toolchain="go-1.99")
    low, high, any_tool = world.submit(), world.submit(priority=5), world.submit(toolchain="")
    assert world.offer(9) == [high, low, any_tool]


def test_waiting_for_a_backoff_does_not_count_as_queueing(world: World) -> None:
    build = world.submit(queue_timeout_ms=1000)
    world.fail_work(build, world.claim(build), "RegistryUnavailable")  # not before 1,000 ms from now
    world.at[0] += 1000
    world.queue_timeouts()
    assert world.row(build)["status"] == "PENDING"


def _submitted(world: World, *builds_: str, queue: str = "compile.go") -> offers.Offered | None:
    return offers.offer_submitted(world.store, queue, builds_, LIVE_MS)


def test_a_submission_that_nobody_waits_beside_is_offered_as_by_a_whole_look(world: World) -> None:
    alone, looked_at = world.submit("a"), world.submit("a", queue="compile.python")
    world.register("another", queue="compile.python")
    assert _submitted(world, alone) == offers.Offered(hints=[("compile.go", alone)])
    assert offers.offer_at_once(world.store, LIVE_MS).hints == [("compile.python", looked_at)]
    columns = ("offers", "offered_at", "offer_from", "status", "claim")
    assert [world.row(alone)[name] for name in columns] == [world.row(looked_at)[name] for name in columns]
    assert [(one.action, one.build_id, one.queue) for one in world.events if one.action == "offer"] == [
        ("offer", alone, "compile.go"),
        ("offer", looked_at, "compile.python"),
    ]
    assert _submitted(world, alone) == offers.Offered(), "one hint is enough"
    low, high = world.submit("b"), world.submit("b", priority=5)
    assert _submitted(world, low, high) == offers.Offered(hints=[("compile.go", high), ("compile.go", low)])
    (last,) = (world.submit("a"),)
    full = _submitted(world, last)
    assert full is not None and (full.hints, full.full) == ([("compile.go", last)], {"compile.go"})


def test_a_submission_counts_as_the_turn_of_its_organization(world: World) -> None:
    assert _submitted(world, world.submit("b"))
    world.submit("b")
    other = world.submit("c")
    assert world.offer(2)[0] == other


def test_who_cannot_be_offered_alone_is_left_to_a_whole_look(world: World) -> None:
    many = [world.submit() for _ in range(5)]
    assert _submitted(world, *many) is None, "the window has room for four"
    assert _submitted(world, many[0], queue="compile.rust") is None, "nobody reads it"
    assert {world.row(build)["offers"] for build in many} == {0}
    absent, attached_to = world.submit(toolchain="go-1.99"), world.submit()
    builds.cancel(world.store, "acme", attached_to)
    assert _submitted(world, absent, attached_to) == offers.Offered()
    world.at[0] += LIVE_MS
    assert _submitted(world, many[0]) is None, "no live node"
