"""The API as its callers see it: a real `ignite-builder serve` over a real Redis; the tests play clients and nodes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.config import load
from builder.contract.routes import SOURCE_PATH, UPLOAD_PATH, routes, services
from builder.local import embedded
from builder.services import streams
from tests.serve_fixtures import Serve, compile_request, serving

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
SCOPES = dict.fromkeys(("SaveBuildSecrets", "DeleteBuildSecret", "CreateBuild", "CancelBuild"), "submit")
READ = {name: "read" for name, route in ROUTES.items() if route.service == "BuildService"}
WORKER = {name: "worker" for name, route in ROUTES.items() if route.service == "WorkerService"}
WATCH = dict.fromkeys(("AdoptJob", "CaughtUp", "BeatJobs", "CurrentJobs"), "watch")
WATCH |= dict.fromkeys(("AppendLog", "Finish", "HandBack"), "worker or watch")
NEEDED = READ | WORKER | WATCH | SCOPES
CALLS = {
    **{name: (ROUTES[name].method, ROUTES[name].template, scope) for name, scope in NEEDED.items()},
    "upload": ("POST", UPLOAD_PATH, "submit"),
    "source": ("GET", SOURCE_PATH + "?claim=1", "worker"),
}


MIB = 1024 * 1024


# Who may call what


@pytest.mark.parametrize("name", CALLS)
def test_a_call_without_a_known_token_is_unauthenticated(serve: Serve, name: str) -> None:
    method, path, _ = CALLS[name]
    for headers in ({}, {"authorization": "Bearer nobody"}, {"authorization": "Basic dC1ib3RoOg=="}):
        answer = serve.ask(method, path.format(build_id="abcd", name="abcd"), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"].startswith("Bearer ")  # RFC 9110, 15.5.2: a 401 has one


@pytest.mark.parametrize("who", ["submit", "read", "worker", "watch"])
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call[2]])
def test_a_token_opens_what_its_scope_says_and_nothing_else(serve: Serve, name: str, who: str) -> None:
    method, path, scope = CALLS[name]
    content = b"{}" if method == "POST" else None
    answer = serve.ask(method, path.format(build_id="abcd", name="abcd"), who, content=content)
    if who in scope.split(" or "):
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


# What is not built yet


BUILDS = "/v1/ignite/builds"
NOT_YET = {
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
    record = serve.ask("GET", f"{BUILDS}/{build}", "read").json()
    end = {"sequence": whole[-2][0], "eof": True, "status": "BUILD_STATUS_FAILED", "build": record}
    assert whole[-1][1:] == ("eof", end)
    for last in range(len(whole)):
        assert events(serve, build, **{"last-event-id": str(last)}) == whole[last:], last
    assert events(serve, build, "?fromSequence=3") == whole[2:]
    assert events(serve, build, "?fromStart=true", **{"last-event-id": "4"}) == whole[4:]


def test_a_quiet_stream_says_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.2)
    settings = load({"data_dir": str(tmp_path)}).settings
    with embedded.start(settings, worker=False) as running, httpx.Client(trust_env=False, timeout=120) as client:
        client.headers["authorization"] = f"Bearer {running.token}"
        answer = client.post(running.url + BUILDS, json=compile_request("python"))
        path = f"{running.url}{BUILDS}/{answer.json()['buildId']}"
        with client.stream("GET", path + "/logs/stream", params={"fromStart": "true"}, timeout=120) as stream:
            lines = stream.iter_lines()
            assert [next(lines) for _ in range(4)] == [": keep-alive", "", ": keep-alive", ""]
            client.post(path + "/cancel").raise_for_status()
            heard = [line for line in lines if line and not line.startswith(":")]
    assert [line for line in heard if line.startswith("event: ")] == ["event: log", "event: eof"]


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


@pytest.mark.parametrize("size", [8 * MIB, 100 * MIB])
def test_a_body_beyond_the_limit_is_refused_without_being_kept(serve: Serve, size: int) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(size // MIB):
            yield b" " * MIB

    peak = peak_kib(serve)
    answer = serve.ask("POST", "/v1/ignite/builds", "both", content=chunks())
    assert (answer.status_code, answer.json()["code"]) == (413, "RESOURCE_EXHAUSTED")
    assert answer.json()["details"][0]["reason"] == "ArchiveTooLarge"
    assert peak_kib(serve) - peak < 32 * 1024


def peak_kib(serve: Serve) -> int:
    """The most memory that the process had (proc(5), VmHWM)."""
    lines = Path(f"/proc/{serve.process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def test_an_unforeseen_error_says_nothing_of_itself_but_how_to_find_it(serve: Serve) -> None:
    with closing(sqlite3.connect(serve.data / "builder.db", timeout=20, isolation_level=None)) as store:
        store.execute("alter table contexts rename to away")
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


# What a node may read and write


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
