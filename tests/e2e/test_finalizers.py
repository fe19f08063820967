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

WAIT_S = 300.0
QUICK = {"retry_backoff_ms": "0"}


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
        serving(tmp_path / "serve", url, {"registry": proxy.host, "finalizers": "2", **QUICK}) as running,
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
    digest = push(proxy, folder / build, build, f"{organization}/{name}", f"build-{build}-1")
    assert not finish(serve, build, claim, pb.BuiltArtifact(digest=digest)).refused_because
    return build


def push(proxy: Proxy, folder: Path, text: str, repository: str, tag: str) -> str:
    """Past the API, as a node does; the digest."""
    target = registries.connect(proxy.host)
    try:
        return target.push(make_image(folder, text), repository, tag).digest
    finally:
        target.close()


def finish(serve: Serve, build: str, claim: int, success: pb.BuiltArtifact) -> pb.FinishResponse:
    request = pb.FinishRequest(protocol=PROTOCOL, build_id=build, claim=claim, success=success)
    with serve.api("worker") as api:
        answer: pb.FinishResponse = api.call("Finish", request)
    assert not answer.stale
    return answer


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


def until_pending(serve: Serve, build: str) -> None:
    until = time.monotonic() + WAIT_S
    while status(serve, "both", build) != "BUILD_STATUS_PENDING":
        assert time.monotonic() < until, serve.out.read_text()[-3000:]
        time.sleep(0.02)


def test_what_a_node_says_of_an_artifact_is_checked(serve: Serve, proxy: Proxy, tmp_path: Path) -> None:
    """Another organization's digest, one of the own repository that is not the tag's, none at all: the attempt ends,
    never "finalize later". What the node makes up beside a good digest is in no record."""
    foreign = push(proxy, tmp_path / "foreign", "foreign", "other/app", "v1")
    earlier = push(proxy, tmp_path / "earlier", "earlier", "acme/app", "v1")
    build = serve.submit("app")
    claim = serve.claim(build, nonce="first")
    assert "sha256:zz" in finish(serve, build, claim, pb.BuiltArtifact(digest="sha256:zz")).refused_because
    assert status(serve, "both", build) == "BUILD_STATUS_PENDING"
    claim = serve.claim(build, nonce="second")
    mine = push(proxy, tmp_path / "mine", "mine", "acme/app", f"build-{build}-2")
    assert not finish(serve, build, claim, pb.BuiltArtifact(digest=earlier)).refused_because
    until_pending(serve, build)
    claim = serve.claim(build, nonce="third")
    push(proxy, tmp_path / "again", "mine", "acme/app", f"build-{build}-3")
    invented = pb.BuiltArtifact(digest=mine, reference=f"registry.example.com/victim/app@{mine}", size_bytes=1)
    assert not finish(serve, build, claim, invented).refused_because
    until_succeeded(serve, "both", build)
    record = serve.ask("GET", f"/v1/ignite/builds/{build}", "both").json()
    assert (record["artifactRef"], record["imageDigest"]) == (f"{proxy.host}/acme/app@{mine}", mine)
    assert int(record["sizeBytes"]) > 1000 and record["retries"] == 2
    last = serve.submit("app", noCache=True)
    for attempt in range(3):
        claim = serve.claim(last, nonce=f"n{attempt}")
        assert not finish(serve, last, claim, pb.BuiltArtifact(digest=foreign)).refused_because
        if attempt < 2:
            until_pending(serve, last)
    until = time.monotonic() + WAIT_S
    while status(serve, "both", last) != "BUILD_STATUS_FAILED":
        assert time.monotonic() < until, serve.out.read_text()[-3000:]
        time.sleep(0.02)
    failure = serve.ask("GET", f"/v1/ignite/builds/{last}", "both").json()["failure"]
    assert (failure["reason"], failure["errorClass"]) == ("Internal", "platform")
    assert f"acme/app has no tag build-{last}-3" in failure["message"]
    assert '"finalize-later"' not in serve.out.read_text()
