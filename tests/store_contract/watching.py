"""Stage JOB: the mark, the hand-over, one watcher after the other, and a Job that nobody watches."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, jobs, logs, record, sweeps
from tests.store_contract.world import LEASE, World, line

_TRIES = itertools.count()


def mark(world: World, build: str, claim: int) -> None:
    name = f"ignite-{build}-{world.row(build)['attempt']}"
    job = pb.Job(strategy="kaniko", name=name, namespace="builds", facts="{}")
    assert jobs.launching(world.store, build, claim, job, json.dumps({"name": name, "namespace": "builds"})) is not None


def launched(world: World, **more: Any) -> str:
    """A build in JOB that nobody watches."""
    build = world.submit(**more)
    claim = world.claim(build)
    mark(world, build, claim)
    assert jobs.launched(world.store, build, claim, 0).outcome == "done"
    assert (world.row(build)["stage"], world.row(build)["claim"]) == ("JOB", claim + 1)
    return build


def adopt(world: World, watcher: str = "w", nonce: str = "") -> Any:
    return jobs.adopt(world.store, watcher, nonce or f"try {next(_TRIES)}", LEASE).row


def caught_up(world: World, watcher: str = "w") -> Any:
    """The row of a build that this watcher has adopted, and caught up with."""
    row = adopt(world, watcher)
    assert jobs.caught_up(world.store, row["build_id"], row["claim"], watcher) is not None
    return row


def test_a_job_is_watched_to_its_end(world: World) -> None:
    build = launched(world)
    row = caught_up(world)
    assert (row["build_id"], row["attempt"], row["claim"]) == (build, 1, 3)
    done = world.succeed_work(build, row["claim"])
    assert done.row is not None and (done.row["status"], done.row["stage"]) == ("RUNNING", "FINALIZE")
    world.finalize(build)
    assert world.row(build)["status"] == "SUCCEEDED"


def test_a_hand_over_that_was_stored_is_answered_alike_whatever_came_then(world: World) -> None:
    build = launched(world)
    for _ in range(2):
        repeated = jobs.launched(world.store, build, 1, 0, node="node")
        assert repeated.row is not None and (repeated.outcome, repeated.row["stage"]) == ("done", "JOB")
    row = caught_up(world)
    world.fail_work(build, row["claim"])
    repeated = jobs.launched(world.store, build, 1, 0, node="node")
    assert repeated.row is not None and (repeated.outcome, repeated.row["status"]) == ("done", "FAILED")
    assert jobs.launched(world.store, build, 1, 0, node="other").outcome == "stale"


def test_a_hand_over_waits_for_every_line_and_for_its_mark(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    with pytest.raises(jobs.Unmarked):
        jobs.launched(world.store, build, claim, 0)
    with pytest.raises(jobs.Foreign):
        jobs.launching(world.store, build, claim, pb.Job(name=f"ignite-{build}-2"), "{}")
    mark(world, build, claim)
    assert jobs.launched(world.store, build, claim, 1).outcome == "incomplete"
    logs.append(world.store, build, claim, 0, [line("x")])
    assert jobs.launched(world.store, build, claim, 1).outcome == "done"


def test_a_cancel_before_the_hand_over_ends_the_build_there(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    mark(world, build, claim)
    builds.cancel(world.store, "acme", build)
    row = jobs.launching(world.store, build, claim, pb.Job(name=f"x-{build}-1"), '{"other": 1}')
    assert row is not None and row["cancel_requested"] and "other" not in world.row(build)["job"]
    done = jobs.launched(world.store, build, claim, 0)
    assert done.row is not None and (done.outcome, done.row["status"]) == ("done", "CANCELLED")
    assert adopt(world) is None


def test_a_cancel_waits_for_the_watcher_that_deletes_the_job(world: World) -> None:
    build = launched(world)
    builds.cancel(world.store, "acme", build)
    row = adopt(world)
    assert row["cancel_requested"] and row["status"] == "RUNNING"
    world.fail_work(build, row["claim"], "Cancelled")
    assert world.row(build)["status"] == "CANCELLED"


def test_the_build_that_waited_longest_is_adopted_first_and_one_after_the_other(world: World) -> None:
    first = launched(world)
    world.at[0] += 1
    second = launched(world)
    row = adopt(world, nonce="1")
    assert row["build_id"] == first
    assert adopt(world, nonce="1")["claim"] == row["claim"]
    refused = jobs.adopt(world.store, "w", "2", LEASE)
    assert refused.row is None and first in refused.refused
    assert adopt(world, "another")["build_id"] == second
    jobs.caught_up(world.store, first, row["claim"], "w")
    assert jobs.adopt(world.store, "w", "2", LEASE) == jobs.Adopted()


def test_a_watcher_writes_under_its_claim_and_name_alone(world: World) -> None:
    build = launched(world)
    row = adopt(world)
    before = world.row(build)
    for watcher, claim in (("other", row["claim"]), ("node", row["claim"]), ("w", row["claim"] - 1)):
        assert jobs.caught_up(world.store, build, claim, watcher) is None
        assert jobs.beat(world.store, watcher, [(build, claim, "PUSH")], 2 * LEASE) == {}
        assert logs.append(world.store, build, claim, 0, [line("x")], watcher)[0]
        assert builds.hand_back(world.store, build, claim, "drain", watcher) is None
        failure = pb.FinishRequest(build_id=build, claim=claim, failure=pb.Failure(reason="StepFailed"))
        assert builds.finish(world.store, failure, 0, watcher).outcome == "stale"
    assert world.row(build) == before


def test_heartbeats_of_many_builds_are_one_call(world: World) -> None:
    rows = []
    for _ in range(3):
        launched(world)
        rows.append(caught_up(world))
    builds.cancel(world.store, "acme", rows[1]["build_id"])
    world.at[0] += LEASE - 1
    beats = [(row["build_id"], row["claim"], phase) for row, phase in zip(rows, ("BUILD", "PUSH", ""), strict=True)]
    renewed = jobs.beat(world.store, "w", [*beats, ("nobody", 1, "BUILD"), (rows[0]["build_id"], 1, "PUSH")], LEASE)
    assert renewed == {(row["build_id"], row["claim"]): row is rows[1] for row in rows}
    world.at[0] += LEASE - 1
    assert not world.expire_leases()
    assert [world.row(row["build_id"])["phase"] for row in rows] == ["BUILD", "PUSH", "BUILD"]


def test_a_lost_watcher_counts_until_it_has_caught_up(world: World) -> None:
    build = launched(world)
    caught_up(world)
    world.at[0] += LEASE
    world.expire_leases()
    assert (world.row(build)["failures"], world.row(build)["watcher"]) == (0, "")
    for failures in (1, 2):
        row = adopt(world)
        assert (row["build_id"], row["attempt"], row["failures"]) == (build, 1, failures - 1)
        world.at[0] += LEASE
        world.expire_leases()
        assert (world.row(build)["failures"], world.row(build)["stage"]) == (failures, "JOB")
    adopt(world)
    world.at[0] += LEASE
    [ended] = world.expire_leases()
    assert (ended["status"], json.loads(ended["failure"])["reason"]) == ("FAILED", "WorkerLost")


def test_a_watcher_that_drains_costs_nothing(world: World) -> None:
    build = launched(world)
    row = adopt(world)
    assert builds.hand_back(world.store, build, row["claim"], "drain", "w") is not None
    assert jobs.beat(world.store, "w", [(build, row["claim"], "")], LEASE) == {}
    again = adopt(world, "w2")
    assert (again["build_id"], again["failures"], again["attempt"]) == (build, 0, 1)


def test_a_worker_that_is_lost_after_its_mark_leaves_a_job_to_look_for(world: World) -> None:
    build = world.submit()
    mark(world, build, world.claim(build))
    world.at[0] += LEASE
    world.expire_leases()
    row = adopt(world)
    assert (row["build_id"], row["attempt"], row["failures"], row["job_seen"]) == (build, 1, 1, False)
    assert jobs.caught_up(world.store, build, row["claim"], "w", seen=False) is not None
    world.fail_work(build, row["claim"], "JobVanished")
    after = world.row(build)
    assert (after["status"], after["retries"], after["avoid"]) == ("PENDING", 0, "")
    world.at[0] += 10_000
    world.claim(build, "again")
    assert (world.row(build)["job"], world.row(build)["attempt"]) == ("", 2)


@pytest.mark.parametrize(("reason", "seen"), [("Evicted", False), ("JobVanished", True)])
def test_what_befalls_a_job_costs_a_retry(world: World, reason: str, seen: bool) -> None:
    build = world.submit()
    mark(world, build, world.claim(build))
    world.at[0] += LEASE
    world.expire_leases()
    row = caught_up(world) if seen else adopt(world)
    world.fail_work(build, row["claim"], reason)
    assert (world.row(build)["status"], world.row(build)["retries"]) == ("PENDING", 1)


def test_a_cancelled_build_whose_worker_is_lost_after_its_mark_is_for_a_watcher(world: World) -> None:
    build = world.submit()
    mark(world, build, world.claim(build))
    builds.cancel(world.store, "acme", build)
    world.at[0] += LEASE
    world.expire_leases()
    row = adopt(world)
    assert (row["build_id"], row["cancel_requested"], row["failures"]) == (build, True, 0)


def test_the_log_tells_once_that_nobody_watches(world: World) -> None:
    build = launched(world)
    world.at[0] += LEASE - 1
    assert not world.sweep(sweeps.unwatched_soon(LEASE))
    world.at[0] += 1
    assert len(world.sweep(sweeps.unwatched_soon(LEASE))) == 1
    assert not world.sweep(sweeps.unwatched_soon(LEASE))
    assert world.row(build)["log_lines"] == 1
    row = adopt(world)
    builds.hand_back(world.store, build, row["claim"], "drain")
    world.at[0] += LEASE
    assert len(world.sweep(sweeps.unwatched_soon(LEASE))) == 1


@pytest.mark.parametrize("cancel", [False, True])
def test_a_job_that_nobody_watches_for_the_queue_timeout_ends_its_build(world: World, cancel: bool) -> None:
    build = launched(world, queue_timeout_ms=100_000)
    world.at[0] += 99_999
    assert not world.sweep(sweeps.unwatched())
    if cancel:
        builds.cancel(world.store, "acme", build)
    world.at[0] += 1
    [ended] = world.sweep(sweeps.unwatched())
    reason = json.loads(ended["failure"])["reason"]
    assert (ended["status"], reason) == (("CANCELLED", "Cancelled") if cancel else ("FAILED", "ClusterUnavailable"))


def test_a_build_that_waits_for_a_finalizer_is_not_unwatched(world: World) -> None:
    build = world.submit(queue_timeout_ms=1000)
    world.succeed_work(build, world.claim(build))
    world.at[0] += 10 * LEASE
    assert not world.sweep(sweeps.unwatched(), sweeps.unwatched_soon(LEASE))


def test_time_without_a_watcher_is_not_the_builds_time(world: World) -> None:
    build = launched(world, timeout_ms=1000)
    world.at[0] += 500_000
    assert not world.build_timeouts()
    row = adopt(world)
    assert row["waited_ms"] == 500_000
    world.at[0] += LEASE - 1
    jobs.beat(world.store, "w", [(build, row["claim"], "BUILD")], LEASE)
    world.at[0] += 1000
    assert not world.build_timeouts()
    world.at[0] += 1
    [ended] = world.build_timeouts()
    assert json.loads(ended["failure"])["reason"] == "Timeout"


def test_a_cancelled_build_that_nobody_watches_ends_with_its_time(world: World) -> None:
    build = launched(world, timeout_ms=1000)
    builds.cancel(world.store, "acme", build)
    world.at[0] += 1000 + LEASE
    world.build_timeouts()
    row = world.row(build)
    assert row["status"] == "CANCELLED"
    assert "its Job was not seen to end" in row["failure"]
    assert "may still run" in logs.read(world.store, build, 0)[0]["l"]
    assert not jobs.current(world.store, [(build, row["attempt"])]), "so a watcher deletes the Job"


def test_a_cursor_is_stored_with_its_lines_and_kept_by_an_adoption(world: World) -> None:
    build = launched(world)
    row = adopt(world)

    def send(first: int, text: str, cursors: dict[str, logs.Position]) -> Any:
        return logs.append(world.store, build, row["claim"], first, [line(text)], "w", cursors)

    newest = 8_123_456_789
    assert send(0, "a", {"fetch": (5, 1, 0)})[1] == 1
    assert send(1, "b", {"kaniko": (7, 2, newest)})[1] == 2
    assert send(0, "a", {"fetch": (5, 9, 0)})[1] == 2  # sent again: neither the line nor its cursor is new
    assert send(3, "d", {"kaniko": (8, 8, 0)})[1] == 2  # a gap
    assert record.cursors(world.row(build)) == {"fetch": (5, 1, 0), "kaniko": (7, 2, newest)}
    for number in range(2, 9):  # a watcher that names ever more of them
        send(number, "c", {f"c{number}-{one}": (1, 1, 0) for one in range(60)})
    assert len(record.cursors(world.row(build))) == logs.MOST_CURSORS
    builds.hand_back(world.store, build, row["claim"], "drain")
    after = adopt(world, "w2")
    assert (record.cursors(after)["kaniko"], after["claim_lines"], after["log_lines"]) == ((7, 2, newest), 0, 9)


def test_a_cursor_of_an_earlier_version_has_no_time_of_its_newest_line() -> None:
    assert record.cursors({"cursors": '{"kaniko": [7, 2]}'}) == {"kaniko": (7, 2, 0)}
    assert record.cursors({"cursors": ""}) == {}


def test_who_works_on_a_build_has_no_cursor_of_its_job(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    assert logs.append(world.store, build, claim, 0, [line("a")], "node", {"kaniko": (9_999_999_999, 0, 0)})[1] == 1
    assert world.row(build)["cursors"] == ""


def test_the_attempts_that_may_have_a_job(world: World) -> None:
    watched, working, over = launched(world), world.submit(), launched(world)
    world.claim(working)
    row = adopt(world)
    assert row["build_id"] == watched
    jobs.caught_up(world.store, watched, row["claim"])
    world.fail_work(over, adopt(world, nonce="2")["claim"])
    asked = [(watched, 1), (watched, 2), (working, 1), (over, 1), (world.submit(), 0), ("nobody", 1)]
    assert jobs.current(world.store, asked) == {(watched, 1), (working, 1)}
