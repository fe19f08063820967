"""What a write costs in statements, and that a read waits for no writer. With the store's real clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, event

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, listeners, logs, nodes, offers, outbox, queues, rows, sweeps
from builder.store.engine import Store
from builder.store.transitions import TERMINAL
from tests.store_contract.world import LEASE, LIVE_MS, World, attached, in_finalize, line

KEY = ("key", "code", "go")


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """The statements that run inside, BEGIN and COMMIT apart."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    event.listen(store.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store.engine, "before_cursor_execute", note)


@contextmanager
def begun(store: Store) -> Iterator[list[str]]:
    """One entry for each transaction that begins inside: how SQLite began it; "BEGIN" elsewhere."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("BEGIN"):
            seen.append(statement)

    def begin(connection: Connection) -> None:
        if connection.dialect.name != "sqlite":
            seen.append("BEGIN")

    hooks: tuple[tuple[str, Callable[..., None]], ...] = (("before_cursor_execute", note), ("begin", begin))
    for name, hook in hooks:
        event.listen(store.engine, name, hook)
    try:
        yield seen
    finally:
        for name, hook in hooks:
            event.remove(store.engine, name, hook)


def real(world: World) -> Store:
    """The same store by its own clock: reading it must cost no statement."""
    return Store(engine=world.store.engine, emit=world.store.emit)


def outcome(reason: str) -> dict[str, Any]:
    artifact = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r", size_bytes=1)
    return {"failure": pb.Failure(reason=reason, message="m")} if reason else {"success": artifact}


@pytest.mark.parametrize("last", [0, 1, 20], ids=["", "last-lines", "last-lines-beyond-the-limit"])
@pytest.mark.parametrize("long", [False, True], ids=["", "held-lines"])
@pytest.mark.parametrize("reason", ["", "CompileFailed", "RegistryUnavailable", "cancel"])
def test_a_finish_is_at_most_six_statements(world: World, reason: str, long: bool, last: int) -> None:
    """With its last lines, too, while the log is within its limit. Lines beyond it are two more where the build ends:
    they are held, in place of others or behind those that are kept, and what is held is read back in their order."""
    build = world.submit(log_limit=1_000)
    claim = world.claim(build)
    builds.planned(world.store, build, claim, *KEY)
    if long:
        logs.append(world.store, build, claim, 0, [line("x" * 100)] * 20)
    if reason == "cancel":
        builds.cancel(world.store, "acme", build)
    phase = pb.PhaseRecord(phase=pb.BUILD_PHASE_BUILD, status=pb.PHASE_STATUS_SUCCEEDED, started_at_ms=1, ended_at_ms=2)
    lines, first = [line("x" * 100 if last > 1 else "x")] * last, world.row(build)["claim_lines"]
    request = pb.FinishRequest(build_id=build, claim=claim, phases=[phase], first_index=first, **outcome(reason))
    with counted(world.store) as seen:
        done = builds.finish(real(world), request, 1000, lines=lines)
    assert done.outcome == "done"
    assert len(seen) <= (8 if last and (long or last > 1) else 6), seen
    assert bool(world.row(build)["log_cut"]) == (long or last > 1), "the limit was passed"
    assert done.row == world.row(build), "the answer is what was written, though it was not read again"


@pytest.mark.parametrize("no_cache", [False, True])
@pytest.mark.parametrize("long", [False, True], ids=["", "held-lines"])
def test_a_success_is_at_most_eight_statements(world: World, no_cache: bool, long: bool) -> None:
    build = world.submit(no_cache=no_cache, log_limit=1_000)
    claim = world.claim(build)
    assert builds.planned(world.store, build, claim, *KEY).verdict == "GO_ON"
    if long:
        logs.append(world.store, build, claim, 0, [line("x" * 100)] * 20)
    world.succeed_work(build, claim)
    adopted = builds.adopt_finalize(world.store, LEASE)
    assert adopted is not None and builds.publish(world.store, build, adopted["claim"])
    with counted(world.store) as seen:
        row = builds.succeed(real(world), build, adopted["claim"], (("ATTEST", 1, 2), ("FINALIZE", 2, 3)))
    assert len(seen) <= 8, seen
    assert row == world.row(build)


def test_an_append_is_at_most_four_statements(world: World) -> None:
    """The one batch for which held lines are dropped first writes the marker as well, which takes a place among the
    kept lines: five, once for each log."""
    build = world.submit(log_limit=20_000)
    claim = world.claim(build)
    counts = []
    for first in range(0, 400, 10):
        with counted(world.store) as seen:
            logs.append(real(world), build, claim, first, [line("x" * 90)] * 10)
        counts.append(len(seen))
    assert world.row(build)["log_cut"], "the limit was passed"
    assert sorted(counts)[-2] <= 4 and max(counts) <= 5, counts
    within = 0.9 * 20_000 / 10 / 90
    assert max(counts[: int(within)]) <= 3, "within the limit: the fence, the lines, the counters"


def test_the_other_writes_of_an_owner_are_few_statements(world: World) -> None:
    store, build = real(world), world.submit()
    with counted(world.store) as seen:
        granted = builds.claim(store, build, "node", "n", LEASE)
    assert granted.row == world.row(build)
    claims = list(seen)
    with counted(world.store) as beats:
        assert builds.heartbeat(store, build, 1, "BUILD", LEASE, "node")
    with counted(world.store) as plans:
        assert builds.planned(store, build, 1, *KEY).verdict == "GO_ON"
    with counted(world.store) as lines:
        assert builds.planned(store, build, 1, *KEY, log_count=1, lines=[line("x")]).verdict == "GO_ON"
    assert (len(claims), len(beats)) == (3, 1) and len(plans) <= 5
    assert len(lines) <= len(plans) + 1, "the lines themselves"
    assert world.row(build)["phase"] == "BUILD"


def test_a_follower_costs_the_end_of_its_primary_no_more_than_its_own(world: World) -> None:
    primary, claim, followers = attached(world)
    with counted(world.store) as seen:
        world.fail_work(primary, claim)
    assert {world.row(one)["status"] for one in followers} == {"FAILED"}
    assert len(seen) <= 8 + 3 * len(followers), seen


def test_a_read_waits_for_no_writer_and_sees_what_was_committed(world: World) -> None:
    build = world.submit()
    store, look = world.store, rows.lock_one
    with store.transaction() as tx:
        row = look(tx, builds.builds.c.build_id == build)
        assert row is not None
        rows.write(tx, row, name="changed")
        with begun(store) as seen:
            answers = {
                "by_id": builds.by_id(store, build),
                "get": builds.get(store, "acme", build),
                "page": builds.page(store, "acme", 10, None)[0],
            }
            assert {name: found["name"] for name, found in answers.items() if found} == dict.fromkeys(answers, "n")
            reads = (
                lambda: builds.starting(store, "acme", build, 9), lambda: builds.position(store, row),
                lambda: logs.read(store, build, 0), lambda: nodes.all_nodes(store), lambda: outbox.due(store, 9),
                lambda: builds.tag_digest(store, "acme/n", "latest"), lambda: queues.lengths(store),
                lambda: sweeps.look(store, LEASE, LIVE_MS, {}), lambda: offers.waiting(store, LIVE_MS),
                lambda: nodes.context(store, "c", "acme"), lambda: nodes.uploaded(store, "0" * 64, "acme"),
                lambda: builds.tags_to_check(store, 1, 1, 1), lambda: builds.adopt_finalize(store, LEASE),
                lambda: outbox.waiting(store), lambda: queues.oldest_ms(store),
                lambda: outbox.oldest_ms(store), lambda: nodes.states(store, LIVE_MS),
            )  # fmt: skip
            for read in reads:
                read()
        assert len(seen) == len(answers) + len(reads), "each is one transaction"
        assert "BEGIN IMMEDIATE" not in seen


def test_a_look_of_dispatcher_and_reconciler_with_nothing_to_do_is_a_read(world: World) -> None:
    claimed = world.submit()
    world.claim(claimed)
    with begun(world.store) as transactions, counted(world.store) as statements:
        assert offers.waiting(world.store, LIVE_MS) == []
        assert not sweeps.look(world.store, LEASE, LIVE_MS, {})
    assert len(transactions) == 2 and "BEGIN IMMEDIATE" not in transactions
    assert len(statements) == 3


def test_a_look_of_a_finalizer_with_nothing_to_adopt_is_one_statement(world: World) -> None:
    """Also while a build waits for the finalizer of its repository, or for its next attempt."""
    first, second = in_finalize(world), world.submit()
    world.succeed_work(second, world.claim(second))

    def look() -> None:
        with begun(world.store) as transactions, counted(world.store) as statements:
            assert builds.adopt_finalize(world.store, LEASE) is None
        assert (len(transactions), len(statements)) == (1, 1) and "BEGIN IMMEDIATE" not in transactions

    look()
    builds.release_finalize(world.store, first["build_id"], first["claim"])
    adopted = builds.adopt_finalize(world.store, LEASE)
    assert adopted is not None and adopted["build_id"] == second
    builds.release_finalize(world.store, second, adopted["claim"])
    look()


def test_all_queues_are_offered_in_one_transaction(world: World) -> None:
    for queue in ("compile.go", "compile.python", "compile.any"):
        world.register(f"node of {queue}", queue=queue)
        world.submit(queue=queue, toolchain="")
    with begun(world.store) as seen:
        waiting = offers.waiting(world.store, LIVE_MS)
        offered = offers.offer(world.store, waiting, {})
    assert len(seen) == 2
    assert sorted(queue for queue, _ in offered.hints) == ["compile.any", "compile.go", "compile.python"]
    assert offers.waiting(world.store, LIVE_MS)[0].room, "one hint does not fill a window of four"
    world.at[0] += offers.SETTLE_MS
    listed = {queue: {build} for queue, build in offered.hints}
    waiting = offers.waiting(world.store, LIVE_MS)
    assert [each.marked for each in waiting] == [True] * 3
    again = offers.offer(world.store, waiting, {**listed, "compile.go": set()})
    assert again.vanished == {"compile.go": 1}
    assert [queue for queue, _ in again.hints] == ["compile.go"]


def test_a_full_window_needs_no_dispatcher(world: World) -> None:
    for _ in range(9):
        world.submit()
    offered = offers.offer(world.store, offers.waiting(world.store, LIVE_MS), {})
    assert len(offered.hints) == 4, "twice the free slots"
    assert offers.waiting(world.store, LIVE_MS) == []
    for _, build in offered.hints[:2]:
        world.claim(build, build)
    assert offers.waiting(world.store, LIVE_MS) == [], "no slot is free"


def test_only_a_node_that_can_do_something_new_is_a_change(world: World) -> None:
    def register(*toolchains: str, slots: int = 2) -> bool:
        made = dict.fromkeys(toolchains, "sha256:0")
        return nodes.register(world.store, "n", ["compile.go"], made, slots, LIVE_MS).changed

    assert [register("a"), register("a"), register("a", "b"), register("a", "b", slots=3)] == [True, False, True, True]
    world.at[0] += LIVE_MS - 1
    assert not register("a", "b", slots=3)
    world.at[0] += LIVE_MS
    assert register("a", "b", slots=3), "it was not seen for so long that its builds were offered to others"


def test_each_end_calls_the_listeners_once_inside_its_transaction(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[tuple[str, str, str]] = []

    def listen(tx: Connection, now: int, before: Any, after: Any) -> None:
        written = tx.execute(builds.builds.select().where(builds.builds.c.build_id == after["build_id"]))
        assert dict(written.mappings().one()) == dict(after)
        assert len(heard) < 5, "the fifth end is refused"
        heard.append((after["build_id"], before["status"], after["status"]))

    monkeypatch.setattr(listeners, "LISTENERS", (*listeners.LISTENERS, listen))
    primary, claim, followers = attached(world)
    world.fail_work(primary, claim)
    cancelled = world.submit()
    builds.cancel(world.store, "acme", cancelled)
    assert heard == [
        (primary, "RUNNING", "FAILED"),
        *((one, "PENDING", "FAILED") for one in followers),
        (cancelled, "PENDING", "CANCELLED"),
    ]
    row = in_finalize(world)
    assert builds.publish(world.store, row["build_id"], row["claim"])
    before = (world.row(row["build_id"]), world.reports(row["build_id"]))
    with pytest.raises(AssertionError, match="the fifth end is refused"):
        builds.succeed(world.store, row["build_id"], row["claim"], ())
    assert (world.row(row["build_id"]), world.reports(row["build_id"])) == before, "a listener that raises undoes it"
    assert not [one for one in world.events if one.build_id == row["build_id"] and one.status in TERMINAL]


def test_the_statements_of_an_idle_tick_are_built_once(world: World) -> None:
    def tick() -> list[Any]:
        executed: list[Any] = []

        def note(connection: Any, statement: Any, *_: Any) -> None:
            executed.append(statement)

        event.listen(world.store.engine, "before_execute", note)
        try:
            world.register("node")
            assert offers.waiting(world.store, LIVE_MS) == []
            assert not sweeps.look(world.store, LEASE, LIVE_MS, {})
            assert not builds.adopt_due(world.store, LEASE, 4, outside=2).rows
        finally:
            event.remove(world.store.engine, "before_execute", note)
        return executed

    world.register("node")
    first, second = tick(), tick()
    assert len(first) >= 5
    assert list(map(id, first)) == list(map(id, second))
