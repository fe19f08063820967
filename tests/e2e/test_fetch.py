"""A node fetches its source through connections that break: that costs a pause, not a retry of the build."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.attempt.attempt import Attempt
from builder.claims.calls import Refused
from builder.client.api import Api
from builder.errors import PlatformError
from builder.local import embedded
from builder.node.calls import ApiCalls
from builder.pipelines.base import PlanRequest
from builder.text import size as words
from tests.attempt_fixtures import attempt_at, fetched
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e

SOURCE = b"def handler(event):\n    return event\n" + b"# filler\n" * 20_000


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("fetch")
    with embedded.private_redis(folder / "redis") as (_, url), serving(folder / "serve", url) as running:
        yield running


class Cutting:
    """Forwards connections. The n-th one gets only `cuts[n]` bytes of its answer before both its ends are closed."""

    def __init__(self, listener: socket.socket, port: int, cuts: list[int], stack: ExitStack) -> None:
        self._listener, self._port, self._cuts, self._stack = listener, port, cuts, stack
        self.connections = 0
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args)
        thread.start()
        self._stack.callback(thread.join)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._own(self._listener.accept()[0])
                server = self._own(socket.create_connection(("127.0.0.1", self._port)))
                self.connections += 1
                self._start(_pump, client, server, 1 << 40)
                self._start(_pump, server, client, self._cuts.pop(0) if self._cuts else 1 << 40)

    def _own(self, connection: socket.socket) -> socket.socket:
        self._stack.enter_context(connection)
        self._stack.callback(_shut, connection)
        return connection


def _pump(source: socket.socket, dest: socket.socket, left: int) -> None:
    with suppress(OSError):
        while left and (data := source.recv(min(left, 65536))):
            dest.sendall(data)
            left -= len(data)
    _shut(source)
    _shut(dest)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting(serve: Serve, cuts: list[int]) -> Iterator[tuple[Cutting, Api]]:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        proxy = Cutting(listener, int(serve.url.rpartition(":")[2]), cuts, stack)
        api = Api(f"http://127.0.0.1:{listener.getsockname()[1]}", "t-worker")
        try:
            yield proxy, api
        finally:
            api.close()  # first: then each connection ends
            _shut(listener)


def attempt(folder: Path, api: Api, build_id: str, claim: int) -> Attempt:
    """As a node has it after the claim."""
    request = PlanRequest(runtime="python", single_file=True)
    made = attempt_at(folder, ApiCalls(api), time.monotonic, 120_000, request, known=pipelines.load(()))
    made.lease.build_id, made.lease.claim = build_id, claim
    made.grant.source.sha256 = hashlib.sha256(SOURCE).hexdigest()
    return made


def claimed(serve: Serve) -> tuple[str, int]:
    compiled: dict[str, Any] = {"runtime": {"python": {}}, "sourceCode": base64.b64encode(SOURCE).decode()}
    build_id = serve.submit(code={"compile": compiled})
    serve.register()
    return build_id, serve.claim(build_id)


def test_a_connection_that_breaks_is_made_again_while_the_claim_is_owned(serve: Serve, tmp_path: Path) -> None:
    build_id, number = claimed(serve)
    with cutting(serve, [0, 40, 20_000, 150_000]) as (proxy, api):
        one = attempt(tmp_path, api, build_id, number)
        found = fetched(one)
        assert proxy.connections == 5
    [path] = one.source.iterdir()
    assert path.read_bytes() == SOURCE and words(len(SOURCE)) in found.summary


def test_a_refusal_ends_it(serve: Serve, tmp_path: Path) -> None:
    _, number = claimed(serve)
    with cutting(serve, []) as (proxy, api):
        one = attempt(tmp_path, api, "k7m2xq9d4t1zv6wh5r3p", number)
        with pytest.raises(PlatformError, match="could not be fetched") as caught:
            fetched(one)
        assert isinstance(caught.value.__cause__, Refused) and proxy.connections == 1
