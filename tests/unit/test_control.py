"""The loops: the reconciler's patience, what wakes which loop, and a loop that fails."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlalchemy.exc import OperationalError

from builder import config
from builder.control.loops import FAILED_STEPS, HANGING_S, LOOPS, LoopFailing, Loops, woken_by
from builder.control.process import Control as Process
from builder.logs import event_log
from builder.store import builds, offers, outbox
from builder.store.engine import Store
from builder.store.events import Event
from tests.store_contract.statements import begun, counted
from tests.store_contract.world import LEASE, World, open_world

TICK_S = 0.5


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


class Control:
    """Loops whose clock, and the store's with it, only moves when it is told to."""

    def __init__(self, world: World) -> None:
        self.world, self.seconds, self.down, self.waits_s = world, 0.0, "", 0.0
        store = world.store

        class Breaking(Store):
            def transaction(self) -> Any:
                if outer.down:
                    raise OperationalError("select 1", None, Exception("no connection"))
                outer.advance(outer.waits_s)
                return super().transaction()

            def read(self) -> Any:
                if outer.down == "everything":
                    raise OperationalError("select 1", None, Exception("no connection"))
                return super().read()

        outer = self
        self.loops = Loops(
            settings=config.load({"lease_ms": LEASE}).settings,
            store=Breaking(engine=store.engine, emit=store.emit, clock=store.clock),
            celery=cast(Any, None),
            finalizers=cast(Any, None),
            reports=cast(Any, None),
            retention=cast(Any, None),
            redis=cast(Any, None),
            log=event_log(io.StringIO()),
            monotonic=lambda: self.seconds,
        )

    def advance(self, seconds: float) -> None:
        self.seconds += seconds
        self.world.at[0] += int(seconds * 1000)

    def tick(self, seconds: float) -> None:
        """Ticks for so long."""
        for _ in range(int(seconds / TICK_S)):
            self.advance(TICK_S)
            try:
                self.loops.reconcile()
            except OperationalError:
                assert self.down


def expired(world: World, build: str) -> bool:
    return bool(world.row(build)["status"] == "PENDING" and world.row(build)["failures"] == 1)


def test_a_lease_expires_while_all_is_well_but_a_lease_after_the_start_at_the_earliest(world: World) -> None:
    build = world.submit()
    world.claim(build)
    control = Control(world)
    control.advance(60)  # before this control side began
    control.tick(LEASE / 1000 - TICK_S)
    assert world.row(build)["status"] == "RUNNING"
    control.tick(2 * TICK_S)
    assert expired(world, build)


@pytest.mark.parametrize("times", [1, 3])
def test_a_pause_of_ours_gives_every_owner_a_whole_lease_and_then_leases_expire_again(world: World, times: int) -> None:
    control = Control(world)
    control.tick(60)
    build = world.submit()
    world.claim(build)
    for _ in range(times):
        control.advance(45)
        control.tick(LEASE / 1000 - TICK_S)
        assert world.row(build)["status"] == "RUNNING", "nobody could beat while we were paused"
    control.tick(2 * TICK_S)
    assert expired(world, build)


@pytest.mark.parametrize("what", ["everything", "writes"])
def test_an_outage_of_the_store_is_nobodys_fault(world: World, what: str) -> None:
    """Also one in which it still answers reads (a full disk): a heartbeat is a write."""
    control = Control(world)
    control.tick(60)
    build = world.submit()
    world.claim(build)
    control.down = what
    control.tick(50)
    control.down = ""
    control.tick(LEASE / 1000 - TICK_S)
    assert world.row(build)["status"] == "RUNNING", "the owner lives for two leases and could not beat"
    control.tick(2 * TICK_S)
    assert expired(world, build)


def test_a_writer_that_held_everybody_up_costs_no_owner_its_lease(world: World) -> None:
    control = Control(world)
    control.tick(60)
    build = world.submit()
    world.claim(build)
    control.waits_s = 15.0  # for the lock that heartbeats wait for too
    control.tick(LEASE / 1000)
    control.waits_s = 0.0
    assert world.row(build)["status"] == "RUNNING"
    control.tick(LEASE / 1000 - TICK_S)
    assert world.row(build)["status"] == "RUNNING", "since then it has a whole lease"
    control.tick(2 * TICK_S)
    assert expired(world, build)


def test_a_tick_with_nothing_to_do_is_one_read_of_each_loop_and_asks_no_broker(world: World) -> None:
    control = Control(world)
    control.tick(60)
    world.claim(world.submit())
    with begun(world.store) as seen:
        control.tick(TICK_S)
        control.loops.dispatch()  # without Redis and Celery: it would raise
    assert seen == ["BEGIN DEFERRED"] * 2


def test_a_build_that_no_node_takes_is_warned_of_once(world: World) -> None:
    control = Control(world)
    changed: list[str] = []
    control.loops.finalizers = SimpleNamespace(changed=changed.append)  # type: ignore[assignment]
    control.tick(60)
    build = world.submit(queue="compile.any")
    control.tick(2 * LEASE / 1000)
    assert changed == [build]
    assert world.row(build)["log_lines"] == 1


# What wakes whom


def seen(world: World) -> dict[str, object]:
    """What each loop would find: waiting reports, builds due in FINALIZE, what is queued for a slot, used slots."""
    with world.store.engine.connect() as tx:
        rows = tx.execute(builds.builds.select()).mappings().all()
    at_work = [row["build_id"] for row in rows if row["stage"] == "WORK"]
    return {
        "report": outbox.waiting(world.store),
        "finalize": {
            row["build_id"] for row in rows if row["stage"] == "FINALIZE" and row["lease_until"] <= world.at[0]
        },
        "dispatch": (
            {row["build_id"] for row in rows if row["status"] == "PENDING" and not row["attached_to"]},
            at_work,
        ),
    }


def found_more(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """The loops that have more to do than before."""
    queued, used = before["dispatch"]
    now_queued, now_used = after["dispatch"]
    more = {"report"} if after["report"] > before["report"] else set()
    more |= {"finalize"} if after["finalize"] - before["finalize"] else set()
    return more | ({"dispatch"} if now_queued - queued or set(used) - set(now_used) else set())


def planned_alike(world: World) -> tuple[str, str]:
    """A primary with a follower."""
    primary, follower = world.submit(), world.submit()
    for build in (primary, follower):
        builds.planned(world.store, build, world.claim(build), "key", "code", "go")
    return primary, follower


def succeeded(world: World) -> None:
    primary, _ = planned_alike(world)
    world.succeed_work(primary, world.row(primary)["claim"])
    adopted = builds.adopt_finalize(world.store, LEASE)
    assert adopted is not None and builds.publish(world.store, primary, adopted["claim"])
    builds.succeed(world.store, primary, adopted["claim"], ())
    late = world.submit()
    assert builds.planned(world.store, late, world.claim(late), "key", "code", "go").verdict == "REUSE"


def failed(world: World, reason: str) -> None:
    primary, _ = planned_alike(world)
    world.fail_work(primary, world.row(primary)["claim"], reason)


def handed_back(world: World) -> None:
    build = world.submit()
    builds.hand_back(world.store, build, world.claim(build), "drain")


def cancelled(world: World) -> None:
    builds.cancel(world.store, "acme", world.submit())
    build = world.submit()
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    builds.hand_back(world.store, build, claim, "drain")


def late(world: World) -> None:
    world.submit(queue_timeout_ms=1_000)
    for _ in range(2):
        world.claim(world.submit(timeout_ms=1_000))
    world.at[0] += 1_000 + LEASE + 1
    assert world.queue_timeouts({})
    assert world.build_timeouts()
    world.claim(world.submit())
    world.at[0] += LEASE + 1
    assert world.expire_leases()


def gone(world: World) -> None:
    succeeded(world)
    for _ in range(2):
        row = builds.adopt_finalize(world.store, LEASE)
        if row is not None and row["from_cache_of"]:
            builds.rebuild(world.store, row["build_id"], row["claim"], "sha256:gone")


@pytest.mark.parametrize(
    "story",
    [succeeded, lambda world: failed(world, "CompileFailed"), lambda world: failed(world, "OutOfMemory"),
     lambda world: failed(world, "RegistryUnavailable"), handed_back, cancelled, late, gone],
    ids=["succeeded", "failed", "promoted", "retried", "handed-back", "cancelled", "late", "gone"],
)  # fmt: skip
def test_whatever_a_transition_gives_a_loop_to_do_wakes_it(
    world: World, story: Callable[[World], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each transaction, that is: what was found more, and which loops its events wake."""
    met: list[tuple[set[str], set[str], list[str]]] = []
    real = Store.transaction
    depth = [0]

    @contextmanager
    def watched(store: Store) -> Iterator[Any]:
        if depth[0]:
            with real(store) as tx:
                yield tx
            return
        depth[0] += 1
        before, told = seen(world), len(world.events)
        try:
            with real(store) as tx:
                yield tx
            events = world.events[told:]
            woken = {name for event in events for name in woken_by(event)}
            met.append((found_more(before, seen(world)), woken, [event.action for event in events]))
        finally:
            depth[0] -= 1

    monkeypatch.setattr(Store, "transaction", watched)
    story(world)
    assert any(more for more, _, _ in met)
    for more, woken, actions in met:
        assert more <= woken, f"{actions} give {more - woken} something to do"


def test_a_transition_that_gives_nobody_anything_to_do_wakes_nobody(world: World) -> None:
    build = world.submit()
    assert world.offer(4) == [build]
    claim = world.claim(build)
    world.events.clear()
    builds.heartbeat(world.store, build, claim, "BUILD", LEASE)
    builds.cancel(world.store, "acme", build)
    assert [set(woken_by(event)) for event in world.events if event.action != "cancelled"] == [set()] * len(
        world.events
    )


class Sent:
    """A Celery application that notes what it is given to send."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def send_task(self, name: str, *, kwargs: dict[str, str], **options: object) -> None:
        self.ids.append(kwargs["build_id"])


def test_a_full_window_spares_the_dispatcher_submissions_and_a_free_slot_wakes_it(world: World) -> None:
    control, sent = Control(world), Sent()
    loops = control.loops
    loops.celery, loops.reports = cast(Any, sent), cast(Any, SimpleNamespace(heard=lambda organization: True))
    woken = loops._wakes["dispatch"]

    def wakes(act: Callable[[], object]) -> bool:
        world.events.clear()
        woken.clear()
        act()
        for event in world.events:
            loops.changed(event)
        return woken.is_set()

    ids: list[str] = []
    for _ in range(5):
        assert wakes(lambda: ids.append(world.submit()))
    loops.dispatch(woken=True)
    assert sent.ids == ids[:4], "two slots, so a window of four"
    assert not wakes(world.submit), "its window is full"
    assert wakes(lambda: world.submit(queue="compile.python")), "another queue"
    loops.alone = lambda: False
    assert wakes(world.submit), "another control process may have made room"
    loops.alone = lambda: True
    claims = {build: world.claim(build) for build in ids[:2]}
    assert wakes(lambda: world.fail_work(ids[0], claims[ids[0]])), "a slot is free, and builds wait for a hint"
    loops.dispatch(woken=True)
    loops.dispatch()  # a tick forgets which windows were full
    assert wakes(world.submit)


def test_a_node_that_was_silent_for_two_leases_gets_no_hint(world: World) -> None:
    control, sent = Control(world), Sent()
    control.loops.celery = cast(Any, sent)
    control.advance(2 * LEASE / 1000 - 1)
    build = world.submit()
    control.loops.dispatch(woken=True)
    assert sent.ids == [build]
    control.advance(2)
    world.submit()
    control.loops.dispatch(woken=True)
    assert sent.ids == [build]


def test_a_lone_submission_is_offered_in_three_statements_and_anything_else_by_a_whole_look(world: World) -> None:
    control, sent = Control(world), Sent()
    loops = control.loops
    loops.celery, loops.reports = cast(Any, sent), cast(Any, SimpleNamespace(heard=lambda organization: True))

    def dispatched(*organizations: str, beside: Callable[[], object] = lambda: None) -> tuple[list[str], int]:
        """(what was offered, statements) after these submissions and a wake."""
        world.events.clear()
        ids = [world.submit(organization) for organization in organizations]
        for event in tuple(world.events):
            loops.changed(event)
        beside()
        sent.ids.clear()
        with counted(world.store) as seen:
            loops.dispatch(woken=True)
        assert sorted(sent.ids) == sorted(ids)
        for build in ids:
            world.fail_work(build, world.claim(build))
        return ids, len(seen)

    assert dispatched("a")[1] > 4, "at the start nobody knows what waits"
    assert dispatched("a")[1] == 3
    assert dispatched("b")[1] == 4, "the turn goes on to another organization"
    assert dispatched("b", "b")[1] == 3
    assert dispatched("a", "b")[1] > 4, "whose turn it is"
    assert dispatched("a", beside=lambda: loops.wake("dispatch"))[1] > 4, "something else changed as well"
    assert dispatched("b")[1] == 4
    loops.alone = lambda: False
    assert dispatched("b")[1] > 4, "another control process may have left builds without a hint"


def test_a_slot_that_becomes_free_wakes_nobody_while_nothing_waits_for_a_hint(world: World) -> None:
    control, sent = Control(world), Sent()
    loops = control.loops
    loops.celery, loops.reports = cast(Any, sent), cast(Any, SimpleNamespace(heard=lambda organization: True))
    build = world.submit()
    loops.dispatch(woken=True)
    assert sent.ids == [build]
    claim = world.claim(build)
    world.events.clear()
    world.fail_work(build, claim)
    for event in world.events:
        loops.changed(event)
    assert not loops._wakes["dispatch"].is_set()


def test_a_job_that_ends_wakes_the_dispatcher_for_what_its_organization_has_queued(world: World) -> None:
    control, sent = Control(world), Sent()
    loops = control.loops
    loops.settings = loops.settings.replace(running_jobs=1)
    loops.celery, loops.reports = cast(Any, sent), cast(Any, SimpleNamespace(heard=lambda organization: True))
    world.register("node", queue="image")
    first, second = world.submit(queue="image"), world.submit(queue="image")
    loops.dispatch(woken=True)
    assert sent.ids == [first], "the window has room for more"
    claim = world.claim(first)
    for event in world.events:
        loops.changed(event)
    loops.dispatch(woken=True)
    loops._wakes["dispatch"].clear()
    world.events.clear()
    world.fail_work(first, claim)
    for event in world.events:
        loops.changed(event)
    assert sent.ids == [first] and loops._wakes["dispatch"].is_set()
    loops.dispatch(woken=True)
    assert sent.ids == [first, second]


# A loop that fails


def test_a_loop_that_fails_several_times_in_a_row_is_named_until_it_goes_well(world: World) -> None:
    control = Control(world)
    steps: list[tuple[str, bool]] = []
    control.loops.stepped = lambda name, well: steps.append((name, well))

    def broken() -> None:
        raise ImportError("No module named 'packaging'")

    for _ in range(FAILED_STEPS):
        control.loops.ask("dispatch")
        assert not control.loops.take_step("dispatch", broken)
    with pytest.raises(LoopFailing, match="dispatch"):
        control.loops.ask("dispatch")
    control.loops.ask("report")
    assert control.loops.take_step("dispatch", lambda: None)
    control.loops.ask("dispatch")
    assert steps == [("dispatch", False)] * FAILED_STEPS + [("dispatch", True)]


@pytest.mark.slow
def test_a_loop_that_fails_hides_no_other_and_ends_none(world: World) -> None:
    """Two of the real threads fail at each step, a third one goes on."""
    control = Control(world)
    loops = control.loops
    failed: dict[str, threading.Event] = {"report": threading.Event(), "tags": threading.Event()}
    went = threading.Event()

    def stepped(name: str, well: bool) -> None:
        if not well and loops._failed[name] >= FAILED_STEPS:
            failed[name].set()
        if well and name == "finalize" and all(one.is_set() for one in failed.values()):
            went.set()
        if name in failed or name == "finalize":
            loops.wake(name)

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    loops.stepped = stepped
    checks = SimpleNamespace(check_tags=broken)
    finalizers = SimpleNamespace(finalizer=checks, step=lambda woken: None, period_ms=10, left=False, stop=lambda: None)
    loops.finalizers = cast(Any, finalizers)
    loops.reports = cast(Any, SimpleNamespace(step=broken, crowded=False, stop=lambda: None))
    loops.retention = cast(Any, SimpleNamespace(step=lambda: None, period_ms=60_000, stop=lambda: None))
    loops.start()
    try:
        assert all(one.wait(300) for one in (*failed.values(), went))
        for name in LOOPS:
            if name in failed:
                with pytest.raises(LoopFailing, match=name):
                    loops.ask(name)
            else:
                loops.ask(name)
    finally:
        loops.stop()


class Full:
    """A log on a disk that is full, whatever its level."""

    def __getattr__(self, name: str) -> Any:
        def raises(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        return raises


def driven(loops: Loops, report: Callable[[bool], None]) -> None:
    """Let the real threads drive steps that do nothing, and `report`."""
    checks = SimpleNamespace(check_tags=lambda: None)
    finalizers = SimpleNamespace(finalizer=checks, step=lambda woken: None, period_ms=10, left=False, stop=lambda: None)
    loops.finalizers = cast(Any, finalizers)
    loops.reports = cast(Any, SimpleNamespace(step=report, crowded=False, stop=lambda: None))
    loops.retention = cast(Any, SimpleNamespace(step=lambda: None, period_ms=60_000, stop=lambda: None))
    loops.start()


def test_a_loop_goes_on_whatever_becomes_of_the_line_that_tells_its_failure(world: World) -> None:
    loops, failed, well = Control(world).loops, threading.Event(), threading.Event()
    loops.log = cast(Any, Full())

    def report(woken: bool) -> None:
        if failed.is_set():
            well.set()
            return
        failed.set()
        loops.wake("report")
        raise OperationalError("select 1", None, Exception("database or disk is full"))

    driven(loops, report)
    try:
        assert well.wait(300)
        loops.ask("report")
    finally:
        loops.stop()


def test_a_loop_whose_thread_has_ended_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: ended.set())

    def report(woken: bool) -> None:
        raise GeneratorExit  # whatever a step's own trouble is not

    loops = Control(world).loops
    for name in LOOPS:
        loops.ask(name)  # before the start no thread is missing
    driven(loops, report)
    try:
        assert ended.wait(300)
        next(thread for thread in loops._threads if thread.name == "report").join(300)
        with pytest.raises(LoopFailing, match="report: its thread has ended"):
            loops.ask("report")
        loops.ask("finalize")
    finally:
        loops.stop()
    loops.ask("report")


def test_hints_are_sent_before_it_is_told_that_others_vanished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    loops, sent = Control(world).loops, Sent()
    loops.log, loops.celery = cast(Any, Full()), cast(Any, sent)
    monkeypatch.setattr(offers, "waiting", lambda *_: [SimpleNamespace(queue="compile.go", marked=0, room=1)])
    offered = SimpleNamespace(hints=[("compile.go", "b")], vanished={"compile.go": 1})
    monkeypatch.setattr(offers, "offer", lambda *_: offered)
    with pytest.raises(OSError):
        loops.dispatch()
    assert sent.ids == ["b"]


def event(action: str) -> Event:
    return Event(action=action, build_id="b", status="PENDING")


@pytest.mark.parametrize("broken", ["count", "log", "changed", "publish", "on_event"])
def test_a_transition_that_is_committed_raises_nothing_and_everybody_else_is_told(broken: str) -> None:
    """An answer 500 for a build that exists would have it submitted again."""
    told: list[str] = []

    def told_by(name: str) -> Callable[..., None]:
        def tell(*_: object, **__: object) -> None:
            if name == broken:
                raise OSError(28, "No space left on device")
            told.append(name)

        return tell

    process = Process.__new__(Process)
    process.metrics = cast(Any, SimpleNamespace(count=told_by("count")))
    process.log = cast(Any, SimpleNamespace(info=told_by("log"), error=told_by("log"), warning=told_by("log")))
    process.loops = cast(Any, SimpleNamespace(changed=told_by("changed")))
    process.redis = cast(Any, SimpleNamespace(publish=told_by("publish")))
    process._on_event = told_by("on_event")
    process._emit(event("cancel-request"))
    assert set(told) == {"count", "log", "changed", "publish", "on_event"} - {broken}


@pytest.mark.parametrize("name", LOOPS)
def test_a_step_that_does_not_end_is_a_failure_while_it_hangs_but_where_steps_are_long(world: World, name: str) -> None:
    control = Control(world)

    def hang() -> None:
        control.loops.ask(name)
        control.advance(HANGING_S + 1)
        if name in ("retention", "tags"):
            control.loops.ask(name)
            return
        with pytest.raises(LoopFailing, match="has not ended for 61 s"):
            control.loops.ask(name)

    assert control.loops.take_step(name, hang)
    control.loops.ask(name)
