"""Whatever goes wrong in a step, no loop ends by it, and nothing stays marked as at work that nobody works on."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
import redis

from builder import config
from builder.claims.calls import Unanswered
from builder.control import finalizers as pools
from builder.control import reports as posts
from builder.control.finalizers import Finalizers
from builder.control.reports import Reports
from builder.errors import BuildError
from builder.mask import NOTHING
from builder.node import drive
from builder.node import registration as registrations
from builder.node import worker as workers
from builder.node.cancels import Cancels
from builder.node.registration import Registration
from builder.node.worker import WorkerProcess
from builder.services.tails import Tails
from builder.store import outbox
from builder.watcher import watcher as watchers
from builder.watcher.build import Lost
from builder.watcher.watcher import Watcher
from tests.store_contract.world import LEASE, World, open_world

URL = "https://receiver.test/reports"


class Odd(Exception):
    """What no caller names."""


class Log:
    """A log that keeps the actions that it was told."""

    def __init__(self) -> None:
        self.actions: list[str] = []
        self.said: list[dict[str, object]] = []

    def warning(self, event: str, *, action: str, **fields: object) -> None:
        self.actions.append(action)
        self.said.append(fields)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


class Driven:
    """Reports to a receiver that is a function, with what clients were made with; `ended` has one entry a thread."""

    def __init__(
        self,
        world: World,
        monkeypatch: pytest.MonkeyPatch,
        post: Callable[[httpx.Request], httpx.Response],
        report_url: str = URL,
    ) -> None:
        self.made: list[dict[str, Any]] = []
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.log = Log()

        def client(**given: Any) -> httpx.Client:
            self.made.append(given)
            return httpx.Client(transport=httpx.MockTransport(post), timeout=given["timeout"])

        monkeypatch.setattr(posts, "new_client", client)
        settings = config.load({"report_url": report_url, "ca_bundle": __file__}).settings
        self.reports = Reports(
            settings=settings, store=world.store, log=cast(Any, self.log), freed=lambda: self.ended.put(None)
        )

    def run(self, threads: int) -> None:
        """One step, and the end of so many threads."""
        self.reports.step()
        for _ in range(threads):
            self.ended.get(timeout=300)


def taken(request: httpx.Request) -> httpx.Response:
    return httpx.Response(204)


def test_a_receiver_is_trusted_by_the_bundle_of_the_settings(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    driven = Driven(world, monkeypatch, taken)
    driven.run(1)
    assert [given["ca_bundle"] for given in driven.made] == [__file__]
    assert outbox.waiting(world.store) == 0


@pytest.mark.parametrize(
    "error", [Odd("odd"), BuildError("InvalidRequest", "no certificates"), UnicodeEncodeError("ascii", "ä", 0, 1, "no")]
)
def test_a_report_that_cannot_be_posted_waits_like_one_of_a_receiver_that_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    world.submit()
    posted: list[bytes] = []

    def post(request: httpx.Request) -> httpx.Response:
        posted.append(request.content)
        if len(posted) == 1:
            raise error
        return httpx.Response(204)

    driven = Driven(world, monkeypatch, post)
    driven.run(1)
    assert driven.log.actions == ["report-failed"]
    driven.run(0)
    assert len(posted) == 1, "it waits for its next try"
    world.at[0] += 1_000
    driven.run(1)
    assert len(posted) == 2 and outbox.waiting(world.store) == 0


def test_no_credential_of_a_receiver_is_in_the_log(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """httpx has the URL in its words of an answer, and a header in those of one that it cannot send."""
    secret, url = "hunter2", "https://u:hunter2@receiver.test/reports?key=hunter2"
    answers: list[Any] = [
        httpx.Response(403),
        httpx.ConnectError("[Errno 111] Connection refused"),
        httpx.LocalProtocolError("Illegal header value b'Bearer hunter2'"),
        httpx.InvalidURL("hunter2"),
        UnicodeEncodeError("ascii", "hunter2ö", 7, 8, "no"),
    ]

    def post(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        answer.request = request
        return cast(httpx.Response, answer)

    world.submit()
    driven = Driven(world, monkeypatch, post, report_url=url)
    for _ in range(len(answers)):
        driven.run(1)
        world.at[0] += 3_600_000
    said = driven.log.said
    assert [fields["error"] for fields in said] == [
        "answered 403", "ConnectError('[Errno 111] Connection refused')", "LocalProtocolError", "InvalidURL",
        "UnicodeEncodeError",
    ]  # fmt: skip
    assert secret not in repr(said) and all("receiver.test" in str(fields["url"]) for fields in said)


def test_what_a_log_does_not_take_is_noted_all_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report, that it failed; a finalizer's claim, that it is free."""

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("away")

    build = world.submit()
    driven = Driven(world, monkeypatch, away)
    monkeypatch.setattr(driven.log, "warning", full)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    driven.run(1)
    assert not outbox.due(world.store, 9), "it waits for its next try"
    world.succeed_work(build, world.claim(build))

    def trouble(row: object) -> None:
        raise Odd("odd")

    pool = Finalizers(
        settings=config.load({"lease_ms": LEASE}).settings,
        store=world.store,
        finalizer=cast(Any, SimpleNamespace(finish=trouble)),
        changed=lambda build_id: None,
        log=cast(Any, FULL),
    )
    row = pool.adopt()
    assert row is not None
    with pytest.raises(OSError, match="no space left"):
        pool.attempt(row)
    world.at[0] += 60_000
    again = pool.adopt()
    assert again is not None and again["failures"] == 0, "nobody was lost"


def test_an_organization_whose_thread_failed_is_delivered_to_by_the_next_step(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.submit()
    exchange, failures = outbox.exchange, [Odd("odd")]

    def broken(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return exchange(*args)

    monkeypatch.setattr(outbox, "exchange", broken)
    driven = Driven(world, monkeypatch, taken)
    driven.run(1)
    assert outbox.waiting(world.store) == 1 and driven.log.actions == ["report-unnoted"]
    assert not driven.reports.heard("acme"), "no thread sees to it"
    driven.run(1)
    assert outbox.waiting(world.store) == 0


class NoThread(threading.Thread):
    """A thread that the system has no room for, while `full`."""

    full = True

    def start(self) -> None:
        if NoThread.full:
            raise RuntimeError("can't start new thread")
        super().start()


def test_a_thread_that_cannot_start_keeps_no_organization_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    driven = Driven(world, monkeypatch, taken)
    monkeypatch.setattr(NoThread, "full", True)
    monkeypatch.setattr(posts, "threading", SimpleNamespace(**vars(threading) | {"Thread": NoThread}))
    with pytest.raises(RuntimeError, match="can't start"):
        driven.reports.step()
    monkeypatch.setattr(NoThread, "full", False)
    driven.run(1)
    assert outbox.waiting(world.store) == 0


def test_a_finalizer_whose_thread_cannot_start_lets_its_build_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its lease renewed for ever no other would adopt it."""
    build = world.submit()
    world.succeed_work(build, world.claim(build))
    attempted: queue.SimpleQueue[str] = queue.SimpleQueue()
    finalizer = SimpleNamespace(finish=lambda row: attempted.put(row["build_id"]))
    pool = Finalizers(
        settings=config.load({"lease_ms": LEASE}).settings,
        store=world.store,
        finalizer=cast(Any, finalizer),
        changed=lambda build_id: None,
        log=cast(Any, Log()),
    )
    monkeypatch.setattr(NoThread, "full", True)
    monkeypatch.setattr(pools, "threading", SimpleNamespace(**vars(threading) | {"Thread": NoThread}))
    with pytest.raises(RuntimeError, match="can't start"):
        pool.step()
    assert not pool._at_work
    monkeypatch.setattr(NoThread, "full", False)
    pool.step()  # gives the claim back
    world.at[0] += 60_000
    pool.step()
    assert attempted.get(timeout=300) == build
    assert world.row(build)["failures"] == 0, "it lost no finalizer"
    pool.stop()


def stops_after(times: int, stop: Callable[[], None]) -> Callable[..., Any]:
    """A call that fails oddly so many times; the last one stops the loop."""
    calls = iter(range(times))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == times - 1:
            stop()
        raise Odd("odd")

    return call


@pytest.mark.parametrize("error", [redis.ConnectionError("away"), Odd("odd")])
def test_tails_go_on_whatever_redis_answers(error: Exception) -> None:
    tails = Tails(cast(Any, SimpleNamespace()))
    calls: list[str] = []

    def away(what: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(what)
            if calls.count(what) == 2:
                tails.stop()
            else:
                tails.tell("another")
            raise error

        return call

    tails._redis = cast(Any, SimpleNamespace(publish=away("publish"), pubsub=away("pubsub")))
    tails.tell("build")
    tails.publish()
    tails._stop.clear()
    tails.read()
    assert calls == ["publish"] * 2 + ["pubsub"] * 2


def test_the_cancels_go_on_whatever_redis_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    cancels = Cancels("redis://127.0.0.1:1/0")
    monkeypatch.setattr("builder.node.cancels.AGAIN_S", 0)
    monkeypatch.setattr(redis.Redis, "from_url", stops_after(2, cancels.close))
    cancels._listen()
    assert cancels._done.is_set(), "the second try was made"


def settings(tmp_path: Path, **more: Any) -> Any:
    return config.load({"node_dir": str(tmp_path), "server": "http://server.test", "token": "t", **more}).settings


@pytest.mark.parametrize("what", ["remove_left_behind", "register", "send_left_behind"])
def test_a_node_stays_registered_whatever_one_round_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    node = Registration(settings(tmp_path, heartbeat_ms=50), cast(Any, None), (), cast(Any, None))
    registered: list[tuple[str, ...]] = []
    node._reads = registrations.Reads(queues=("compile.go",), slots=1)
    rounds = 0

    def begin(folder: Path) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            node.leaving.set()
        if what == "remove_left_behind":
            raise Odd("odd")

    def register(api: object) -> None:
        if what == "register" and rounds < 3:
            raise Odd("odd")
        registered.append(node._reads.queues)

    def send(*args: object) -> None:
        raise Odd("odd") if what == "send_left_behind" else Unanswered("later")

    monkeypatch.setattr(registrations, "remove_left_behind", begin)
    monkeypatch.setattr(registrations, "send_left_behind", send)
    monkeypatch.setattr(node, "register", register)
    node.stay()
    assert registered == [("compile.go",)] * (1 if what == "register" else 3) + [()], "its goodbye is the last"


def test_a_goodbye_that_fails_oddly_ends_the_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = Registration(settings(tmp_path), cast(Any, None), (), cast(Any, None))
    node.leaving.set()
    monkeypatch.setattr(node, "register", stops_after(1, lambda: None))
    node.stay()


class Ended(BaseException):
    """Ends a loop that has no end."""


def test_the_looks_at_children_and_disk_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = WorkerProcess.__new__(WorkerProcess)
    node.settings = settings(tmp_path)
    looks: list[str] = []

    def look(*args: object) -> None:
        looks.append("look")
        raise Odd("odd") if len(looks) < 3 else Ended

    node._watch = cast(Any, SimpleNamespace(look=look))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(Ended):
        node._watch_children()
    assert len(looks) == 3
    looks.clear()
    monkeypatch.setattr(workers, "within_budget", look)
    node.registration = cast(Any, SimpleNamespace(leaving=SimpleNamespace(wait=lambda seconds: False)))
    with pytest.raises(Ended):
        node._stay_within_budget()
    assert len(looks) == 3


def full(*args: object, **fields: object) -> None:
    raise OSError("no space left")


FULL = SimpleNamespace(warning=full, error=full, info=full)


def test_a_claim_whose_heartbeat_died_is_lost_whatever_the_log_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    lost: list[bool] = []
    attempt = SimpleNamespace(
        lease=SimpleNamespace(build_id="b"),
        log=SimpleNamespace(spool=None, mask=NOTHING),
        lose=lambda: lost.append(True),
    )
    driver = drive._Driver(cast(Any, attempt), lambda: False, lambda until: None)
    monkeypatch.setattr(drive, "log", FULL)
    with pytest.raises(OSError, match="no space left"):
        driver._guarded(stops_after(1, lambda: None))
    assert lost == [True]


@pytest.mark.parametrize("error", [Lost(), Odd("odd")])
def test_a_build_that_nobody_follows_is_forgotten_whatever_the_log_takes(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    watcher = Watcher("w", cast(Any, None), (), lease_s=1, beat_s=1)
    build = cast(Any, SimpleNamespace(build_id="b"))
    watcher._builds["b"] = build
    monkeypatch.setattr(watchers, "log", FULL)

    async def work() -> None:
        raise error

    with pytest.raises(OSError, match="no space left"):
        asyncio.run(watcher._guarded(build, work()))
    assert not watcher.builds
