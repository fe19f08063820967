"""A node says of itself what its Celery worker does, not what its settings wish."""

from __future__ import annotations

import copy
import faulthandler
import importlib
import importlib.util
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from celery import Celery
from celery.worker import state

from builder.broker.app import make_celery, read_queues
from builder.claims.calls import Refused as CallRefused
from builder.claims.calls import Unanswered
from builder.claims.requests import Close
from builder.client.api import CHECK_SCHEME, Api, ApiError, ApiUnreachable
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.messages import run_message
from builder.errors import BuildError
from builder.node import child as children
from builder.node import registration as registrations
from builder.node.calls import ApiCalls
from builder.node.main import work
from builder.node.registration import KEY_BYTES, Reads
from builder.node.worker import WorkerProcess, WorkerRefused, reads_of
from builder.settings import Settings
from tests.cli_fixtures import run

SETTINGS = Settings(queues=(), slots=2)


def worker(select: list[str] | None, **sizes: object) -> SimpleNamespace:
    """As Celery's worker object is at its signals, over a real application and its real choice of queues."""
    app: Celery = make_celery(SETTINGS)
    read_queues(app, SETTINGS.queue_list(("go", "python")), SETTINGS.slots)
    if select is not None:
        app.amqp.queues.select(select)
    return SimpleNamespace(app=app, **sizes)


@pytest.mark.parametrize(
    ("select", "sizes", "reads"),
    [
        (None, {"concurrency": 2}, Reads(queues=("compile.go", "compile.python", "compile.any"), slots=2)),
        (["compile.go"], {"concurrency": 5}, Reads(queues=("compile.go",), slots=5)),
        (["compile.go"], {"concurrency": "auto"}, Reads(queues=("compile.go",), slots=2)),
        (["elsewhere"], {"concurrency": 1, "max_concurrency": 4}, Reads(queues=("elsewhere",), slots=4)),
    ],
    ids=["all", "chosen", "not yet known", "autoscaled"],
)
def test_what_celery_reads_and_runs_is_what_counts(
    select: list[str] | None, sizes: dict[str, object], reads: Reads
) -> None:
    assert reads_of(worker(select, **sizes), SETTINGS) == reads


def test_the_settings_queues_are_exactly_these() -> None:
    assert Settings(queues=("compile.go",)).queue_list(("go", "python")) == ("compile.go",)


class Registrar:
    """An API that only gives the key of the messages."""

    def __init__(self) -> None:
        self.key, self.drain = "one", False

    def call(self, name: str, request: pb.RegisterNodeRequest) -> pb.RegisterNodeResponse:
        assert (name, request.node_id) == ("RegisterNode", SETTINGS.node_id)
        self.toolchains = dict(request.toolchains)
        return pb.RegisterNodeResponse(message_key=self.key, drain=self.drain)


def test_a_new_key_reaches_the_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned: list[str] = []
    monkeypatch.setattr(children, "claim_build", lambda node, build_id: owned.append(build_id))
    parent, api, build = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar(), "k7m2xq9d4t1zv6wh5r3p"
    parent.registration.register(cast(Api, api))
    child = copy.copy(parent.child)  # as a fork has it: every attribute of its own, shared memory shared
    child._registration = copy.copy(parent.registration)
    child.handle(run_message(build, "one"))
    api.key = "zwei, länger"
    parent.registration.register(cast(Api, api))
    child.handle(run_message(build, "one"))
    assert owned == [build]
    child.handle(run_message(build, api.key))
    assert owned == [build, build]


def test_a_key_that_is_too_long_is_no_key(tmp_path: Path) -> None:
    node, api = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar()
    api.key = "x" * (KEY_BYTES + 1)
    with pytest.raises(ApiUnreachable, match="4097 bytes"):
        node.registration.register(cast(Any, api))


class Consumer:
    """Celery's consumer as far as a node asks it for something, always by `call_soon`."""

    def __init__(self) -> None:
        self.controller = worker(["compile.go", "compile.any"], concurrency=1)
        self.said: list[str] = []

    def call_soon(self, change: Any, queue: str) -> None:
        change(queue)

    def cancel_task_queue(self, queue: str) -> None:
        self.said.append("-" + queue)

    def add_task_queue(self, queue: str) -> None:
        self.said.append("+" + queue)


def test_a_node_that_shall_drain_reads_no_queue_until_it_may_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, api, consumer = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar(), Consumer()
    monkeypatch.setattr(node.registration, "stay", lambda: None)
    api.drain = True
    node.registration.register(cast(Any, api))  # before Celery reads anything; heard again by the next one
    node._on_ready(consumer)
    for drain, said in ((True, ["-compile.go", "-compile.any"]), (False, ["+compile.go", "+compile.any"])):
        api.drain = drain
        node.registration.register(cast(Any, api))
        node.registration.register(cast(Any, api))
        assert sorted(consumer.said) == sorted(said)
        consumer.said.clear()


def test_a_node_that_lacks_room_takes_no_hint_from_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, api, consumer = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar(), Consumer()
    monkeypatch.setattr(node.registration, "stay", lambda: None)
    node._on_ready(consumer)
    full = ["its disk is full", "its disk is full", ""]
    monkeypatch.setattr(registrations, "lacks", lambda settings: full.pop(0))
    for drain, said in ((False, ["-compile.go", "-compile.any"]), (True, []), (True, [])):
        api.drain = drain
        node.registration.register(cast(Any, api))
        assert sorted(consumer.said) == sorted(said)
        consumer.said.clear()
    full, api.drain = [""], False
    node.registration.register(cast(Any, api))
    assert sorted(consumer.said) == sorted(["+compile.go", "+compile.any"])


class Full:
    """The worker's log on a disk that is full, whatever its level."""

    def __getattr__(self, name: str) -> Any:
        def raises(*_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

        return raises


def test_queues_are_left_before_that_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node, api, consumer = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar(), Consumer()
    monkeypatch.setattr(node.registration, "stay", lambda: None)
    monkeypatch.setattr(registrations, "log", Full())
    node._on_ready(consumer)
    api.drain = True
    with pytest.raises(OSError):
        node.registration.register(cast(Any, api))
    assert sorted(consumer.said) == ["-compile.any", "-compile.go"]


def test_no_signal_makes_a_worker_write_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery's own handler of SIGUSR1 writes those of each thread."""
    node = WorkerProcess(Settings(node_dir=str(tmp_path)))
    monkeypatch.setattr(node.registration, "stay", lambda: None)
    faulthandler.unregister(signal.SIGUSR1)
    node._on_ready(Consumer())
    unregister: Callable[[int], object] = faulthandler.unregister  # whether there was one, which its stub does not have
    assert unregister(signal.SIGUSR1), "the interpreter's own answer was there: a stack, and no variable"


@pytest.mark.usefixtures("nothing_logged")
def test_no_trace_of_an_owner_has_a_secret_with_rich_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor the variables of its frames, the grant's among them, nor what the words of the error repeat."""
    assert importlib.util.find_spec("rich"), "with it structlog's own form shows them"
    token, password, key = "wtok-51d0a7c93be2", "redis-e8c2b7704f1a", "ghp-0f6b1d2c8a93"
    settings = Settings(node_dir=str(tmp_path), token=token, redis_url=f"redis://:{password}@redis.test/0")
    grant = pb.ClaimBuildResponse(granted=True, build_id="k7m2xq9d4t1zv6wh5r3p", claim=1, secrets={"git.token": key})

    def driving(node: object, given: pb.ClaimBuildResponse, **_: object) -> object:
        secrets, mine = dict(given.secrets), settings
        raise RuntimeError(f"{len(secrets)}: git refuses {key} for {mine.redis_url}")

    monkeypatch.setattr(children, "claim_build", lambda node, build_id: grant)
    monkeypatch.setattr(children, "driving", driving)
    child = WorkerProcess(settings).child
    child._registration.learn_key("k")
    monkeypatch.setattr(child, "_make_node", lambda: SimpleNamespace(readers=SimpleNamespace(start=lambda: None)))
    child.handle(run_message(grant.build_id, "k"))
    said = capsys.readouterr()
    assert [one for one in (token, password, key) if one in said.out + said.err] == []
    assert "owner-failed" in said.err and "RuntimeError: 1: git refuses *** for redis://***@redis.test/0" in said.err
    assert "Traceback (most recent call last):" in said.err and said.out == ""


@pytest.mark.parametrize(("failure", "looks"), [("ToolchainUnavailable", 2), ("CompileFailed", 1), ("", 1)], ids=str)
def test_a_node_whose_toolchain_is_gone_looks_before_it_registers_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, looks: int
) -> None:
    grant = pb.ClaimBuildResponse(granted=True, build_id="k7m2xq9d4t1zv6wh5r3p", claim=1)
    outcome = SimpleNamespace(failure=BuildError(failure, "zig-1") if failure else None, job=None)
    monkeypatch.setattr(children, "claim_build", lambda node, build_id: grant)
    monkeypatch.setattr(children, "driving", lambda node, given, **_: nullcontext())
    monkeypatch.setattr(children, "do_work", lambda attempt, line: outcome)
    monkeypatch.setattr(children, "close", lambda attempt, outcome: Close.FINISH)
    monkeypatch.setattr(children, "settle", lambda: None)
    node, seen = WorkerProcess(Settings(node_dir=str(tmp_path))), [{"zig-1": "sha256:1"}, {}]
    monkeypatch.setattr(node.registration._looks, "_look", lambda: seen.pop(0))
    monkeypatch.setattr(node.child, "_make_node", lambda: SimpleNamespace(readers=SimpleNamespace(start=lambda: None)))
    api = Registrar()
    node.registration.register(cast(Any, api))
    child = copy.copy(node.child)  # as a fork has it
    child._registration = copy.copy(node.registration)
    child.handle(run_message(grant.build_id, api.key))
    for _ in range(2):
        node.registration.register(cast(Any, api))
    assert (len(seen), api.toolchains) == (2 - looks, {"zig-1": "sha256:1"} if looks == 1 else {})


SERVED: dict[str, Any] = {"server": "http://control.test:8480", "token": "t"}


@pytest.mark.parametrize(
    ("values", "where", "step"),
    [
        ({"token": "t"}, "server", "IGNITE_BUILDER_SERVER"),
        ({"server": "http://control.test"}, "token", "IGNITE_BUILDER_TOKEN_FILE"),
        ({**SERVED, "token": "two words"}, "token", "IGNITE_BUILDER_TOKEN_FILE"),
        ({**SERVED, "token": "líne"}, "token", "IGNITE_BUILDER_TOKEN_FILE"),
    ],
)
def test_a_worker_that_can_call_nobody_does_not_start(values: dict[str, Any], where: str, step: str) -> None:
    with pytest.raises(BuildError) as caught:
        work(Settings(**values))
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", where)
    assert step in caught.value.next
    ran = run("worker", settings=Settings(**values))
    assert (ran.code, step in ran.err, "whose  the platform (platform)" in ran.err) == (75, True, True), ran


@pytest.mark.parametrize("start", ["ignite-builder worker", "celery worker"])
def test_a_worker_whose_operators_pipeline_cannot_be_loaded_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], start: str
) -> None:
    theirs = tmp_path / "theirs_lacking"
    theirs.mkdir()
    (theirs / "__init__.py").write_text("from builder.pipelines.python import *\n")
    (theirs / "planning.py").write_text("import theirs_nowhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builder.node.main.leave_no_core", lambda: None)
    settings = Settings(node_dir=str(tmp_path / "node"), pipelines=("theirs_lacking",), **SERVED)
    words = "pipelines: theirs_lacking cannot be loaded: No module named 'theirs_nowhere'"
    try:
        if start == "celery worker":
            monkeypatch.setattr("builder.config.load", lambda: SimpleNamespace(settings=settings))
            with pytest.raises(WorkerRefused) as refused:
                importlib.import_module("builder.node.celery")
            assert (refused.value.code, words in capsys.readouterr().err) == (75, True)
        else:
            ran = run("worker", settings=settings)
            assert (ran.code, words in ran.err) == (75, True), ran
    finally:
        sys.modules.pop("theirs_lacking", None)


def test_a_goodbye_that_is_refused_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = Refusing(ApiError(401, "UNAUTHENTICATED", "no more", {}))
    monkeypatch.setattr("builder.node.registration.Api", api)
    node = WorkerProcess(Settings(node_dir=str(tmp_path), **SERVED))
    node.registration.leaving.set()
    node.registration.stay()
    assert api.calls == 1


@pytest.mark.parametrize("log", [None, Full()], ids=["a log", "a full disk"])
def test_a_node_stays_registered_whatever_happens_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Full | None
) -> None:
    """One that left silently would come back with a restart alone."""
    node = WorkerProcess(Settings(node_dir=str(tmp_path), heartbeat_ms=20, **SERVED)).registration
    troubles = [
        OSError(30, "Read-only file system"), UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "invalid"), IndexError("x"),
        ApiUnreachable("503"), ApiError(500, "INTERNAL", "no", {}), Unanswered("away"), RuntimeError("a bug"),
    ]  # fmt: skip
    swept, registered, waited = list(troubles), list(troubles), list[float]()

    def fails(left: list[Exception]) -> None:
        if left:
            raise left.pop(0)

    def register(api: object) -> None:
        if node.leaving.is_set():
            return
        fails(registered)

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        if len(waited) > 2 * len(troubles):
            node.leaving.set()
        return node.leaving.is_set()

    monkeypatch.setattr(registrations, "remove_left_behind", lambda folder: fails(swept))
    monkeypatch.setattr(registrations, "send_left_behind", lambda calls, folder: None)
    monkeypatch.setattr(node, "register", register)
    leaving = threading.Event()
    monkeypatch.setattr(node, "leaving", SimpleNamespace(wait=wait, is_set=leaving.is_set, set=leaving.set))
    if log is not None:
        monkeypatch.setattr("sys.stderr", log)
    node.stay()
    assert (swept, registered) == ([], [])


def test_a_node_that_is_refused_ends_whatever_becomes_of_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.node.registration.Api", Refusing(ApiError(401, "UNAUTHENTICATED", "no more", {})))
    monkeypatch.setattr("celery.worker.state.should_stop", None)
    monkeypatch.setattr(registrations, "log", Full())
    node = WorkerProcess(Settings(node_dir=str(tmp_path), heartbeat_ms=50, **SERVED)).registration
    with pytest.raises(OSError):
        node.stay()
    assert state.should_stop == 75 and node.leaving.is_set()


def test_a_look_that_fails_is_not_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = WorkerProcess(Settings(node_dir=str(tmp_path)))
    looked: list[str] = []

    def look(name: str, times: int) -> Callable[..., None]:
        def once(*_: object) -> None:
            looked.append(name)
            if looked.count(name) == times:
                raise SystemExit
            raise UnicodeDecodeError("utf-8", b"\xe4", 0, 1, "invalid")

        return once

    monkeypatch.setattr(node._watch, "look", look("children", 3))
    monkeypatch.setattr("builder.node.worker.within_budget", look("budget", 3))
    monkeypatch.setattr("builder.node.worker.time.sleep", lambda seconds: None)
    monkeypatch.setattr(node.registration, "leaving", SimpleNamespace(wait=lambda seconds: False))
    for loop in (node._watch_children, node._stay_within_budget):
        with pytest.raises(SystemExit):
            loop()
    assert looked == ["children"] * 3 + ["budget"] * 3


REFUSALS = {
    "UNAUTHENTICATED": (401, "InvalidRequest", "IGNITE_BUILDER_TOKEN_FILE"),
    "PERMISSION_DENIED": (403, "InvalidRequest", "node_id"),
    "FAILED_PRECONDITION": (400, "Internal", "the same version"),
    "UNKNOWN": (404, "InvalidRequest", "URL of an ignite-builder serve"),
}


class Refusing:
    """An API that does not want this node."""

    def __init__(self, error: Exception) -> None:
        self.error, self.calls = error, 0

    def __call__(self, *_: object, **__: object) -> Refusing:
        return self

    def call(self, name: str, request: object) -> object:
        self.calls += 1
        raise self.error


@pytest.mark.parametrize("code", REFUSALS)
def test_a_refused_node_ends_at_its_start_and_says_what_to_do(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, reason, step = REFUSALS[code]
    api, said = Refusing(ApiError(status, code, "not you", {})), io.StringIO()
    monkeypatch.setattr("builder.node.registration.Api", api)
    node = WorkerProcess(Settings(node_dir=str(tmp_path), unsandboxed=True, **SERVED), said)
    with pytest.raises(WorkerRefused) as caught:
        node._on_init(worker(None, concurrency=1))
    assert (caught.value.error.reason, caught.value.code, api.calls) == (reason, 75, 1)
    assert "not you" in said.getvalue() and step in said.getvalue()


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"])
def test_a_node_that_is_refused_later_drains_and_ends(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, _, _ = REFUSALS[code]
    api = Refusing(ApiError(status, code, "no more", {}))
    monkeypatch.setattr("builder.node.registration.Api", api)
    monkeypatch.setattr("celery.worker.state.should_stop", None)
    node = WorkerProcess(Settings(node_dir=str(tmp_path), heartbeat_ms=50, **SERVED))
    node.registration.stay()
    assert (state.should_stop, api.calls) == (75, 1)
    assert node.registration._leaving_since.value > 0


def test_a_redirection_ends_the_start_with_the_scheme_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved = "the server answered 308 and sends to https://control.test"
    error = ApiError(308, "UNKNOWN", moved, {}, is_foreign=True, leads_to="https://control.test")
    monkeypatch.setattr("builder.node.registration.Api", Refusing(error))
    node = WorkerProcess(Settings(node_dir=str(tmp_path), unsandboxed=True, **SERVED))
    with pytest.raises(WorkerRefused) as caught:
        node._on_init(worker(None, concurrency=1))
    assert (caught.value.code, caught.value.error.where, caught.value.error.next) == (75, "server", CHECK_SCHEME)
    assert "https://control.test" in caught.value.error.message


@pytest.mark.parametrize("status", [302, 401, 403, 404])
def test_a_proxys_refusal_ends_no_node_that_works(status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is nobody's verdict on the node: the proxy may be set right at any time."""
    node = WorkerProcess(Settings(node_dir=str(tmp_path), heartbeat_ms=50, **SERVED))

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 3:
            node.registration.leaving.set()
        return httpx.Response(status, html="no")

    asked: list[httpx.Request] = []
    made = Api("http://control.test", "t", transport=httpx.MockTransport(answer))
    monkeypatch.setattr("builder.node.registration.Api", lambda *_, **__: made)
    monkeypatch.setattr("celery.worker.state.should_stop", None)
    node.registration.stay()
    assert state.should_stop is None and len(asked) == 4  # the last one is the goodbye


def test_an_answer_of_something_else_ends_the_start_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.node.registration.Api", Refusing(BuildError("InvalidRequest", "body is not JSON")))
    node = WorkerProcess(Settings(node_dir=str(tmp_path), unsandboxed=True, **SERVED))
    with pytest.raises(WorkerRefused) as caught:
        node._on_init(worker(None, concurrency=1))
    assert "no ignite-builder serve" in caught.value.error.message and caught.value.error.where == "server"


@pytest.mark.parametrize(
    ("error", "means"),
    [(ApiUnreachable("503"), Unanswered), (ApiError(403, "PERMISSION_DENIED", "no", {}), CallRefused)],
    ids=["unreachable", "refused"],
)
def test_every_call_of_an_owner_ends_unanswered_or_refused(error: Exception, means: type[Exception]) -> None:
    class Failing:
        def call(self, name: str, request: Any) -> Any:
            raise error

        def download(self, path: str) -> Iterator[bytes]:
            assert path == "/v1/ignite/worker/builds/b/source?claim=3"
            yield b"a"
            raise error

    calls = ApiCalls(cast(Api, Failing()))
    for call, request in (
        (calls.claim, pb.ClaimBuildRequest()),
        (calls.heartbeat, pb.HeartbeatRequest()),
        (calls.planned, pb.PlannedRequest()),
        (calls.append_log, pb.AppendLogRequest()),
        (calls.finish, pb.FinishRequest()),
        (calls.hand_back, pb.HandBackRequest()),
    ):
        with pytest.raises(means):
            cast(Any, call)(request)
    with pytest.raises(means):
        list(calls.open_source("b", 3))


def ours(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "message": "no", "details": []})


FOREIGN = {
    **{str(status): httpx.Response(status, html="no") for status in (302, 400, 401, 403, 404, 407, 431, 451, 501)},
    "json": httpx.Response(403, json={"code": 403, "message": "denied by policy"}),
    "nothing": httpx.Response(403),
    "login": httpx.Response(200, html="log in"),
}


def ends(answer: httpx.Response, tmp_path: Path) -> Iterator[type[Exception] | None]:
    """How every call of a node ends with this answer."""
    calls = ApiCalls(Api("http://control.test", "t", transport=httpx.MockTransport(lambda request: answer)))
    archive = tmp_path / "archive"
    archive.write_bytes(b"archive")
    for call in (
        lambda: calls.claim(pb.ClaimBuildRequest(build_id="b")),
        lambda: calls.heartbeat(pb.HeartbeatRequest(build_id="b")),
        lambda: calls.planned(pb.PlannedRequest(build_id="b")),
        lambda: calls.append_log(pb.AppendLogRequest(build_id="b")),
        lambda: calls.finish(pb.FinishRequest(build_id="b")),
        lambda: calls.hand_back(pb.HandBackRequest(build_id="b")),
        lambda: calls.launching(pb.LaunchingRequest(build_id="b")),
        lambda: calls.launched(pb.LaunchedRequest(build_id="b")),
        lambda: list(calls.open_source("b", 3)),
        lambda: calls.store_archive("b", 3, archive, "sha256:00", 60),
    ):
        try:
            cast(Any, call)()
            yield None
        except (Unanswered, CallRefused) as error:
            yield type(error)


@pytest.mark.parametrize("answer", FOREIGN.values(), ids=FOREIGN)
def test_a_proxys_answer_ends_no_claim(answer: httpx.Response, tmp_path: Path) -> None:
    """It is tried again while the lease lasts."""
    assert set(ends(answer, tmp_path)) == {Unanswered}


@pytest.mark.parametrize(
    "answer", [ours(403, "PERMISSION_DENIED"), ours(404, "NOT_FOUND"), httpx.Response(413, html="too large")]
)
def test_a_refusal_of_the_api_or_of_what_is_sent_is_final(answer: httpx.Response, tmp_path: Path) -> None:
    assert set(ends(answer, tmp_path)) == {CallRefused}
