"""`ignite-builder serve` as a process: probes, metrics, signals, the dispatcher, what it says. Real Redis, no node."""

from __future__ import annotations

import json
import select
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from builder.config import load
from builder.control.loops import read_queued
from builder.errors import EXIT_CANCELLED
from builder.local import embedded
from builder.transports.http import bodies
from tests.build_fixtures import until
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


# What answers for the process itself


def test_healthz_and_readyz_of_a_server_that_has_all_its_parts(serve: Serve) -> None:
    assert (serve.ask("GET", "/healthz").status_code, serve.ask("GET", "/healthz").text) == (200, "ok\n")
    assert (serve.ask("GET", "/readyz").status_code, serve.ask("GET", "/readyz").json()) == (200, {"ready": True})


def test_readyz_waits_for_no_writer_and_names_a_store_that_cannot_be_read(serve: Serve) -> None:
    with closing(sqlite3.connect(serve.data / "builder.db", timeout=20, isolation_level=None)) as store:
        store.execute("begin immediate")
        try:
            assert serve.ask("GET", "/readyz").status_code == 200
        finally:
            store.execute("rollback")
        store.execute("alter table builds rename to away")
        try:
            answer = serve.ask("GET", "/readyz")
            assert serve.ask("GET", "/healthz").status_code == 200
        finally:
            store.execute("alter table away rename to builds")
    assert answer.status_code == 503
    assert {"part": "store", "why": "OperationalError"} in answer.json()["details"]


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


def test_what_every_node_may_do_is_logged_at_the_start(redis_url: str, tmp_path: Path) -> None:
    login = {"registry": "reg.test", "registry_username": "robot", "registry_password": "not-to-be-shown"}
    with serving(tmp_path, redis_url, login) as serve:
        lines = [json.loads(line) for line in serve.out.read_text().splitlines()]
    assert [
        (line["level"], line["registry"], line["username"]) for line in lines if line["action"].startswith("reg")
    ] == [("warning", "reg.test", "robot")]
    every = [line["level"] for line in lines if line["action"] == "worker-token-for-every-node"]
    assert every == ["warning"], "one of the worker tokens names no node"
    assert "not-to-be-shown" not in serve.out.read_text() + serve.err.read_text()


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
    with httpx.Client(timeout=120, trust_env=False) as client, client.stream("GET", url, headers=headers) as answer:
        assert answer.status_code == 200
        yield answer.iter_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_idle_tails_cleanly_and_does_not_wait_for_them(own: Serve, number: int) -> None:
    build = own.submit()
    with open_tail(own, build) as tail:
        code = own.stop(number)
        assert b"".join(tail) == b""  # ended by the server as HTTP wants it: a cut stream would raise
    assert (code, own.err.read_text()) == (0, "")  # it says so when the grace is over and a tail still runs


@contextmanager
def stuck_upload(serve: Serve) -> Iterator[socket.socket]:
    """A client whose upload has begun and does not go on."""
    with begin_upload(serve.url, "t-both") as waiting:
        assert until(lambda: partial(serve.data) == 1)
        yield waiting


def begin_upload(url: str, token: str) -> socket.socket:
    """Three bytes of a hundred."""
    waiting = socket.create_connection(address(url), 120)
    head = f"POST /v1/ignite/builds/contexts HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
    waiting.sendall(f"{head}content-length: 100\r\n\r\nabc".encode())
    return waiting


def partial(data: Path) -> int:
    """How many uploads are being kept."""
    return len(list((data / "sources").glob(".partial-*")))


def address(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


def test_a_second_signal_leaves_at_once(own: Serve) -> None:
    """The first one waits for an upload that does not go on, and then ends with 0.

    They are two kinds, since a second signal of one kind is lost while the first is not yet handled.
    """
    with stuck_upload(own):
        own.process.send_signal(signal.SIGTERM)
        assert own.stop(signal.SIGINT) == EXIT_CANCELLED


def test_a_call_that_does_not_end_in_time_is_told_to_come_again(own: Serve) -> None:
    with stuck_upload(own) as waiting:
        code = own.stop()
        answer = waiting.recv(65_536)
    assert code == 0
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b'"code":"UNAVAILABLE"' in answer
    assert "Traceback" not in own.err.read_text()


# Clients that hold something open


def test_uploads_that_do_not_go_on_hold_up_nobody_else(own: Serve) -> None:
    """More of them than there are threads for all calls; an organization has four, the others are told to wait."""
    with ExitStack() as stack:
        waiting = [stack.enter_context(begin_upload(own.url, "t-both")) for _ in range(60)]
        ready: set[socket.socket] = set()
        while len(ready) < 56:
            ready |= set(select.select([one for one in waiting if one not in ready], [], [], 120)[0])
        assert {refused(one) for one in ready} == {("429", "RESOURCE_EXHAUSTED")}
        assert until(lambda: partial(own.data) == 4)
        answer = own.ask("POST", "/v1/ignite/builds/contexts", "other", content=b" 13 bytes it")
        assert answer.status_code == 200
        own.register()
        build = own.submit()
        claim = own.claim(build)
        own.log(build, claim, ["a line"])
        own.fail(build, claim, 1)
        assert own.ask("GET", "/readyz").status_code == 200
        assert partial(own.data) == 4
    assert until(lambda: partial(own.data) == 0)
    assert own.ask("POST", "/v1/ignite/builds/contexts", "both", content=b"source").status_code == 200


def test_a_body_of_which_nothing_comes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "WINDOW_S", 0.2)
    settings = load({"data_dir": str(tmp_path)}).settings
    with embedded.start(settings, worker=False) as running:
        with begin_upload(running.url, running.token) as waiting:
            assert refused(waiting) == ("408", "DEADLINE_EXCEEDED")
        assert until(lambda: partial(tmp_path) == 0)
        with socket.create_connection(address(running.url), 120) as waiting:
            head = f"POST /v1/ignite/builds HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {running.token}\r\n"
            waiting.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
            assert refused(waiting) == ("408", "DEADLINE_EXCEEDED")


def refused(waiting: socket.socket) -> tuple[str, str]:
    """(HTTP status, code) of the answer, after which the server closes."""
    with waiting.makefile("rb") as file:
        head, _, body = file.read().partition(b"\r\n\r\n")
    return head.decode().split()[1], json.loads(body)["code"]


def test_what_is_no_http_request_is_answered_as_every_error(own: Serve) -> None:
    with socket.create_connection(address(own.url), 120) as waiting:
        waiting.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        assert refused(waiting) == ("400", "INVALID_ARGUMENT")


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
        assert until(lambda: set(hints(url)) == builds)
        stay_until = time.monotonic() + 7
        while time.monotonic() < stay_until:
            serve.register(slots=2)
            assert sorted(hints(url)) == sorted(builds)  # the pause of 5 s is over, and none lies there twice
            time.sleep(0.5)
        with redis.Redis.from_url(url) as client:
            client.flushall()
        # Not by the pause of a hint that nobody takes: the dispatcher saw them vanish.
        assert until(lambda: '"action":"hints-vanished"' in serve.out.read_text().replace(" ", ""))
        assert until(lambda: set(hints(url)) == builds)


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
                timeout=120,
                trust_env=False,
            )
            assert answer.status_code == 200, answer.text
            ids.append(answer.json()["buildId"])
    lines = [
        [json.loads(line) for line in (folder / "run/events.jsonl").read_text().splitlines()] for folder in folders
    ]
    told = [{line["build_id"] for line in found if line.get("action") == "submit"} for found in lines]
    assert told == [{ids[0]}, {ids[1]}]
