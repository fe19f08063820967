"""The store's promises: transitions, stale writers, threads, cost, and random interleavings."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.proto.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, logs, outbox, transitions
from builder.store.engine import Store, open_store
from builder.store.events import Event
from builder.store.transitions import BY_NAME, TERMINAL

LEASE = 30_000
CAN = ({"compile.go"}, {"go-1.26"})
LIVE = {"compile.go": {"go-1.26"}}
_IDS = itertools.count()


@dataclass
class World:
    """A store on its own clock, and what it told."""

    store: Store
    at: list[int]
    events: list[Event] = field(default_factory=list)

    def submit(self, organization: str = "acme", **more: Any) -> str:
        build_id = f"b{next(_IDS):019d}"
        values = {
            "build_id": build_id, "organization": organization, "name": "n", "request_hash": "h", "request": "{}",
            "source_sha256": "0" * 64, "source_size": 1, "single_file": False, "runtime": "go", "queue": "compile.go",
            "toolchain": "go-1.26", "repository": f"{organization}/n", "tags": '["latest"]', "priority": 0,
            "no_cache": False, "timeout_ms": 600_000, "queue_timeout_ms": 3_600_000,
        }  # fmt: skip
        builds.submit(self.store, values | more)
        return build_id

    def row(self, build_id: str) -> Any:
        row = builds.by_id(self.store, build_id)
        assert row is not None
        return row

    def claim(self, build_id: str, nonce: str = "n") -> int:
        granted = builds.claim(self.store, build_id, "node", nonce, LEASE, CAN)
        assert granted.row is not None, granted.refused
        return int(granted.row["claim"])

    def succeed_work(self, build_id: str, claim: int) -> builds.Finished:
        built = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r@sha256:" + "a" * 64, size_bytes=1)
        return builds.finish(self.store, pb.FinishRequest(build_id=build_id, claim=claim, success=built), LEASE, 1000)

    def fail_work(self, build_id: str, claim: int, reason: str = "CompileFailed", count: int = 0) -> builds.Finished:
        failure = pb.Failure(reason=reason, message="m")
        request = pb.FinishRequest(build_id=build_id, claim=claim, failure=failure, log_count=count)
        return builds.finish(self.store, request, LEASE, 1000)

    def finalize(self, build_id: str) -> None:
        while self.row(build_id)["status"] == "RUNNING":
            row = builds.adopt_finalize(self.store, LEASE)
            assert row is not None
            assert builds.publish(self.store, row["build_id"], row["claim"])
            assert builds.succeed(self.store, row["build_id"], row["claim"], ())

    def reports(self, build_id: str) -> list[Any]:
        return [report for report in outbox.due(self.store, 10_000) if report["build_id"] == build_id]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make(tmp_path / "store.db")
    yield made
    made.store.engine.dispose()


def make(path: Path) -> World:
    at, events = [1_000_000], []
    opened = open_store(f"sqlite:///{path}", emit=events.append)
    return World(store=Store(engine=opened.engine, emit=events.append, clock=lambda: at[0]), at=at, events=events)


# Promises kept


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
    builds.expire_leases(world.store, 1000)
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


def test_finish_waits_for_every_line_and_its_terminal_status_stands(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    assert world.fail_work(build, claim, count=1).outcome == "incomplete"
    logs.append(world.store, build, claim, 0, [{"t": 0, "p": "BUILD", "o": "STDOUT", "l": "x"}])
    assert world.fail_work(build, claim, count=1).outcome == "done"
    repeated = world.fail_work(build, claim, count=1)
    assert repeated.row is not None and repeated.row["status"] == "FAILED"
    assert len(world.reports(build)) == len({report["sequence"] for report in world.reports(build)})


def test_a_batch_sent_twice_is_kept_once_and_a_gap_is_sent_again(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    lines = [{"t": 0, "p": "BUILD", "o": "STDOUT", "l": str(n)} for n in range(5)]
    for first, part in ((0, lines[:3]), (0, lines[:3]), (2, lines[2:]), (9, lines[:1])):
        stale, kept, _ = logs.append(world.store, build, claim, first, part)
        assert not stale and kept in (3, 5)
    assert [line["l"] for line in logs.read(world.store, build, 0) if line["o"] == "STDOUT"] == list("01234")


def test_platform_failures_are_retried_with_backoff_until_none_is_left(world: World) -> None:
    build = world.submit()
    for number in range(3):
        assert world.fail_work(build, world.claim(build, str(number)), "RegistryUnavailable").outcome == "done"
        if number < 2:
            assert builds.claim(world.store, build, "node", "x", LEASE, CAN).row is None
            world.at[0] += 60_000
    assert world.row(build)["status"] == "FAILED"


def test_three_lost_owners_are_poison(world: World) -> None:
    build = world.submit()
    for number in range(3):
        world.claim(build, str(number))
        world.at[0] += LEASE + 1
        builds.expire_leases(world.store, 1000)
    assert world.row(build)["status"] == "FAILED"
    assert '"WorkerLost"' in world.row(build)["failure"]


def attached(world: World) -> tuple[str, int, list[str]]:
    primary = world.submit()
    claim = world.claim(primary)
    assert builds.planned(world.store, primary, claim, "key", "code", "go") == "GO_ON"
    followers = [world.submit() for _ in range(3)]
    for follower in followers:
        number = world.claim(follower)
        assert builds.planned(world.store, follower, number, "key", "code", "go") == "ATTACHED"
    return primary, claim, followers


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


def test_after_a_limit_or_a_cancel_the_oldest_is_queued_and_the_others_follow_it(world: World) -> None:
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim, "OutOfMemory")
    assert [world.row(one)["attached_to"] for one in followers] == ["", followers[0], followers[0]]
    builds.cancel(world.store, "acme", followers[0])
    assert [world.row(one)["attached_to"] for one in followers[1:]] == ["", followers[1]]


def in_finalize(world: World) -> Any:
    build = world.submit()
    world.succeed_work(build, world.claim(build))
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None and row["build_id"] == build
    return row


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


def test_eight_threads_grant_each_of_fifty_builds_once(tmp_path: Path) -> None:
    world = make(tmp_path / "threads.db")
    ids = [world.submit() for _ in range(50)]
    granted: list[str] = []

    def work(name: str) -> None:
        for build in ids:
            if builds.claim(world.store, build, name, name, LEASE, CAN).row is not None:
                granted.append(build)

    threads = [threading.Thread(target=work, args=(f"node-{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == sorted(ids)
    world.store.engine.dispose()


def test_the_document_of_states_is_the_generated_one() -> None:
    document = Path(__file__).parents[2] / "docs" / "states.md"
    assert document.read_text(encoding="utf-8") == transitions.page()


def test_a_hint_is_offered_again_after_5_10_20_and_30_seconds(world: World) -> None:
    build = world.submit()
    offered = []
    for second in range(130):
        if builds.offerable(world.store, "compile.go", ["go-1.26"], 4):
            offered.append(second)
        world.at[0] += 1000
    assert offered == [0, 5, 15, 35, 65, 95, 125]
    assert world.claim(build)


def test_hints_nobody_claimed_yet_fill_the_window(world: World) -> None:
    ids = [world.submit() for _ in range(6)]

    def offer() -> list[str]:
        return builds.offerable(world.store, "compile.go", ["go-1.26"], 4)

    assert (offer(), offer()) == (ids[:4], [])
    world.claim(ids[0])
    assert offer() == ids[4:5]


def test_organizations_share_the_window_and_take_turns(world: World) -> None:
    for organization, count in (("a", 9), ("b", 9), ("c", 1)):
        for _ in range(count):
            world.submit(organization)
    seen: list[str] = []
    for _ in range(7):
        (build,) = builds.offerable(world.store, "compile.go", ["go-1.26"], 1)
        seen.append(world.row(build)["organization"])
        world.fail_work(build, world.claim(build))  # nothing runs any more: only the turns tell
    assert seen == list("abcabab")


def test_an_outranking_priority_goes_first_and_an_absent_toolchain_waits(world: World) -> None:
    world.submit(toolchain="go-1.99")
    low, high, any_tool = world.submit(), world.submit(priority=5), world.submit(toolchain="")
    assert builds.offerable(world.store, "compile.go", ["go-1.26"], 9) == [high, low, any_tool]


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
    assert not builds.build_timeouts(world.store, LEASE)
    for _ in range(5):
        assert builds.adopt_finalize(world.store, LEASE) is not None
        world.at[0] += LEASE
    assert builds.cancel(world.store, "acme", build)
    world.finalize(build)
    assert world.row(build)["status"] == "SUCCEEDED"


def test_a_retry_with_another_key_hands_its_followers_over(world: World) -> None:
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim, "RegistryUnavailable")
    assert [world.row(one)["attached_to"] for one in followers] == [primary] * 3
    world.at[0] += 60_000
    assert builds.planned(world.store, primary, world.claim(primary, "2"), "other", "code", "go") == "GO_ON"
    assert [world.row(one)["attached_to"] for one in followers] == ["", followers[0], followers[0]]
    late = world.submit()
    assert builds.planned(world.store, late, world.claim(late), "key", "code", "go") == "ATTACHED"
    assert world.row(late)["attached_to"] == followers[0]
    number = world.claim(followers[0], "2")
    assert builds.planned(world.store, followers[0], number, "key", "code", "go") == "GO_ON"


def test_a_reason_of_another_version_is_kept_as_internal(world: World) -> None:
    build = world.submit()
    for number in range(3):
        world.fail_work(build, world.claim(build, str(number)), "NeverHeardOf")
        world.at[0] += 60_000
    assert '"Internal"' in world.row(build)["failure"] and "NeverHeardOf: m" in world.row(build)["failure"]


def test_a_build_for_another_repository_is_not_attached(world: World) -> None:
    attached(world)
    other = world.submit(repository="acme/other")
    assert builds.planned(world.store, other, world.claim(other), "key", "code", "go") == "GO_ON"


def test_cancel_wins_over_hand_back(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    builds.hand_back(world.store, build, claim, "drain")
    assert world.row(build)["status"] == "CANCELLED"


def test_cancel_asked_for_before_planned_is_not_lost_in_reuse(world: World) -> None:
    first = world.submit()
    claim = world.claim(first)
    builds.planned(world.store, first, claim, "key", "code", "go")
    world.succeed_work(first, claim)
    world.finalize(first)
    build = world.submit()
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    builds.planned(world.store, build, claim, "key", "code", "go")
    for _ in range(3):
        row = builds.adopt_finalize(world.store, LEASE)
        if row is not None and builds.publish(world.store, build, row["claim"]):
            builds.succeed(world.store, build, row["claim"], ())
    assert world.row(build)["status"] != "SUCCEEDED"


def test_cancel_wins_over_build_timeout(world: World) -> None:
    build = world.submit(timeout_ms=1000)
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    world.at[0] += 1000 + LEASE + 1
    builds.heartbeat(world.store, build, claim, "BUILD", LEASE)
    builds.build_timeouts(world.store, LEASE)
    assert world.row(build)["status"] == "CANCELLED"


def test_finalize_is_timed_out_before_the_mark(world: World) -> None:
    build = world.submit(timeout_ms=1000)
    world.succeed_work(build, world.claim(build))
    world.at[0] += 1000 + LEASE + 1
    builds.build_timeouts(world.store, LEASE)
    assert world.row(build)["status"] == "FAILED"


def test_finalize_owners_lost_without_progress_are_poison(world: World) -> None:
    build = world.submit()
    world.succeed_work(build, world.claim(build))
    for _ in range(4):
        builds.adopt_finalize(world.store, LEASE)
        world.at[0] += LEASE + 1
    assert world.row(build)["status"] == "FAILED"


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


def test_waiting_for_a_backoff_does_not_count_as_queueing(world: World) -> None:
    build = world.submit(queue_timeout_ms=1000)
    world.fail_work(build, world.claim(build), "RegistryUnavailable")  # not before 1,000 ms from now
    world.at[0] += 1000
    builds.queue_timeouts(world.store, LIVE)
    assert world.row(build)["status"] == "PENDING"


def test_the_log_is_bounded_across_attempts(world: World) -> None:
    build = world.submit()
    line = {"t": 0, "p": "BUILD", "o": "STDOUT", "l": "x" * 16_000}
    for attempt in range(2):
        claim = world.claim(build, str(attempt))
        for first in range(0, 500, 50):
            logs.append(world.store, build, claim, first, [line] * 50)
        builds.hand_back(world.store, build, claim, "drain")
    builds.cancel(world.store, "acme", build)
    total = sum(len(one["l"]) for one in logs.read(world.store, build, 0, 100_000))
    assert total <= 11 * 1024 * 1024


def steps_of(world: World, call: Callable[[], object]) -> int:
    """SQLite virtual machine steps, in units of 100: what a call costs, whatever the machine does meanwhile."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    with world.store.engine.connect() as connection:
        raw = connection.connection.driver_connection
        raw.set_progress_handler(tick, 100)
        raw_count = count
    try:
        call()
    finally:
        with world.store.engine.connect() as connection:
            connection.connection.driver_connection.set_progress_handler(None, 0)
    return count - raw_count


@pytest.mark.parametrize("what", ["offerable", "queue_timeouts"])
def test_ten_thousand_queued_cost_what_ten_cost(world: World, what: str) -> None:
    calls: dict[str, Callable[[], object]] = {
        "offerable": lambda: builds.offerable(world.store, "compile.go", ["go-1.26"], 4),
        "queue_timeouts": lambda: builds.queue_timeouts(world.store, LIVE),
    }
    for _ in range(10):
        world.submit()
    few = max(1, steps_of(world, calls[what]))
    values = dict(world.row(world.submit()))
    with world.store.engine.begin() as tx:
        start = values.pop("number")
        rows = [values | {"number": start + n, "build_id": f"q{n:019d}"} for n in range(1, 10_000)]
        tx.execute(builds.builds.insert(), rows)
    world.at[0] += 1
    world.at[0] += 6_000  # the hints of the first call no longer fill the window
    many = steps_of(world, calls[what])
    assert many <= 3 * few + 20, f"{few * 100} steps with 10 queued, {many * 100} with 10,000"


def test_ten_thousand_organizations_cost_little_more_than_ten(world: World) -> None:
    def offer() -> object:
        return builds.offerable(world.store, "compile.go", ["go-1.26"], 4)

    values = dict(world.row(world.submit()))
    start = values.pop("number")

    def fill(first: int, last: int) -> None:
        with world.store.engine.begin() as tx:
            rows = [
                values | {"number": start + n, "build_id": f"o{n:019d}", "organization": f"o{n:06d}"}
                for n in range(first, last)
            ]
            tx.execute(builds.builds.insert(), rows)

    fill(1, 64)
    few = max(1, steps_of(world, offer))
    fill(64, 10_000)
    world.at[0] += 6_000
    many = steps_of(world, offer)
    assert many <= 3 * few + 20, f"{few * 100} steps with 64 organizations, {many * 100} with 10,000"


# Random interleavings

ACTIONS = ("submit", "claim", "plan", "line", "ok", "user", "platform", "back", "lost", "cancel",
           "adopt", "publish", "succeed", "time", "sweep")  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4), st.integers(0, 2)), max_size=60))
def test_whatever_comes_in_whatever_order(tmp_path_factory: pytest.TempPathFactory, steps: list[Any]) -> None:
    world = make(tmp_path_factory.mktemp("any") / "store.db")
    ids = [world.submit(), world.submit()]
    ended: dict[str, str] = {}
    asked: set[str] = set()
    claims: dict[str, int] = {}
    for action, which, age in steps:
        build = ids[which % len(ids)]
        before = world.row(build)
        if action == "cancel" and not before["published"] and before["status"] not in TERMINAL:
            asked.add(build)
        act(world, action, build, max(0, before["claim"] - age), ids)
        for one in ids:
            row = world.row(one)
            assert row["claim"] >= claims.get(one, 0)
            claims[one] = row["claim"]
            assert ended.setdefault(one, row["status"]) == row["status"] if one in ended else True
            if row["status"] in TERMINAL:
                ended[one] = row["status"]
            assert not (one in asked and row["status"] == "SUCCEEDED"), "a cancel was lost"
            if row["attached_to"]:
                assert row["status"] == "PENDING"
                primary = world.row(row["attached_to"])
                assert primary["status"] not in TERMINAL, "an attached build is stuck"
                assert not primary["attached_to"], "a primary is attached"
    for one in ids:
        lines = logs.read(world.store, one, 0, 100_000)
        assert [line["s"] for line in lines] == list(range(1, len(lines) + 1))
        reports = world.reports(one)
        finals = [report for report in reports if f'"{world.row(one)["status"]}"' in report["body"]
                  or "BUILD_STATUS_" + world.row(one)["status"] in report["body"]]  # fmt: skip
        if one in ended:
            assert len(finals) == 1
    for event in world.events:
        assert event.action in BY_NAME and event.status in BY_NAME[event.action].after
    world.store.engine.dispose()


def act(world: World, action: str, build: str, claim: int, ids: list[str]) -> None:
    store = world.store
    if action == "submit" and len(ids) < 5:
        ids.append(world.submit())
    elif action == "claim":
        builds.claim(store, build, "node", f"{world.at[0]}", LEASE, CAN)
    elif action == "plan":
        builds.planned(store, build, claim, "key", "code", "go")
    elif action == "line":
        kept = world.row(build)["claim_lines"]
        logs.append(store, build, claim, kept, [{"t": 0, "p": "BUILD", "o": "STDOUT", "l": "x"}])
    elif action == "ok":
        world.succeed_work(build, claim)
    elif action in ("user", "platform"):
        world.fail_work(build, claim, "CompileFailed" if action == "user" else "RegistryUnavailable")
    elif action in ("back", "lost"):
        builds.hand_back(store, build, claim, "drain" if action == "back" else "lost")
    elif action == "cancel":
        builds.cancel(store, "acme", build)
    elif action == "adopt":
        builds.adopt_finalize(store, LEASE)
    elif action == "publish":
        builds.publish(store, build, claim)
    elif action == "succeed":
        builds.succeed(store, build, claim, ())
    elif action == "time":
        world.at[0] += 15_000
    elif action == "sweep":
        builds.expire_leases(store, 1000)
        builds.queue_timeouts(store, LIVE)
        builds.build_timeouts(store, LEASE)
