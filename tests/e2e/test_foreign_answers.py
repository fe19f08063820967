"""A worker behind a proxy that for a while answers in the API's place: no word of it ends an attempt."""

from __future__ import annotations

import http.client
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local.embedded import private_redis
from tests import uids
from tests.build_fixtures import GATED, TERMINAL, let_go, tar_gz_of, until
from tests.program_fixtures import Program
from tests.program_fixtures import serving as started
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT_MS = 100
PAGE = b"<html><body><h1>Blocked by your administrator</h1></body></html>"
ENOUGH = 3
"""So many calls of a kind must have met the proxy's own answer."""
ANSWERS = {
    "forbidden": (403, {"content-type": "text/html"}),
    "unauthorized": (401, {"content-type": "text/html", "www-authenticate": "Basic"}),
    "not found": (404, {"content-type": "text/html"}),
    "bad gateway": (502, {"content-type": "text/html"}),
    "a page to log in": (302, {"location": "http://login.example/", "content-type": "text/html"}),
    "JSON of its own": (403, {"content-type": "application/json"}),
}


class Proxy:
    """Forwards each request to the API; a call that `spoils` names gets the answer that stands in `says`.

    `spoilt` counts these by the last word of their path.
    """

    def __init__(self, api: str) -> None:
        self.spoils: Callable[[str], bool] = lambda call: False
        self.says: tuple[int, dict[str, str]] = ANSWERS["forbidden"]
        self.spoilt: Counter[str] = Counter()
        address, outer = urlsplit(api).netloc, self

        class Forward(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                call = self.path.partition("?")[0].rpartition("/")[2]
                if outer.spoils(call):
                    outer.spoilt[call] += 1
                    status, headers = outer.says
                    page = b'{"blocked": true}' if "json" in headers["content-type"] else PAGE
                else:
                    upstream = http.client.HTTPConnection(address, timeout=120)
                    passed = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                    upstream.request(self.command, self.path, body, passed)
                    answer = upstream.getresponse()
                    status, page = answer.status, answer.read()
                    headers = {"content-type": answer.headers.get("content-type", "")}
                    upstream.close()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Forward)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @contextmanager
    def speaking(self, says: tuple[int, dict[str, str]], *calls: str) -> Iterator[None]:
        """Meanwhile the proxy answers these calls itself; without any, all of them."""
        self.spoilt.clear()
        self.says, self.spoils = says, lambda call: not calls or call in calls
        try:
            yield
        finally:
            self.spoils = lambda call: False

    def met(self, *calls: str) -> bool:
        return all(self.spoilt[call] >= ENOUGH for call in calls)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@dataclass(frozen=True)
class Site:
    """A control side, the proxy in front of it, and the node folder and the output of the worker behind the proxy."""

    serve: Serve
    proxy: Proxy
    node: Path
    said: Path


@pytest.fixture(scope="module")
def site(kept: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("PYTHONPATH", str(ROOT))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ignite-builder-proxy-", dir="/var/tmp")))
        folder.chmod(0o755)
        _, redis_url = stack.enter_context(private_redis(folder / "redis"))
        shared = {
            "pipelines": "tests.pipeline_script", "catalog": str(ROOT / "tests/data/catalog.toml"),
            "retry_backoff_ms": "50", "start_check": "off", "heartbeat_ms": str(HEARTBEAT_MS), "lease_ms": "300000",
        }  # fmt: skip
        serve = stack.enter_context(serving(folder / "serve", redis_url, shared))
        proxy = Proxy(serve.url)
        stack.callback(proxy.close)
        node = folder / "node"
        node.mkdir()
        (node / "bases").symlink_to(kept / "bases")
        mine = {
            "server": proxy.url, "token": "t-worker", "redis_url": redis_url, "node_id": "node-1", "slots": "1",
            "node_dir": str(node), "build_uid": str(uids.NODE + 40),
        }  # fmt: skip
        worker = Program(folder / "worker", shared | mine)
        assert worker.run("bases", "build", "python-3.11").code == 0
        _, said = stack.enter_context(started(worker, "worker"))
        yield Site(serve, proxy, node, said)


def submit(site: Site, text: str) -> str:
    request = pb.CreateBuildRequest(name="app", no_cache=True)
    request.code.compile.archive = tar_gz_of({"build.py": text})
    with site.serve.api("both") as api:
        return str(api.call("CreateBuild", request).build.build_id)


def record(site: Site, build_id: str) -> pb.Build:
    with site.serve.api("both") as api:
        build: pb.Build = api.call("GetBuild", pb.GetBuildRequest(build_id=build_id))
        return build


def assert_built_at_once(site: Site, build_id: str) -> None:
    assert until(lambda: record(site, build_id).status in TERMINAL), site.said.read_text()
    build = record(site, build_id)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, site.said.read_text())
    assert (build.retries, build.failures) == (0, 0), site.said.read_text()


@pytest.mark.parametrize("says", ANSWERS.values(), ids=list(ANSWERS))
def test_a_proxy_that_answers_for_the_api_ends_no_attempt(site: Site, says: tuple[int, dict[str, str]]) -> None:
    build_id = submit(site, GATED)
    assert until(lambda: any(site.node.glob(f"work/{build_id}-*/out"))), site.said.read_text()
    with site.proxy.speaking(says, "heartbeat"):
        assert until(lambda: site.proxy.met("heartbeat")), site.proxy.spoilt
    with site.proxy.speaking(says):
        let_go(site.node)
        assert until(lambda: site.proxy.met("heartbeat", "finish")), (site.proxy.spoilt, site.said.read_text())
    assert_built_at_once(site, build_id)


def test_a_proxy_that_answers_a_claim_costs_the_build_nothing(site: Site) -> None:
    with site.proxy.speaking(ANSWERS["forbidden"]):
        build_id = submit(site, "open('/work/out/server.py', 'w').close()")
        assert until(lambda: site.proxy.spoilt["claim"] > 0), (site.proxy.spoilt, site.said.read_text())
    assert_built_at_once(site, build_id)
