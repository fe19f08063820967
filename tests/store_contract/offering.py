"""The dispatcher's window and the waiting in the queue."""

from __future__ import annotations

from builder.store import offers
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
