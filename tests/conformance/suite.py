"""The runtime contract (contract, section 6), one test for each promise.

Imported by a test module that defines the fixture `command` (session scope: a `Command` for each runtime); the app
behaves as README.md says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.apps import App, Command, ask_on, started


@pytest.fixture(scope="module")
def app(command: Command) -> Iterator[App]:
    """One app for all tests that leave it as it was."""
    with started(command) as running:
        yield running


@pytest.mark.parametrize("payload", [b"", b"hello", bytes(range(256)), "grüße".encode()], ids=repr)
def test_the_payload_arrives_and_returns_byte_for_byte(app: App, payload: bytes) -> None:
    answer = app.ask("/echo", payload)
    assert (answer.status, answer.body) == (200, payload)


def test_a_large_body_passes_both_ways(app: App) -> None:
    payload = bytes(range(256)) * (12 * 1024 * 1024 // 256)
    assert app.ask("/echo", payload).body == payload


def test_a_chunked_body_is_joined(app: App) -> None:
    request = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    chunks = b"5\r\nhello\r\n" + b"1;note=x\r\n \r\n" + b"A\r\n0123456789\r\n" + b"0\r\n\r\n"
    assert app.raw(request + chunks, half_close=False).endswith(b"\r\n\r\nhello 0123456789")


def test_a_body_announced_with_expect_is_asked_for(app: App) -> None:
    with socket.create_connection(("127.0.0.1", app.port), timeout=120) as connection:
        connection.sendall(
            b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        )
        assert connection.recv(4096).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"hello")
        parts = []
        while part := connection.recv(4096):
            parts.append(part)
    assert b"".join(parts).endswith(b"\r\n\r\nhello")


def test_the_context_comes_from_the_platforms_headers(app: App) -> None:
    found = json.loads(app.ask("/ctx").body)
    assert found == {"execution_id": "exec-1", "function_id": "acme/hello", "organization_id": "acme"}


def test_without_the_headers_the_context_is_empty(app: App) -> None:
    found = json.loads(app.ask("/ctx", headers={}).body)
    assert found == {"execution_id": "", "function_id": "", "organization_id": ""}


@pytest.mark.parametrize("method", ["POST", "GET", "PUT", "PATCH", "DELETE"])
def test_method_path_query_and_headers_are_reachable(app: App, method: str) -> None:
    answer = app.ask("/request/a/b?x=1&y=%20z&x=2", method=method, headers={"X-Test": "yes"})
    expected = {"method": method, "path": "/request/a/b", "query": "x=1&y=%20z&x=2", "test": "yes"}
    assert json.loads(answer.body) == expected
    assert answer.headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("path", ["/a%20b", "/a%2Fb%3f", "/%C3%BC", "/^|", "//a/../b"])
def test_the_path_is_the_one_that_was_sent(app: App, path: str) -> None:
    assert json.loads(app.ask(path + "?x=1").body)["path"] == path


def test_head_is_answered_without_a_body(app: App) -> None:
    answer = app.ask("/request", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


def test_an_error_is_500_with_its_message(app: App) -> None:
    answer = app.ask("/fail")
    assert answer.status == 500
    assert answer.headers["content-type"].startswith("application/json")
    assert json.loads(answer.body)["error"] == "deliberately"


def test_what_is_worse_than_an_error_is_500_and_the_app_goes_on(app: App) -> None:
    answer = app.ask("/panic")
    assert answer.status == 500
    assert "deliberately" in json.loads(answer.body)["error"]
    assert app.ask("/echo", b"still here").body == b"still here"


def test_healthz_is_the_platforms_own(app: App) -> None:
    assert 200 <= app.ask("/healthz", method="GET").status < 300
    assert app.ask("/healthz", method="POST").status == 200


def test_many_requests_share_one_connection(app: App) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=120)
    connection.connect()
    first = connection.sock
    for number in range(20):
        payload = str(number).encode() * number
        assert ask_on(connection, "/echo", payload).body == payload
    assert ask_on(connection, "/fail").status == 500
    assert ask_on(connection, "/echo", b"last").body == b"last"
    assert connection.sock is first
    connection.close()


def test_pipelined_requests_are_answered_in_order(app: App) -> None:
    one = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n"
    last = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", app.port), timeout=120) as connection:
        connection.sendall(one + b"one" + last + b"two")
        parts = []
        while part := connection.recv(4096):
            parts.append(part)
    got = b"".join(parts)
    assert got.count(b"HTTP/1.1 200 ") == 2
    assert 0 < got.index(b"one") < got.index(b"two")


BROKEN = {
    "no request line": b"hello\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "a header without a colon": b"POST /echo HTTP/1.1\r\nhost: x\r\nbroken\r\n\r\n",
    "a space before the colon": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length : 3\r\n\r\nabc",
    "a length that is no number": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: three\r\n\r\nabc",
    "a negative length": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: -3\r\n\r\nabc",
    "a length in other digits": "POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: ²\r\n\r\nabc".encode("latin-1"),
    "two lengths": b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "a chunk size that is no number": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    "an unknown coding": b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: magic\r\n\r\nabc",
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_http_is_refused_and_the_app_goes_on(app: App, data: bytes) -> None:
    got = app.raw(data)
    assert got == b"" or got.split(b" ", 2)[1] in (b"400", b"501"), got
    assert app.ask("/echo", b"on").body == b"on"


def test_headers_that_are_too_large_are_refused_and_the_app_goes_on(app: App) -> None:
    request = b"POST /echo HTTP/1.1\r\nhost: x\r\nx-large: " + b"a" * (1024 * 1024) + b"\r\n\r\n"
    try:
        got = app.raw(request)
    except ConnectionError:
        got = b""
    assert got == b"" or got.split(b" ", 2)[1] == b"431"
    assert app.ask("/echo", b"on").body == b"on"


def test_a_client_that_leaves_half_way_harms_nobody(app: App) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", app.port), timeout=120) as connection:
            connection.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf")
    assert app.ask("/echo", b"on").body == b"on"


LONGER_MS = (300, 2000, 8000)
"""How long a handler sleeps: what must happen meanwhile happens in the shortest, unless the machine is busy."""


def most_active(app: App, sleep_ms: int) -> int:
    """How many of eight requests at once an app ran side by side."""
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: app.ask(f"/sleep?{sleep_ms}"), range(8)))
    assert [answer.status for answer in answers] == [200] * 8
    return max(int(json.loads(answer.body)["active"]) for answer in answers)


def test_requests_run_side_by_side(app: App) -> None:
    assert any(most_active(app, sleep_ms) >= 2 for sleep_ms in LONGER_MS)


def test_the_concurrency_limit_queues_the_rest(command: Command) -> None:
    with started(command, IGNITE_MAX_CONCURRENCY="2") as app:
        found = 0
        for sleep_ms in (60, *LONGER_MS):
            found = max(found, most_active(app, sleep_ms))
            if found >= 2:
                break
    assert found == 2


def test_healthz_answers_while_all_handlers_are_busy(command: Command) -> None:
    with started(command, IGNITE_MAX_CONCURRENCY="1") as app, ThreadPoolExecutor(1) as pool:

        def is_answered_meanwhile(sleep_ms: int) -> bool:
            busy = pool.submit(app.ask, f"/sleep?{sleep_ms}")
            time.sleep(0.2)
            assert app.ask("/healthz", method="GET").status < 300
            meanwhile = not busy.done()
            assert busy.result().status == 200
            return meanwhile

        assert any(is_answered_meanwhile(sleep_ms) for sleep_ms in (1000, *LONGER_MS[1:]))


def test_term_finishes_what_is_in_flight_takes_no_more_and_ends_with_0(command: Command) -> None:
    assert any(refuses_while_it_finishes(command, sleep_ms) for sleep_ms in LONGER_MS)


def refuses_while_it_finishes(command: Command, sleep_ms: int) -> bool:
    """Whether an app that got TERM took no more requests while the one in flight went on, which ends well."""
    with started(command) as app, ThreadPoolExecutor(1) as pool:
        idle = socket.create_connection(("127.0.0.1", app.port), timeout=120)
        busy = pool.submit(app.ask, f"/sleep?{sleep_ms}")
        while not busy.done() and json.loads(app.ask("/sleep?0").body)["active"] < 2:
            pass  # it is not in flight yet
        app.term()
        while is_taking := takes(app):
            if busy.done():
                break
        meanwhile = not is_taking and not busy.done()
        assert busy.result().status == 200
        assert app.process.wait(300) == 0
        idle.close()
        return meanwhile


def takes(app: App) -> bool:
    try:
        app.ask("/echo")
    except OSError:
        return False
    return True


def test_term_leaves_no_connection_waiting_for_the_one_in_flight(command: Command) -> None:
    """Each connection around the moment of TERM is served or closed at once, not when the last handler is done."""
    with started(command) as app, ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as connections:
        busy = pool.submit(app.ask, "/sleep?600000")
        while json.loads(app.ask("/sleep?0").body)["active"] < 2:
            pass  # it is not in flight yet
        app.term()
        around: list[socket.socket] = []
        while len(around) < 400 and (connection := asked(app)):
            around.append(connections.enter_context(connection))
        if command.loses_accepted:
            app.process.kill()
        for connection in around:
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
        assert command.loses_accepted or not busy.done()
        app.process.kill()
        assert isinstance(busy.exception(), OSError)


def asked(app: App) -> socket.socket | None:
    """A connection that has sent a request; None when the app accepts no more."""
    try:
        connection = socket.create_connection(("127.0.0.1", app.port), timeout=120)
    except ConnectionError:
        return None
    with contextlib.suppress(ConnectionError):
        connection.sendall(b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
    return connection


def test_term_while_idle_ends_it_with_0(command: Command) -> None:
    with started(command) as app:
        app.term()
        assert app.process.wait(300) == 0
