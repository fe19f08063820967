"""The HTTP adapter without a socket: what a caller reads while the store is away, and what the probes say."""

from __future__ import annotations

import asyncio
import io
import json
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import redis
import uvicorn
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from builder import __version__, config, pipelines
from builder.contract import routes
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.control.metrics import Metrics
from builder.data import catalog_file
from builder.errors import BuildError
from builder.logs import event_log
from builder.pipelines import catalog
from builder.services.auth import SCOPES, Caller, admit
from builder.services.builds import BuildService
from builder.services.errors import CallRefused
from builder.services.nodes import OperateService
from builder.services.parts import Parts
from builder.services.shares import Memory
from builder.services.streams import LogStreams
from builder.services.tails import Tails
from builder.services.uploads import Uploads
from builder.services.workers import WorkerService
from builder.settings import Token
from builder.store import builds, nodes, outbox, queues
from builder.store.engine import Store, open_store
from builder.stores.folder import FolderStore
from builder.transports.http import bodies
from builder.transports.http import server as server_module
from builder.transports.http.app import CALLS_AT_ONCE, make_app
from builder.transports.http.app import Api as HttpApi
from builder.transports.http.connections import HEAD_S, LEAST, LEAVING_S, STALL_S, Connections, places
from builder.transports.http.events import end_event, log_event
from builder.transports.http.probes import Probes
from builder.transports.http.server import Protocol
from tests.store_contract.world import LIVE_MS, open_world


class Api:
    """The application over a store whose file can go away; `said` is the server's log."""

    def __init__(self, folder: Path, parts: Mapping[str, Callable[[], object]], **more: int) -> None:
        self.folder, self.said = folder, io.StringIO()
        self.store: Store = open_store(f"sqlite:///{folder}/store/builder.db")
        tokens = (
            Token(token="t", organization="acme"),
            Token(token="reader", organization="acme", scopes=("read",)),
            Token(token="o", organization="other"),
            Token(token="node", scopes=("worker",)),
        )
        settings = config.load({"tokens": tokens, **more}).settings
        shared = Parts(
            settings=settings,
            store=self.store,
            sources=FolderStore(folder / "sources", "http://api"),
            catalog=catalog.read(catalog_file("")),
            runtimes=pipelines.arguments(),
            wake=lambda: None,
            changed=lambda build_id: None,
            stale=lambda call: None,
            dropped=lambda messages: None,
        )
        self.metrics = Metrics(
            queued=lambda: queues.lengths(self.store),
            oldest_ms=lambda: queues.oldest_ms(self.store),
            free=lambda: {"compile.go": 1},
            reports=lambda: outbox.waiting(self.store),
        )
        log = event_log(self.said)
        self.streams = LogStreams(shared, Tails(redis.Redis()), log_event, end_event)
        self.uploads = Uploads(shared)
        self.workers = WorkerService(shared)
        services = (BuildService(shared), self.workers, OperateService(shared))
        self.calls = HttpApi(settings, *services, self.streams, self.uploads)
        self.app = make_app(self.calls, Probes(parts, self.metrics.page, log), log)

    def get(self, path: str, **headers: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api") as client:
                return await client.get(path, headers={"authorization": "Bearer t", **headers})

        return asyncio.run(ask())

    def post(self, path: str, token: str = "t", **more: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api") as client:
                headers = {"authorization": f"Bearer {token}", **more.pop("headers", {})}
                return await client.post(path, headers=headers, **more)

        return asyncio.run(ask())

    def lose_the_store(self) -> None:
        self.store.engine.dispose()
        shutil.rmtree(self.folder / "store")

    def samples(self) -> dict[tuple[str, str], float]:
        """(name, loop or queue) → value."""
        page = self.get("/metrics")
        assert page.status_code == 200
        found = [one for family in text_string_to_metric_families(page.text) for one in family.samples]
        return {(one.name, one.labels.get("loop", one.labels.get("queue", ""))): one.value for one in found}


@pytest.fixture
def parts() -> dict[str, Callable[[], object]]:
    return {}


@pytest.fixture
def api(tmp_path: Path, parts: dict[str, Callable[[], object]]) -> Iterator[Api]:
    made = Api(tmp_path, parts)
    yield made
    made.store.engine.dispose()


def test_a_store_that_is_away_is_an_outage_to_wait_out_and_no_bug(api: Api) -> None:
    assert api.get("/v1/ignite/builds").status_code == 200
    api.lose_the_store()
    answer = api.get("/v1/ignite/builds")
    assert (answer.status_code, answer.json()["code"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"
    assert "store-away" in api.said.getvalue() and "Traceback" not in api.said.getvalue()


def test_a_statement_that_the_store_refuses_is_a_bug(api: Api) -> None:
    with api.store.engine.begin() as tx:
        tx.exec_driver_sql("alter table builds rename to away")
    answer = api.get("/v1/ignite/builds")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")


def test_a_connection_that_broke_is_an_outage(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Store) -> None:
        raise OperationalError("select 1", None, Exception("server closed the connection unexpectedly"))

    for name in ("read", "transaction"):
        monkeypatch.setattr(Store, name, broken)
    assert api.get("/v1/ignite/builds").status_code == 503


def test_metrics_show_loops_and_waiting_reports_and_go_on_without_the_store(api: Api) -> None:
    api.metrics.stepped("report", True)
    for _ in range(2):
        api.metrics.stepped("dispatch", False)
    found = api.samples()
    assert found["ignite_loop_failures_total", "dispatch"] == 2
    assert found["ignite_loop_failures_total", "report"] == 0
    assert found["ignite_loop_last_success_timestamp_seconds", "report"] > 0
    assert ("ignite_loop_last_success_timestamp_seconds", "dispatch") not in found
    assert found["ignite_reports_waiting", ""] == 0
    assert found["ignite_oldest_queued_seconds", "compile.go"] == 0
    api.lose_the_store()
    assert api.samples()["ignite_loop_failures_total", "dispatch"] == 2


def test_the_page_has_phases_of_ended_builds_the_state_of_each_node_and_the_age_of_reports(tmp_path: Path) -> None:
    """Read by Prometheus' own parser, which refuses families and labels that are not well-formed."""
    world = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    hostile = 'a"b\\c'
    world.register("away", hostile)
    world.at[0] += LIVE_MS
    world.register(hostile)
    metrics = Metrics(
        queued=lambda: queues.lengths(world.store),
        oldest_ms=lambda: queues.oldest_ms(world.store),
        free=dict,
        reports=lambda: outbox.waiting(world.store),
        oldest_report_ms=lambda: outbox.oldest_ms(world.store),
        states=lambda: nodes.states(world.store, LIVE_MS),
    )
    build = world.submit()
    claim = world.claim(build)
    spans = ((pb.BUILD_PHASE_BUILD, 1_000, 3_000), (pb.BUILD_PHASE_PUSH, 10**15, 0), (pb.BUILD_PHASE_PLAN, 0, 10**15))
    records = [pb.PhaseRecord(phase=phase, started_at_ms=start, ended_at_ms=stop) for phase, start, stop in spans]
    failure = pb.Failure(reason="CompileFailed", message="m", phase=pb.BUILD_PHASE_BUILD)
    request = pb.FinishRequest(build_id=build, claim=claim, failure=failure, phases=records)
    builds.finish(world.store, request, 1000)
    world.at[0] += 7_000
    for event in world.events:
        metrics.count(event)
    families = {one.name: one for one in text_string_to_metric_families(metrics.page().decode())}
    world.store.engine.dispose()

    def values(name: str, sample: str, label: str) -> dict[str, float]:
        return {one.labels[label]: one.value for one in families[name].samples if one.name == sample}

    name = "ignite_phase_duration_seconds"
    assert values(name, name + "_count", "phase") == dict.fromkeys(("QUEUED", "BUILD", "PUSH", "PLAN"), 1)
    sums = values(name, name + "_sum", "phase")
    assert sums == {"QUEUED": 0, "BUILD": 2, "PUSH": 0, "PLAN": 86_400}, "a clock that jumps is no duration"
    below = [one.labels["le"] for one in families[name].samples if one.labels["phase"] == "BUILD" and one.value == 0]
    assert below[-1] == "1.0", "the bucket of 2.5 s is the first that has it"
    states = {(one.labels["node"], one.labels["state"]) for one in families["ignite_node_state"].samples if one.value}
    assert states == {("node", "away"), ("away", "away"), (hostile, "ready")}
    assert len(families["ignite_node_state"].samples) == 3 * len(nodes.STATES)
    assert [families[one].samples[0].value for one in ("ignite_reports_waiting", "ignite_reports_oldest_seconds")] == [
        3,
        7,
    ]


def test_readyz_names_the_part_that_is_missing(api: Api, parts: dict[str, Callable[[], object]]) -> None:
    def failing() -> None:
        raise RuntimeError("no module named packaging")

    parts["loop report"] = lambda: None
    assert api.get("/readyz").status_code == 200
    parts["loop dispatch"] = failing
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["details"] == [{"part": "loop dispatch", "why": "RuntimeError"}]
    parts["loop tags"] = failing
    names = [detail["part"] for detail in api.get("/readyz").json()["details"]]
    assert names == ["loop dispatch", "loop tags"], "one does not hide the other"


def test_a_token_without_the_scope_is_refused_before_its_body_is_read(api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    for path in ("/v1/ignite/builds", "/v1/ignite/builds/contexts", "/v1/ignite/worker/builds/b1/log"):
        answer = api.post(path, "reader", content=body())
        assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


def test_a_literal_segment_of_a_path_wins_over_a_parameter(api: Api) -> None:
    paths = [route.path for route in api.app.routes if isinstance(route, Route)]
    assert paths.index("/v1/ignite/builds/secrets") < paths.index("/v1/ignite/builds/{build_id}")
    assert paths.index("/v1/ignite/builds/contexts") < paths.index("/v1/ignite/builds/{build_id}/cancel")


def test_what_is_not_built_yet_is_what_has_no_method() -> None:
    """The contract's list, which the tables of the documents are made of."""
    served = {
        name for target in (BuildService, WorkerService, OperateService, LogStreams, Uploads) for name in dir(target)
    }
    names = {method.name for service in routes.services() for method in service.methods}
    snake = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}
    assert {name for name in names if snake[name] not in served} - {"StreamBuildLogs"} == routes.NOT_YET


WATCHERS = dict.fromkeys(("AdoptJob", "BeatJobs", "CaughtUp", "CurrentJobs"), "watch")


def test_the_scope_of_each_call() -> None:
    build, worker, operate = routes.services()
    assert SCOPES == {
        "CreateBuild": "submit",
        "CancelBuild": "submit",
        "SaveBuildSecrets": "submit",
        "ListBuildSecrets": "read",
        "DeleteBuildSecret": "submit",
        "UploadBuildContext": "submit",
        "GetBuild": "read",
        "ListBuilds": "read",
        "ListBuildReports": "read",
        "StreamBuildLogs": "read",
        "ListNodes": "operate",
        "DrainNode": "operate",
        "ForgetNode": "operate",
        **WATCHERS,
    }
    assert set(SCOPES) == {method.name for method in (*build.methods, *operate.methods)} | WATCHERS.keys()
    for method in worker.methods:
        with pytest.raises(CallRefused):
            admit(Caller(organization="", scopes=frozenset({"submit", "read"})), method.name)


# What a body may be


UPLOAD = "/v1/ignite/builds/contexts"
BUILDS = "/v1/ignite/builds"


async def unread() -> AsyncIterator[bytes]:
    raise AssertionError("the body was read")
    yield b""


@pytest.mark.parametrize("path", [UPLOAD, BUILDS])
@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "br"),
        ("Content-Type", "application/x-www-form-urlencoded"),
        ("Content-Type", "multipart/form-data; boundary=x"),
    ],
)
def test_a_body_of_another_kind_is_refused_unread_by_its_header(api: Api, path: str, header: str, value: str) -> None:
    answer = api.post(path, headers={header: value}, content=unread())
    detail = answer.json()["details"][0]
    assert (answer.status_code, detail["reason"], detail["where"]) == (415, "UnsupportedMediaType", header)
    assert f"{header}: {value.partition(';')[0]}" in answer.json()["message"]


@pytest.mark.parametrize("value", ["text/plain", "application/json; charset=latin-1"])
def test_a_message_is_json_in_utf_8(api: Api, value: str) -> None:
    assert api.post(BUILDS, headers={"content-type": value}, content=unread()).status_code == 415


@pytest.mark.parametrize("value", ["application/json", "Application/JSON; charset=UTF-8", ""])
def test_json_is_read_by_any_spelling_of_its_type(api: Api, value: str) -> None:
    answer = api.post(BUILDS, headers={"content-type": value} if value else {}, content=b"{}")
    assert (answer.status_code, answer.json()["details"][0]["where"]) == (400, "name")


@pytest.mark.parametrize("value", ["application/zip", "application/x-tar", "application/octet-stream", ""])
def test_a_source_is_read_by_any_type_of_an_archive(api: Api, value: str) -> None:
    answer = api.post(UPLOAD, headers={"content-type": value} if value else {}, content=b"source")
    assert (answer.status_code, answer.json()["sizeBytes"]) == (200, "6")


def test_an_upload_without_bytes_is_refused(api: Api) -> None:
    answer = api.post(UPLOAD, content=b"")
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (400, "SourceEmpty")


def test_the_message_about_an_upload_beside_a_runtime_names_the_way(api: Api) -> None:
    body = {"name": "app", "contextId": "ctx1", "code": {"compile": {"runtime": {"go": {}}}}}
    message = api.post(BUILDS, json=body).json()["message"]
    assert "code.compile.runtime beside sourceRef.contextId" in message


# Who may hold what


class Dripping:
    """A client over ASGI whose body goes on when the test says so. `answer` is what it received."""

    def __init__(
        self, api: Api, token: str, path: str = UPLOAD, length: int = 500_000_000, *, expects: bool = False
    ) -> None:
        self._api, self._pieces = api, asyncio.Queue[dict[str, Any]]()
        headers = [(b"authorization", f"Bearer {token}".encode()), (b"content-length", str(length).encode())]
        headers += [(b"expect", b"100-continue")] if expects else []
        self._scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers, "http_version": "1.1", "scheme": "http", "server": ("api", 80), "root_path": "",
        }  # fmt: skip
        self.answer: dict[str, Any] = {}
        self.asked = asyncio.Event()
        self.send(b"x")

    def send(self, data: bytes, more: bool = True) -> None:
        self._pieces.put_nowait({"type": "http.request", "body": data, "more_body": more})

    @property
    def unread(self) -> int:
        """Pieces of the body that nobody has read."""
        return self._pieces.qsize()

    async def call(self) -> None:
        async def receive() -> dict[str, Any]:
            if self._pieces.empty():
                self.asked.set()  # what was sent is read, and more is waited for
            return await self._pieces.get()

        async def send(message: MutableMapping[str, Any]) -> None:
            self.answer |= message

        await self._api.app(self._scope, receive, send)


def test_eight_uploads_that_drip_hold_up_nobody_else(api: Api) -> None:
    async def work() -> tuple[list[int], int, int]:
        clients = [Dripping(api, "t") for _ in range(8)]
        calls = [asyncio.create_task(client.call()) for client in clients]
        for client, call in zip(clients, calls, strict=True):
            asked = asyncio.create_task(client.asked.wait())
            await asyncio.wait((asked, call), return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
        refused = [client.answer.get("status", 0) for client in clients]
        other = Dripping(api, "o", length=13)
        other.send(b" 13 bytes it", more=False)
        await other.call()  # while the others wait
        waiting = sum(not call.done() for call in calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return refused, other.answer["status"], waiting

    statuses, other, waiting = asyncio.run(work())
    assert sorted(statuses) == [0, 0, 0, 0, 429, 429, 429, 429]
    assert (other, waiting) == (200, 4)
    assert not list((api.folder / "sources").glob(".partial-*"))
    assert api.post(UPLOAD, content=b"again").status_code == 200  # the share is free again


def test_a_refused_upload_says_when_to_come_again_and_is_not_read(api: Api) -> None:
    for _ in range(4):
        api.uploads.share.take("acme")
    answer = api.post(UPLOAD, content=unread())
    assert (answer.status_code, answer.json()["code"]) == (429, "RESOURCE_EXHAUSTED")
    assert answer.json()["details"][0]["reason"] == "QuotaExceeded" and int(answer.headers["retry-after"]) > 0


def test_a_log_stream_counts_until_it_ends(tmp_path: Path, parts: dict[str, Callable[[], object]]) -> None:
    api = Api(tmp_path, parts, log_streams=1)
    body = {"name": "app", "code": {"compile": {"sourceCode": "eA==", "runtime": {"python": {}}}}}
    build = api.post(BUILDS, json=body).json()["buildId"]
    assert api.post(f"{BUILDS}/{build}/cancel").status_code == 200
    for _ in range(2):  # each gives its place back
        assert "event: eof" in api.get(f"{BUILDS}/{build}/logs/stream?fromStart=true").text
        assert api.get(f"{BUILDS}/none/logs/stream").status_code == 404
    api.streams.share.take("acme")
    answer = api.get(f"{BUILDS}/{build}/logs/stream?fromStart=true")
    assert (answer.status_code, answer.json()["details"][0]["reason"]) == (429, "QuotaExceeded")
    api.store.engine.dispose()


def test_a_reader_that_had_the_end_is_told_to_stay_away(api: Api) -> None:
    body = {"name": "app", "code": {"compile": {"sourceCode": "eA==", "runtime": {"python": {}}}}}
    path = f"{BUILDS}/{api.post(BUILDS, json=body).json()['buildId']}"
    api.post(f"{path}/cancel")
    whole = api.get(f"{path}/logs/stream?fromStart=true").text
    *lines, last = [int(number) for number in re.findall(r"^id: (\d+)$", whole, re.M)]
    assert lines and last == lines[-1] + 1
    answer = api.get(f"{path}/logs/stream?fromStart=true", **{"last-event-id": str(last)})
    assert (answer.status_code, answer.content) == (204, b"")
    again = api.get(f"{path}/logs/stream?fromStart=true", **{"last-event-id": str(lines[-1])})
    assert "event: eof" in again.text, "every line arrived, the end did not"
    assert api.streams.share._open == {}


def test_a_sequence_before_the_first_is_refused(api: Api) -> None:
    body = {"name": "app", "code": {"compile": {"sourceCode": "eA==", "runtime": {"python": {}}}}}
    path = f"{BUILDS}/{api.post(BUILDS, json=body).json()['buildId']}/logs/stream"
    answer = api.get(f"{path}?fromSequence=-1")
    assert (answer.status_code, answer.json()["details"][0]["where"]) == (400, "fromSequence")


def test_bodies_in_memory_are_bounded_before_they_are_read(
    tmp_path: Path, parts: dict[str, Callable[[], object]]
) -> None:
    api = Api(tmp_path, parts, bodies_bytes=8 * 1024 * 1024)

    async def work() -> list[int]:
        clients = [Dripping(api, "t", BUILDS, length=1024 * 1024) for _ in range(4)]
        calls = [asyncio.create_task(client.call()) for client in clients]
        for client, call in zip(clients, calls, strict=True):
            asked = asyncio.create_task(client.asked.wait())
            await asyncio.wait((asked, call), return_when=asyncio.FIRST_COMPLETED)
            asked.cancel()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        other = Dripping(api, "o", BUILDS, length=2)
        other._pieces.get_nowait()
        other.send(b"{}", more=False)
        await other.call()
        return [*sorted(client.answer.get("status", 0) for client in clients), other.answer["status"]]

    assert asyncio.run(work()) == [429, 429, 503, 503, 400]
    api.store.engine.dispose()


@pytest.mark.parametrize("expects", [False, True])
@pytest.mark.parametrize("path", [BUILDS, UPLOAD])
def test_a_body_that_is_announced_too_large_is_refused_and_not_asked_for(api: Api, path: str, *, expects: bool) -> None:
    """A client that waits for a word (as curl does above 1 MiB) gets the refusal in its place; another one that sends
    already is read within reason, so that it sees the answer."""
    client = Dripping(api, "t", path, length=10**15, expects=expects)
    client.send(b"", more=False)
    asyncio.run(client.call())
    assert (client.answer["status"], client.unread) == (413, 2 if expects else 0)
    assert not list((api.folder / "sources").glob(".partial-*"))


def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    def pace(*parts: tuple[float, int]) -> bodies.Pace:
        made = bodies.Pace(64 * 1024)
        for seconds, size in parts:
            made.waited(seconds, size)
        return made

    pace(*[(0.5, 32 * 1024)] * 400)
    pace((19.5, 1))  # the first ten seconds are free, and a window has ten
    pace(*[(0.0, 10**9)] * 3, (19.5, 0))
    for slow in ([(20.0, 1)], [(1.0, 60 * 1024)] * 30, [(1.0, 10**6)] * 30 + [(11.0, 0)], [(5.0, 0), (16.0, 10**9)]):
        with pytest.raises(CallRefused) as refused:
            pace(*slow)
        assert refused.value.code == "DEADLINE_EXCEEDED"
    assert 0 < bodies.Pace(1).remaining <= 1.0


# Words of the API


@pytest.mark.parametrize(
    ("method", "path", "token", "status"),
    [
        ("GET", BUILDS, "nobody", 401),
        ("GET", "/v1/ignite/nodes", "t", 403),
        ("GET", f"{BUILDS}/none", "t", 404),
        ("GET", "/nowhere", "t", 404),
        ("DELETE", BUILDS, "t", 405),
        ("PUT", f"{BUILDS}/secrets", "t", 400),
        ("DELETE", f"{BUILDS}/secrets/none", "t", 404),
        ("GET", "/v1/ignite/compile/d/logs", "t", 501),
    ],
)
def test_every_refusal_says_why_whose_and_what_to_do(api: Api, method: str, path: str, token: str, status: int) -> None:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            return await client.request(method, path, headers={"authorization": f"Bearer {token}"})

    answer = asyncio.run(ask())
    assert answer.status_code == status
    assert ("www-authenticate" in answer.headers) == (status == 401)
    [detail] = answer.json()["details"]
    assert set(detail) == {"reason", "errorClass", "where", "hint"}
    assert detail["reason"] and detail["errorClass"] == "client" and detail["hint"]


def test_the_version_is_answered_without_a_token(api: Api) -> None:
    assert api.get("/version").json() == {"version": __version__, "protocol": PROTOCOL}


class Transport(asyncio.Transport):
    """What a protocol writes and how it ends, without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.ended = bytearray(), ""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.extend(data)

    def get_write_buffer_size(self) -> int:
        return 0

    def write_eof(self) -> None:
        self.ended = self.ended or "eof"

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = self.ended or "aborted"

    def is_closing(self) -> bool:
        return self.ended in ("closed", "aborted")

    def pause_reading(self) -> None:
        """What a test sends is all there at once."""

    @property
    def answer(self) -> tuple[bytes, Any]:
        head, _, body = bytes(self.written).partition(b"\r\n\r\n")
        return head, json.loads(body)


def connected(connections: Connections, app: Any = lambda: None) -> tuple[Protocol, Transport]:
    config = uvicorn.Config(app, http=Protocol, log_level="critical", lifespan="off")
    config.load()
    protocol = Protocol(connections, config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    return protocol, transport


def test_what_is_no_http_request_is_answered_as_every_error() -> None:
    async def work() -> Transport:
        protocol, transport = connected(Connections(1))
        protocol.data_received(b"\x16\x03\x01 this is TLS\r\n\r\n")
        protocol._unset_keepalive_if_required()
        return transport

    head, body = asyncio.run(work()).answer
    assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/json" in head
    assert body["code"] == "INVALID_ARGUMENT" and body["details"][0]["hint"]


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/v1/ignite/builds?limit=1", "/v1/ignite/builds", "limit=1"),
        ("http://api.example:8080/v1/ignite/builds?limit=1", "/v1/ignite/builds", "limit=1"),
        ("HTTPS://[::1]/v1/a%20b", "/v1/a b", ""),
        ("http://api?x=/y", "/", "x=/y"),
        ("http:///v1", "http:///v1", ""),
        ("/http://api/v1", "/http://api/v1", ""),
        ("http://api//v1", "//v1", ""),
    ],
)
def test_a_target_in_absolute_form_is_routed_by_its_path(target: str, path: str, query: str) -> None:
    asked = list[tuple[str, str]]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append((scope["path"], scope["query_string"].decode()))
        assert unquote(scope["raw_path"].decode()) == scope["path"]
        await Response("{}")(scope, receive, send)

    async def work() -> bytes:
        protocol, transport = connected(Connections(1), server_module.conforming(app))
        protocol.data_received(f"GET {target} HTTP/1.1\r\nhost: api\r\n\r\n".encode())
        while not transport.written:
            await asyncio.sleep(0)
        protocol._unset_keepalive_if_required()
        return transport.answer[0]

    assert asyncio.run(work()).startswith(b"HTTP/1.1 200 ")
    assert asked == [(path, query)]


@pytest.mark.parametrize("names", [("content-length", "transfer-encoding"), ("Transfer-Encoding", "Content-Length")])
def test_a_body_of_two_lengths_reaches_nobody_and_ends_its_connection(names: tuple[str, str]) -> None:
    reached = list[str]()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])
        await Response("{}")(scope, receive, send)

    async def work() -> Transport:
        protocol, transport = connected(Connections(1), server_module.conforming(app))
        values = {"content-length": "6", "transfer-encoding": "chunked"}
        behind = "GET /two HTTP/1.1\r\nhost: api\r\n\r\n"
        lines = "".join(f"{name}: {values[name.lower()]}\r\n" for name in names)
        protocol.data_received(f"POST /one HTTP/1.1\r\nhost: api\r\n{lines}\r\n0\r\n\r\n{behind}".encode())
        for _ in range(10):
            await asyncio.sleep(0)
        protocol._unset_keepalive_if_required()
        return transport

    transport = asyncio.run(work())
    head, body = transport.answer
    assert head.startswith(b"HTTP/1.1 400 ") and b"connection: close" in head.lower()
    assert (body["code"], transport.ended, reached) == ("INVALID_ARGUMENT", "closed", [])


def test_two_tokens_are_none(api: Api) -> None:
    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            headers = [("authorization", "Bearer t"), ("authorization", "Bearer o")]
            return await client.get("/v1/ignite/builds", headers=headers)

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


def test_an_idle_server_ticks_rarely_and_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "TICK_S", 3600.0)
    ticks = list[int]()

    class Counted(server_module.Server):
        async def on_tick(self, counter: int) -> bool:
            ticks.append(counter)
            return self.should_exit

    async def work() -> None:
        server = Counted(Starlette(), Tails(redis.Redis()))
        running = asyncio.ensure_future(server.main_loop())
        await asyncio.sleep(0.3)  # three ticks of uvicorn's own loop; of ours none, however long this takes
        assert len(ticks) == 1
        await asyncio.to_thread(setattr, server, "should_exit", True)
        await asyncio.wait_for(running, 120)

    asyncio.run(work())
    assert len(ticks) == 2


def test_a_head_without_end_is_answered_when_its_time_is_over_whatever_still_comes() -> None:
    async def work() -> Transport:
        connections = Connections(8)
        protocol, transport = connected(connections)
        connections.answered(protocol, 0.0)  # its time begins on the clock of the test
        for second in range(int(HEAD_S)):
            protocol.data_received(b"GET / HTTP/1.1\r\n" if not second else b"a: b\r\n")
            connections.look(float(second))
            assert not transport.ended
        connections.look(HEAD_S)
        return transport

    transport = asyncio.run(work())
    head, body = transport.answer
    assert transport.ended == "closed" and head.startswith(b"HTTP/1.1 408 ") and b"connection: close" in head
    assert body["code"] == "DEADLINE_EXCEEDED"


def test_a_new_connection_takes_the_place_of_the_one_that_waited_longest() -> None:
    async def work() -> list[str]:
        connections = Connections(3)
        made = [connected(connections)[1] for _ in range(5)]
        assert len(connections) == 3
        return [transport.ended for transport in made]

    assert asyncio.run(work()) == ["aborted", "aborted", "", "", ""]


def test_where_every_place_has_a_request_a_new_connection_is_told_so_and_few_may_linger() -> None:
    async def work() -> list[Transport]:
        connections = Connections(2)
        for _ in range(2):
            busy, _ = connected(connections)
            busy.is_waiting = lambda: False  # type: ignore[method-assign]
        protocol, first = connected(connections)
        protocol.data_received(b"GET / HTTP/1.1\r\n\r\n")
        rest = [connected(connections)[1] for _ in range(LEAST)]
        connections.look(time.monotonic() + LEAVING_S)
        assert len(connections) == 2
        return [first, *rest]

    made = asyncio.run(work())
    head, body = made[0].answer
    assert head.startswith(b"HTTP/1.1 503 ") and b"retry-after: 1" in head and body["code"] == "UNAVAILABLE"
    assert [transport.ended for transport in made] == ["eof"] * LEAST + ["aborted"]


def test_a_client_that_takes_nothing_of_its_answer_is_closed() -> None:
    async def work() -> list[str]:
        connections = Connections(2)
        (stalled, gone), (slow, here) = connected(connections), connected(connections)
        left = iter(range(10**6, 0, -1))
        stalled.is_waiting = slow.is_waiting = lambda: False  # type: ignore[method-assign]
        stalled.unsent, slow.unsent = lambda: 4096, lambda: next(left)  # type: ignore[method-assign]
        for second in range(int(STALL_S) + 1):
            connections.look(float(second))
        return [gone.ended, here.ended]

    assert asyncio.run(work()) == ["aborted", ""]


@pytest.mark.parametrize(("descriptors", "most"), [(1024, 768), (65_536, 4096), (-1, 4096), (100, 64)])
def test_connections_leave_descriptors_for_the_rest(descriptors: int, most: int) -> None:
    assert places(descriptors) == most


def test_an_organization_has_its_share_of_calls_at_once(api: Api) -> None:
    share = api.calls._calls
    for _ in range(CALLS_AT_ONCE):
        share.take("acme")
    answer = api.get("/v1/ignite/builds")
    assert answer.status_code == 429 and answer.headers["retry-after"]
    share.give_back("acme")
    assert api.get("/v1/ignite/builds").status_code == 200


@pytest.mark.parametrize(("size", "reason"), [(100, ""), (101, "ArchiveTooLarge")])
def test_a_body_beyond_its_limit_is_refused_though_its_head_announced_nothing(size: int, reason: str) -> None:
    pieces = [b"x" * 50, b"x" * (size - 50)]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def read() -> int:
        request = Request({"type": "http", "headers": []}, receive)
        async with bodies.whole(request, 100, Memory(1000), "acme", 1) as data:
            return len(data)

    if not reason:
        assert asyncio.run(read()) == size
        return
    with pytest.raises(BuildError, match="more than 100 bytes") as caught:
        asyncio.run(read())
    assert caught.value.reason == reason
