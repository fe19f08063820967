"""The API as its callers see it: a real `ignite-builder serve` over a real Redis; the tests play clients and nodes."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from builder import embedded
from builder.api import http
from builder.api.client import services
from builder.api.routes import SOURCE_PATH, UPLOAD_PATH, routes
from builder.config import load
from builder.control import read_queued
from builder.errors import EXIT_CANCELLED
from tests.build_fixtures import until
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.private_redis(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


@pytest.fixture(scope="module")
def serve(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with serving(tmp_path_factory.mktemp("serve"), redis_url) as running:
        yield running


ROUTES = {route.rpc_name: route for service in services() for route in routes(service)}
SCOPES = {"SaveBuildSecrets": "", "CreateBuild": "submit", "CancelBuild": "submit"}
READ = {name: "read" for name, route in ROUTES.items() if route.service == "BuildService"}
WORKER = {name: "worker" for name, route in ROUTES.items() if route.service == "WorkerService"}
CALLS = {
    **{name: (ROUTES[name].method, ROUTES[name].template, scope) for name, scope in (READ | WORKER | SCOPES).items()},
    "upload": ("POST", UPLOAD_PATH, "submit"),
    "source": ("GET", SOURCE_PATH + "?claim=1", "worker"),
}


# Who may call what


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_a_known_token_is_unauthenticated(serve: Serve, name: str) -> None:
    method, path, _ = CALLS[name]
    for headers in ({}, {"authorization": "Bearer nobody"}, {"authorization": "Basic dC1ib3RoOg=="}):
        answer = serve.ask(method, path.format(build_id="abcd"), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("who", ["submit", "read", "worker"])
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call[2]])
def test_a_token_opens_what_its_scope_says_and_nothing_else(serve: Serve, name: str, who: str) -> None:
    method, path, scope = CALLS[name]
    content = b"{}" if method == "POST" else None
    answer = serve.ask(method, path.format(build_id="abcd"), who, content=content)
    if who == scope:
        assert answer.status_code not in (401, 403), answer.text
    else:
        assert (answer.status_code, answer.json()["code"]) == (403, "PERMISSION_DENIED")
        assert answer.json()["message"] == f"this token lacks the scope {scope}"


def test_another_organization_sees_nothing_of_a_build(serve: Serve) -> None:
    build = serve.submit("mine")
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/logs/stream")):
        answer = serve.ask(method, f"/v1/ignite/builds/{build}{path}", "other")
        assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    named = {"name": "app", "organizationName": "acme"}
    assert serve.ask("POST", "/v1/ignite/builds", "other", json=named).status_code == 403
    assert build not in serve.ask("GET", "/v1/ignite/builds", "other").text


# What answers for the process itself


def test_healthz_and_readyz_of_a_server_that_has_all_its_parts(serve: Serve) -> None:
    assert (serve.ask("GET", "/healthz").status_code, serve.ask("GET", "/healthz").text) == (200, "ok\n")
    assert (serve.ask("GET", "/readyz").status_code, serve.ask("GET", "/readyz").json()) == (200, {"ready": True})


def test_readyz_names_a_store_that_does_not_answer(serve: Serve) -> None:
    with sqlite3.connect(serve.data / "builder.db", timeout=20, isolation_level=None) as store:
        store.execute("begin immediate")
        try:
            answer = serve.ask("GET", "/readyz")
            assert serve.ask("GET", "/healthz").status_code == 200
        finally:
            store.execute("rollback")
    assert answer.status_code == 503
    assert answer.json() == {
        "code": "UNAVAILABLE",
        "message": "missing: store",
        "details": [{"part": "store", "why": "no answer within 2 s"}],
    }


def test_readyz_names_a_redis_that_is_gone(tmp_path: Path) -> None:
    with embedded.private_redis(tmp_path / "redis") as (process, url), serving(tmp_path / "serve", url) as serve:
        assert serve.ask("GET", "/readyz").status_code == 200
        embedded.end(process, 5)
        answer = serve.ask("GET", "/readyz")
        assert answer.status_code == 503
        assert answer.json()["details"] == [{"part": "redis", "why": "ConnectionError"}]


def test_metrics_count_transitions(serve: Serve) -> None:
    sample = 'ignite_build_transitions_total{action="submit",reason="",status="PENDING"}'
    before = serve.metrics().get(sample, 0)
    serve.submit("counted")
    assert serve.metrics()[sample] == before + 1


def test_metrics_count_stale_writes_and_show_what_waits_and_is_free(redis_url: str, tmp_path: Path) -> None:
    with serving(tmp_path, redis_url) as serve:
        serve.register(slots=3)
        first, _ = serve.submit("first"), serve.submit("second")
        claim = serve.claim(first)
        found = serve.metrics()
        assert found['ignite_queue_length{queue="compile.python"}'] == 1
        assert found['ignite_free_slots{queue="compile.python"}'] == 2
        serve.fail(first, claim, 0)
        assert serve.metrics()['ignite_free_slots{queue="compile.python"}'] == 3
        for call in ("heartbeat", "planned", "log", "finish", "hand_back"):
            body = {"protocol": 1, "claim": str(claim + 1), "failure": {"reason": "StepFailed"}}
            body = body if call == "finish" else {"protocol": 1, "claim": str(claim + 1)}
            path = f"/v1/ignite/worker/builds/{first}/{call.replace('_', '-')}"
            assert serve.ask("POST", path, "worker", json=body).status_code == 200
            assert serve.metrics()[f'ignite_stale_writes_total{{call="{call}"}}'] == 1


# What is not built yet


def compile_request(runtime: str) -> dict[str, object]:
    return {"name": "app", "code": {"compile": {"runtime": {runtime: {}}, "sourceCode": "eA=="}}}


BUILDS = "/v1/ignite/builds"
NOT_YET = {
    "SaveBuildSecrets": [("PUT", "/v1/ignite/builds/secrets", {})],
    "`git_source`": [("POST", BUILDS, {"name": "app", "gitSource": {"url": "https://example.com/x.git"}})],
    "`from_code`": [
        ("POST", BUILDS, {"name": "app", "code": {"image": image}})
        for image in (
            {"fromCode": {"archive": "eA=="}},
            {"fromGit": {"url": "https://example.com/x.git"}},
            {"prebuilt": {"imageRef": "example.com/x:1"}},
        )
    ],
    "`rust`": [("POST", BUILDS, compile_request(runtime)) for runtime in ("rust", "deno")],
    "gRPC": [],  # there is no port that speaks it
    "ComputeService": [("GET", "/v1/ignite/compile/d/logs", None), ("GET", "/v1/ignite/app/o/a/builds/b/log", None)],
}


@pytest.mark.parametrize("row", NOT_YET)
def test_what_the_page_says_is_unimplemented_answers_so(serve: Serve, row: str) -> None:
    for method, path, body in NOT_YET[row]:
        answer = serve.ask(method, path, "both", **({"json": body} if body is not None else {}))
        assert (answer.status_code, answer.json()["code"]) == (501, "UNIMPLEMENTED"), answer.text
        assert "docs/api.md" in answer.json()["message"]


def test_the_page_of_what_is_unimplemented_has_no_row_that_is_not_tried() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/api.md").read_text()
    section = page.partition("## What answers UNIMPLEMENTED for now")[2].partition("\n## ")[0]
    rows = [line[2:] for line in section.splitlines() if line.startswith("| ")][1:]
    assert [next((row for row in NOT_YET if line.startswith(row)), line) for line in rows] == list(NOT_YET)


# Streams


def events(serve: Serve, build: str, query: str = "", **headers: str) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, event, data) up to the stream's end."""
    found, fields = [], dict[str, str]()
    answer = serve.ask("GET", f"/v1/ignite/builds/{build}/logs/stream{query}", "read", headers=headers)
    assert answer.headers["content-type"].startswith("text/event-stream")
    for line in answer.text.split("\n"):
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif fields:
            found.append((fields["id"], fields["event"], json.loads(fields["data"])))
            fields = {}
    return found


def test_a_stream_resumes_after_the_event_it_heard_last(serve: Serve) -> None:
    build = serve.submit("streamed")
    serve.register()
    claim = serve.claim(build)
    serve.log(build, claim, [f"line {number}" for number in range(5)])
    serve.fail(build, claim, 5)
    whole = events(serve, build, "?fromStart=true")
    assert [number for number, _, _ in whole[:-1]] == [str(number) for number in range(1, len(whole))]
    assert [data["line"] for _, _, data in whole[:5]] == [f"line {number}" for number in range(5)]
    assert whole[-1][1:] == ("eof", {"sequence": whole[-2][0], "eof": True, "status": "BUILD_STATUS_FAILED"})
    for last in range(len(whole)):
        assert events(serve, build, **{"last-event-id": str(last)}) == whole[last:], last
    assert events(serve, build, "?fromSequence=3") == whole[2:]
    assert events(serve, build, "?fromStart=true", **{"last-event-id": "4"}) == whole[4:]


# Errors


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "NOT_FOUND"),
        ("GET", "/v1/ignite/nothing", 404, "NOT_FOUND"),
        ("GET", "/v1/ignite/builds/", 404, "NOT_FOUND"),
        ("DELETE", "/v1/ignite/builds", 405, "UNIMPLEMENTED"),
        ("POST", "/healthz", 405, "UNIMPLEMENTED"),
        ("GET", "/v1/ignite/builds", 401, "UNAUTHENTICATED"),
    ],
)
def test_a_path_or_method_that_is_none_answers_as_every_error_does(
    serve: Serve, method: str, path: str, status: int, code: str
) -> None:
    answer = serve.ask(method, path)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message", "details"}
    assert answer.headers["content-type"] == "application/json"


def test_the_wrong_method_names_all_that_the_path_takes(serve: Serve) -> None:
    answer = serve.ask("DELETE", "/v1/ignite/builds")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert answer.json()["message"] == "/v1/ignite/builds takes GET, HEAD, POST, not DELETE"


def test_an_unforeseen_error_says_nothing_of_itself_but_how_to_find_it(serve: Serve) -> None:
    with sqlite3.connect(serve.data / "builder.db", timeout=20) as store:
        store.execute("alter table contexts rename to away")
        store.commit()
        try:
            answer = serve.ask("POST", "/v1/ignite/builds/contexts", "submit", content=b"source")
        finally:
            store.execute("alter table away rename to contexts")
    assert (answer.status_code, answer.json()["code"]) == (500, "INTERNAL")
    assert set(answer.json()) == {"code", "message", "details"}
    assert answer.json()["details"][0]["reason"] == "Internal"
    assert "contexts" not in answer.text
    mark = answer.json()["message"].split()[-1]
    line = next(line for line in serve.out.read_text().splitlines() if mark in line)
    assert "no such table: contexts" in line


def test_a_quiet_stream_says_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEEP_ALIVE_S", 0.2)
    settings = load({"data_dir": str(tmp_path)}).settings
    with embedded.start(settings, worker=False) as running, httpx.Client(trust_env=False) as client:
        client.headers["authorization"] = f"Bearer {running.token}"
        answer = client.post(running.url + BUILDS, json=compile_request("python"))
        path = f"{running.url}{BUILDS}/{answer.json()['buildId']}"
        with client.stream("GET", path + "/logs/stream", params={"fromStart": "true"}, timeout=5) as stream:
            lines = stream.iter_lines()
            assert [next(lines) for _ in range(4)] == [": keep-alive", "", ": keep-alive", ""]
            client.post(path + "/cancel").raise_for_status()
            heard = [line for line in lines if line and not line.startswith(":")]
    assert [line for line in heard if line.startswith("event: ")] == ["event: log", "event: eof"]


# The end of the process


@pytest.fixture
def own(redis_url: str, tmp_path: Path) -> Iterator[Serve]:
    """A process of the test's own, to be ended by it."""
    with serving(tmp_path, redis_url) as running:
        yield running


@contextmanager
def open_tail(serve: Serve, build: str) -> Iterator[Iterator[bytes]]:
    """A stream that has answered, as the bytes come."""
    url = f"{serve.url}/v1/ignite/builds/{build}/logs/stream?fromStart=true"
    headers = {"authorization": "Bearer t-read"}
    with httpx.Client(timeout=20, trust_env=False) as client, client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        yield answer.iter_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_idle_tails_cleanly_and_soon(own: Serve, number: int) -> None:
    build = own.submit()
    with open_tail(own, build) as tail:
        code, seconds = own.stop(number)
        assert b"".join(tail) == b""  # ended by the server as HTTP wants it: a cut stream would raise
    assert (code, own.err.read_text()) == (0, "")
    assert seconds < 1


def test_a_second_signal_leaves_at_once(own: Serve) -> None:
    """The first one waits for an upload that does not go on."""
    waiting = socket.create_connection(("127.0.0.1", int(own.url.rpartition(":")[2])), 5)
    with waiting:
        head = "POST /v1/ignite/builds/contexts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t-both\r\n"
        waiting.sendall(f"{head}content-length: 100\r\n\r\nabc".encode())
        time.sleep(0.3)
        own.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert own.process.poll() is None
        code, seconds = own.stop()
    assert code == EXIT_CANCELLED
    assert seconds < 0.5


def test_a_call_that_does_not_end_in_time_is_told_to_come_again(own: Serve) -> None:
    with socket.create_connection(("127.0.0.1", int(own.url.rpartition(":")[2])), 15) as waiting:
        head = "POST /v1/ignite/builds/contexts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer t-both\r\n"
        waiting.sendall(f"{head}content-length: 100\r\n\r\nabc".encode())
        time.sleep(0.3)
        code, _ = own.stop()
        answer = waiting.recv(65_536)
    assert code == 0
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"UNAVAILABLE"' in answer
    assert "Traceback" not in own.err.read_text()


# The dispatcher


def hints(redis_url: str) -> list[str]:
    """The build ids in the list of the Python queue, as they lie there."""
    with redis.Redis.from_url(redis_url) as client:
        raw: Any = client.lrange("compile.python", 0, -1)
        return [str(read_queued(one, "k" * 32)) for one in raw]


def test_hints_that_a_flush_took_are_offered_again_at_once_and_those_that_lie_there_are_not(tmp_path: Path) -> None:
    with embedded.private_redis(tmp_path / "redis") as (_, url), serving(tmp_path / "serve", url) as serve:
        serve.register(slots=2)
        builds = {serve.submit(f"build-{number}") for number in range(3)}
        assert until(lambda: set(hints(url)) == builds, 5)
        stay_until = time.monotonic() + 7
        while time.monotonic() < stay_until:
            serve.register(slots=2)
            assert sorted(hints(url)) == sorted(builds)  # the pause of 5 s is over, and none lies there twice
            time.sleep(0.5)
        with redis.Redis.from_url(url) as client:
            client.flushall()
        started = time.monotonic()
        assert until(lambda: set(hints(url)) == builds, 5)
        assert time.monotonic() - started < 3
        assert '"action":"hints-vanished"' in serve.out.read_text().replace(" ", "")


def test_two_servers_in_one_process_write_to_their_own_files(tmp_path: Path) -> None:
    folders, ids = [tmp_path / "a", tmp_path / "b"], []
    with ExitStack() as stack:
        for folder in folders:
            settings = load({"data_dir": str(folder)}).settings
            running = stack.enter_context(embedded.start(settings, worker=False))
            answer = httpx.post(
                running.url + "/v1/ignite/builds",
                json=compile_request("python") | {"name": folder.name},
                headers={"authorization": f"Bearer {running.token}"},
                trust_env=False,
            )
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["buildId"])
    lines = [
        [json.loads(line) for line in (folder / "run/events.jsonl").read_text().splitlines()] for folder in folders
    ]
    told = [{line["build_id"] for line in found if line.get("action") == "submit"} for found in lines]
    assert told == [{ids[0]}, {ids[1]}]


# What a node may read and write


def test_a_registry_login_that_nodes_are_lent_is_said_at_the_start(redis_url: str, tmp_path: Path) -> None:
    login = {"registry": "reg.test", "registry_username": "robot", "registry_password": "not-to-be-shown"}
    with serving(tmp_path, redis_url, login) as serve:
        lines = [json.loads(line) for line in serve.out.read_text().splitlines()]
    assert [
        (line["level"], line["registry"], line["username"]) for line in lines if line["action"].startswith("reg")
    ] == [("warning", "reg.test", "robot")]
    assert "not-to-be-shown" not in serve.out.read_text() + serve.err.read_text()


def source_of(serve: Serve, build: str, claim: int, who: str) -> int:
    path = f"/v1/ignite/worker/builds/{build}/source?claim={claim}"
    return serve.ask("GET", path, who).status_code


def test_a_source_is_given_to_the_node_that_works_on_it_and_only_while_it_does(serve: Serve) -> None:
    build = serve.submit("source")
    assert source_of(serve, build, 0, "worker-1") == 404  # PENDING: nobody owns it
    serve.register("node-1", "worker-1")
    claim = serve.claim(build, "node-1", "worker-1")
    answer = serve.ask("GET", f"/v1/ignite/worker/builds/{build}/source?claim={claim}", "worker-1")
    assert (answer.status_code, answer.content) == (200, b"x = 1\n")
    assert source_of(serve, build, claim, "worker-2") == 404
    assert source_of(serve, build, claim + 1, "worker-1") == 404
    serve.fail(build, claim, 0, "worker-1")
    assert source_of(serve, build, claim, "worker-1") == 404  # FAILED: the claim's number is still the record's


def test_a_token_of_a_node_neither_claims_nor_writes_for_another(serve: Serve) -> None:
    build = serve.submit("fenced")
    for node in ("node-1", "node-2"):
        serve.register(node, node.replace("node", "worker"))
    path = f"/v1/ignite/worker/builds/{build}"
    claimed = {"protocol": 1, "nodeId": "node-1", "nonce": "n"}
    assert serve.ask("POST", path + "/claim", "worker-2", json=claimed).status_code == 403
    assert (
        serve.ask("POST", "/v1/ignite/worker/nodes", "worker-2", json={"protocol": 1, "nodeId": "node-1"}).status_code
        == 403
    )
    claim = serve.claim(build, "node-1", "worker-1")
    mine = {"protocol": 1, "claim": str(claim)}
    failure = {"reason": "CompileFailed", "message": "m", "errorClass": "user_code"}
    for call, more in (
        ("heartbeat", {}),
        ("log", {"lines": [{"line": "x"}]}),
        ("hand-back", {"reason": "drain"}),
        ("finish", {"failure": failure}),
    ):
        answer = serve.ask("POST", f"{path}/{call}", "worker-2", json=mine | more)
        assert (answer.status_code, answer.json()["stale"]) == (200, True), call
    answer = serve.ask("POST", path + "/planned", "worker-2", json=mine | {"key": "k", "codeHash": "h"})
    assert answer.json()["verdict"] == "PLANNED_STALE"
    record = serve.ask("GET", f"/v1/ignite/builds/{build}", "read").json()
    assert (record["status"], record["claim"], record.get("logLines", "0")) == ("BUILD_STATUS_RUNNING", str(claim), "0")
    assert "stale" not in serve.ask("POST", path + "/heartbeat", "worker-1", json=mine).json()
