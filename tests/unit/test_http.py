"""The HTTP adapter without a socket: what a caller reads while the store is away, and what the probes say."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError
from starlette.routing import Route

from builder import config, pipelines
from builder.config import Token
from builder.contract import routes
from builder.control.loops import event_log
from builder.control.metrics import Metrics
from builder.data import catalog_file
from builder.pipelines import catalog
from builder.services.auth import SCOPES, Caller, admit
from builder.services.builds import BuildService
from builder.services.errors import CallRefused
from builder.services.nodes import OperateService
from builder.services.parts import Parts
from builder.services.streams import LogStreams
from builder.services.tails import Tails
from builder.services.uploads import Uploads
from builder.services.workers import WorkerService
from builder.store import outbox, queues
from builder.store.engine import Store, open_store
from builder.stores.folder import FolderStore
from builder.transports.http.app import Api as HttpApi
from builder.transports.http.app import make_app
from builder.transports.http.events import log_event
from builder.transports.http.probes import Probes


class Api:
    """The application over a store whose file can go away; `said` is the server's log."""

    def __init__(self, folder: Path, parts: Mapping[str, Callable[[], object]]) -> None:
        self.folder, self.said = folder, io.StringIO()
        self.store: Store = open_store(f"sqlite:///{folder}/store/builder.db")
        tokens = (Token(token="t", organization="acme"), Token(token="reader", organization="acme", scopes=("read",)))
        settings = config.load({"tokens": tokens}).settings
        shared = Parts(
            settings=settings,
            store=self.store,
            sources=FolderStore(folder / "sources"),
            catalog=catalog.read(catalog_file("")),
            runtimes=pipelines.names(),
            wake=lambda: None,
            fan_out=lambda build_id, lines: None,
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
        streams = LogStreams(shared, Tails(redis.Redis()), log_event)
        services = (BuildService(shared), WorkerService(shared), OperateService(shared))
        api = HttpApi(settings, *services, streams, Uploads(shared))
        self.app = make_app(api, Probes(parts, self.metrics.page, log), log)

    def get(self, path: str) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://api") as client:
                return await client.get(path, headers={"authorization": "Bearer t"})

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


def test_readyz_names_the_part_that_is_missing(api: Api, parts: dict[str, Callable[[], object]]) -> None:
    def failing() -> None:
        raise RuntimeError("no module named packaging")

    parts["loop report"] = lambda: None
    assert api.get("/readyz").status_code == 200
    parts["loop dispatch"] = failing
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["details"] == [{"part": "loop dispatch", "why": "RuntimeError"}]


def test_a_token_without_the_scope_is_refused_before_its_body_is_read(api: Api) -> None:
    async def body() -> AsyncIterator[bytes]:
        raise AssertionError("the body was read")
        yield b""

    async def ask(path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            return await client.post(path, headers={"authorization": "Bearer reader"}, content=body())

    for path in ("/v1/ignite/builds", "/v1/ignite/builds/contexts", "/v1/ignite/worker/builds/b1/log"):
        answer = asyncio.run(ask(path))
        assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")


def test_a_literal_segment_of_a_path_wins_over_a_parameter(api: Api) -> None:
    paths = [route.path for route in api.app.routes if isinstance(route, Route)]
    assert paths.index("/v1/ignite/builds/secrets") < paths.index("/v1/ignite/builds/{build_id}")
    assert paths.index("/v1/ignite/builds/contexts") < paths.index("/v1/ignite/builds/{build_id}/cancel")


def test_what_is_not_built_yet_is_what_has_no_method() -> None:
    """The contract's list, which the tables of the documents are made of."""
    served = {
        name for target in (BuildService, WorkerService, OperateService, LogStreams, Uploads) for name in vars(target)
    }
    names = {method.name for service in routes.services() for method in service.methods}
    snake = {name: re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in names}
    assert {name for name in names if snake[name] not in served} - {"StreamBuildLogs"} == routes.NOT_YET


def test_the_scope_of_each_call() -> None:
    build, worker, operate = routes.services()
    assert SCOPES == {
        "CreateBuild": "submit",
        "CancelBuild": "submit",
        "SaveBuildSecrets": "submit",
        "UploadBuildContext": "submit",
        "GetBuild": "read",
        "ListBuilds": "read",
        "StreamBuildLogs": "read",
        "ListNodes": "operate",
        "DrainNode": "operate",
        "ForgetNode": "operate",
    }
    assert set(SCOPES) == {method.name for method in (*build.methods, *operate.methods)}
    for method in worker.methods:
        with pytest.raises(CallRefused):
            admit(Caller(organization="", scopes=frozenset({"submit", "read"})), method.name)
