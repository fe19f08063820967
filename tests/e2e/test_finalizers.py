"""One organization's repository in trouble, between a real `serve` and a real registry: the others' builds end.

A test plays the node: it pushes an image, and says so. A proxy before the registry answers for a repository that is in
trouble: 503, or nothing at all.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.images import registry as registries
from builder.local import embedded
from tests.oci_fixtures import make_image
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e

WAIT_S = 60.0


class Proxy:
    """Before a registry. `mode` says what becomes of a PUT of a user tag in a repository of acme's: "503", "hang" or
    "" (passed on, as everything else is); `met` counts them by repository."""

    def __init__(self, upstream: str) -> None:
        self.mode, self.met, self.let_go = "", dict[str, int](), threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.command == "PUT" and outer.mode and self.path.startswith("/v2/acme/"):
                    repository, _, tag = self.path.removeprefix("/v2/").partition("/manifests/")
                    if tag == "latest":
                        outer.met[repository] = outer.met.get(repository, 0) + 1
                        if outer.mode == "hang":
                            outer.let_go.wait(WAIT_S)
                            self.close_connection = True
                            return
                        self.send_response(503)
                        self.send_header("content-length", "0")
                        self.end_headers()
                        return
                connection = http.client.HTTPConnection(upstream, timeout=WAIT_S)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers | {"Host": outer.host})
                answer = connection.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
                self.send_header("content-length", length or "0")
                self.end_headers()
                self.wfile.write(data)
                connection.close()

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_any

            def log_message(self, format: str, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def proxied(upstream: str) -> Iterator[Proxy]:
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.let_go.set()
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    with embedded.private_registry(tmp_path / "registry") as host, proxied(host) as made:
        yield made


@pytest.fixture
def serve(proxy: Proxy, tmp_path: Path) -> Iterator[Serve]:
    with (
        embedded.private_redis(tmp_path / "redis") as (_, url),
        serving(tmp_path / "serve", url, {"registry": proxy.host, "finalizers": "2"}) as running,
    ):
        running.register(slots=10)
        yield running


def built(serve: Serve, proxy: Proxy, folder: Path, who: str, organization: str, name: str) -> str:
    """A build of an organization that is built and pushed; only the control side's half is left."""
    body = {"name": name, "code": {"compile": {"runtime": {"python": {}}, "sourceCode": "eCA9IDEK"}}}
    answer = serve.ask("POST", "/v1/ignite/builds", who, json=body)
    assert answer.status_code == 200, answer.text
    build = str(answer.json()["buildId"])
    claim = serve.claim(build)
    target = registries.connect(proxy.host)
    try:
        pushed = target.push(make_image(folder / build, build), f"{organization}/{name}", f"build-{build}-1")
    finally:
        target.close()
    success = pb.BuiltArtifact(digest=pushed.digest, reference=pushed.reference, size_bytes=pushed.size_bytes)
    with serve.api("worker") as api:
        request = pb.FinishRequest(protocol=PROTOCOL, build_id=build, claim=claim, success=success)
        assert not api.call("Finish", request).stale
    return build


def status(serve: Serve, who: str, build: str) -> str:
    return str(serve.ask("GET", f"/v1/ignite/builds/{build}", who).json()["status"])


def until_succeeded(serve: Serve, who: str, *ids: str) -> None:
    until = time.monotonic() + WAIT_S
    while any(status(serve, who, build) != "BUILD_STATUS_SUCCEEDED" for build in ids):
        assert time.monotonic() < until, serve.out.read_text()[-3000:]
        time.sleep(0.05)


@pytest.mark.parametrize("mode", ["503", "hang"])
def test_a_repository_in_trouble_stops_no_other_organization(
    serve: Serve, proxy: Proxy, tmp_path: Path, mode: str
) -> None:
    proxy.mode = mode
    names = ["bad"] * 3 if mode == "hang" else ["bad-1", "bad-2"]  # each would occupy a thread for ten seconds
    troubled = [built(serve, proxy, tmp_path, "both", "acme", name) for name in names]
    until = time.monotonic() + WAIT_S
    while len(proxy.met) < len(set(names)):  # every repository's trouble was met
        assert time.monotonic() < until
        time.sleep(0.02)
    for number in range(3):
        until_succeeded(serve, "other", built(serve, proxy, tmp_path, "other", "other", f"healthy-{number}"))
    assert {status(serve, "both", build) for build in troubled} == {"BUILD_STATUS_RUNNING"}
    proxy.mode = ""
    proxy.let_go.set()
    until_succeeded(serve, "both", *troubled)
    records = [serve.ask("GET", f"/v1/ignite/builds/{build}", "both").json() for build in troubled]
    assert not any(record.get("failures") or record.get("retries") for record in records)


def test_a_registry_is_asked_once_an_attempt(serve: Serve, proxy: Proxy, tmp_path: Path) -> None:
    """The pause between attempts is the retry: each refused PUT is one attempt in the log."""
    proxy.mode = "503"
    build = built(serve, proxy, tmp_path, "both", "acme", "bad")
    until = time.monotonic() + WAIT_S
    while proxy.met.get("acme/bad", 0) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    proxy.mode = ""
    until_succeeded(serve, "both", build)
    later = [line for line in serve.out.read_text().splitlines() if '"finalize-later"' in line and "trouble" in line]
    assert len(later) == proxy.met["acme/bad"]
