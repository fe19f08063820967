"""Requests over HTTP to a real `ignite-builder serve`: repeated, paged, by the start of an id, too large, reported."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import embedded
from tests.build_fixtures import PYTHON_HANDLER, Server, until, zip_of
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e

BUILDS = "/v1/ignite/builds"
MIB = 1024 * 1024
REFUSALS = 3


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded.private_redis(tmp_path_factory.mktemp("redis")) as (_, url):
        yield url


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        yield made


@pytest.fixture(scope="module")
def serve(redis_url: str, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Its uploads have at most 1 MiB, its reports go to `receiver`."""
    settings = {"upload_bytes": str(MIB), "report_url": receiver.url}
    with serving(tmp_path_factory.mktemp("serve"), redis_url, settings) as running:
        yield running


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    """(HTTP status, code, reason) of an error."""
    body = answer.json()
    return answer.status_code, body["code"], next((detail["reason"] for detail in body["details"]), "")


def test_a_target_in_absolute_form_is_what_its_path_names(serve: Serve) -> None:
    """RFC 9112, section 3.2.2; a proxy in between may leave it so."""
    where = httpx.URL(serve.url)
    with closing(HTTPConnection(where.host, where.port)) as connection:
        for path, status, code in ((BUILDS, 200, None), ("/v1/nothing", 404, "NOT_FOUND")):
            connection.request("GET", f"{serve.url}{path}?limit=1", headers={"authorization": "Bearer t-read"})
            answer = connection.getresponse()
            assert (answer.status, json.loads(answer.read()).get("code")) == (status, code)


# The same request again


def test_a_key_answers_the_same_request_with_its_build_and_refuses_another_one(serve: Serve) -> None:
    first = serve.submit("keyed", idempotencyKey="key-1")
    assert serve.submit("keyed", idempotencyKey="key-1") == first
    body = {"name": "keyed-2", "idempotencyKey": "key-1", "zippedCode": "UEsDBA=="}
    answer = serve.ask("POST", BUILDS, "both", json=body)
    assert refusal(answer) == (409, "ALREADY_EXISTS", "AlreadyExists")
    assert first in answer.json()["message"]
    assert serve.ask("POST", BUILDS, "other", json=body).json()["buildId"] != first


# Lists


def pages(serve: Serve, limit: int, **query: Any) -> list[list[str]]:
    """The ids of each page, by its cursor, to the last one."""
    found, cursor = list[list[str]](), ""
    while not found or cursor:
        params = {"limit": limit, **({"cursor": cursor} if cursor else {}), **query}
        answer = serve.ask("GET", BUILDS, "read", params=params).json()
        found.append([one["buildId"] for one in answer.get("builds", [])])
        cursor = answer.get("nextCursor", "")
    return found


def test_pages_hold_every_build_once_newest_first(serve: Serve) -> None:
    paged = [serve.submit("paged") for _ in range(7) if serve.submit("between")][::-1]
    assert pages(serve, 3, name="paged") == [paged[:3], paged[3:6], paged[6:]]
    assert pages(serve, 7, name="paged", status="BUILD_STATUS_PENDING") == [paged]
    assert pages(serve, 7, name="paged", status="BUILD_STATUS_FAILED") == [[]]
    assert [[one for page in pages(serve, 3) for one in page]] == pages(serve, 500)


# The start of an id


@pytest.mark.parametrize(("method", "rest"), [("GET", ""), ("GET", "/logs/stream"), ("POST", "/cancel")])
def test_the_start_of_several_ids_is_answered_with_them(serve: Serve, method: str, rest: str) -> None:
    start = {"": "zzza", "/logs/stream": "zzzb", "/cancel": "zzzc"}[rest]
    mine = [f"{start}{letter}{'0' * 15}" for letter in "ab"]
    with closing(sqlite3.connect(serve.data / "builder.db", timeout=20, isolation_level=None)) as store:
        for name in mine:
            store.execute("update builds set build_id = ? where build_id = ?", (name, serve.submit("alike")))
    answer = serve.ask(method, f"{BUILDS}/{start}{rest}", "both")
    assert refusal(answer) == (400, "INVALID_ARGUMENT", "InvalidRequest")
    assert all(name in answer.json()["message"] for name in mine)
    assert refusal(serve.ask(method, f"{BUILDS}/{start}{rest}", "other")) == (404, "NOT_FOUND", "NotFound")
    if rest != "/logs/stream":  # which would not end
        assert serve.ask(method, f"{BUILDS}/{start}a{rest}", "both").json()["buildId"] == mine[0]


# Numbers


@pytest.mark.parametrize("text", [b"\xb2", b"9" * 19, b"9" * 5000, b"x"])
def test_what_is_no_number_is_refused_before_a_stream_begins(serve: Serve, text: bytes) -> None:
    build = serve.submit("numbers")
    answer = serve.ask("GET", f"{BUILDS}/{build}/logs/stream", "read", headers={"last-event-id": text})
    assert refusal(answer) == (400, "INVALID_ARGUMENT", "InvalidRequest")
    path = f"/v1/ignite/worker/builds/{build}/source"
    answer = serve.ask("GET", path, "worker", params={"claim": text.decode("latin-1")})
    assert refusal(answer) == (400, "INVALID_ARGUMENT", "InvalidRequest")


def test_a_stream_after_more_than_there_is_ends_at_once(serve: Serve) -> None:
    build = serve.submit("ended")
    lines = serve.ask("POST", f"{BUILDS}/{build}/cancel", "both").json()["logLines"]
    headers = {"last-event-id": "9" * 18}
    answer = serve.ask("GET", f"{BUILDS}/{build}/logs/stream", "read", headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    answer = serve.ask("GET", f"{BUILDS}/{build}/logs/stream", "read", headers={"last-event-id": lines})
    assert answer.text.splitlines()[:2] == [f"id: {int(lines) + 1}", "event: eof"]


# Sources


@pytest.mark.parametrize("size", [MIB + 1, 40 * MIB])
def test_an_upload_beyond_the_limit_is_refused_and_nothing_of_it_is_kept(serve: Serve, size: int) -> None:
    def chunks() -> Iterator[bytes]:
        for start in range(0, size, MIB):
            yield b" " * min(MIB, size - start)

    before = kept(serve)
    answer = serve.ask("POST", BUILDS + "/contexts", "submit", content=chunks())
    assert refusal(answer) == (413, "RESOURCE_EXHAUSTED", "ArchiveTooLarge")
    assert kept(serve) == before


def kept(serve: Serve) -> tuple[list[Path], int]:
    """(files of sources, uploads that are noted)"""
    with closing(sqlite3.connect(serve.data / "builder.db", timeout=20)) as store:
        noted = int(store.execute("select count(*) from contexts").fetchone()[0])
    return sorted(path for path in (serve.data / "sources").rglob("*") if path.is_file()), noted


@pytest.mark.parametrize("given", ["zipped_code", "context_id"])
def test_a_source_beside_no_runtime_is_built(server: Server, given: str) -> None:
    archive = zip_of({"handler.py": PYTHON_HANDLER})
    request = pb.CreateBuildRequest(name="given", no_cache=True)
    if given == "zipped_code":
        request.zipped_code = archive
    else:
        request.context_id = server.upload(archive)
    done = server.wait(server.api.call("CreateBuild", request).build)
    assert done.status == pb.BUILD_STATUS_SUCCEEDED, done.failure
    assert (done.runtime, len(done.image_refs)) == ("python", 1)


# Reports


class Receiver:
    """Takes reports as a control plane does, but those of builds named "refused" only once `REFUSALS` got a 500."""

    def __init__(self) -> None:
        self.refused: list[dict[str, Any]] = []
        self.taken: list[dict[str, Any]] = []
        self.url = ""


@contextmanager
def receiving() -> Iterator[Receiver]:
    made = Receiver()

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            report = json.loads(self.rfile.read(int(self.headers["content-length"])))
            is_refused = report["name"] == "refused" and len(made.refused) < REFUSALS
            (made.refused if is_refused else made.taken).append(report)
            self.send_response(500 if is_refused else 200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    http_server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    made.url = f"http://127.0.0.1:{http_server.server_address[1]}/reports"
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()


def test_a_report_that_was_refused_comes_again_as_it_was(serve: Serve, receiver: Receiver) -> None:
    build = serve.submit("refused")
    serve.register()
    serve.fail(build, serve.claim(build), 0)

    def taken() -> dict[int, dict[str, Any]]:
        return {int(one["sequence"]): one for one in list(receiver.taken) if one["buildId"] == build}

    assert until(lambda: set(taken()) == {1, 2, 3}), receiver.taken
    assert len(receiver.refused) == REFUSALS
    assert all(taken()[int(one["sequence"])] == one for one in receiver.refused)
    told = [taken()[number]["buildStatus"] for number in (1, 2, 3)]
    assert told == ["BUILD_STATUS_PENDING", "BUILD_STATUS_RUNNING", "BUILD_STATUS_FAILED"]
