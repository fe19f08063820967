"""A package without a wheel, whose build backend is hostile: it runs once, alone, without a network or a cache."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import run
from tests.build_fixtures import CALLER, Server, zip_of
from tests.e2e.conftest import Start

pytestmark = pytest.mark.e2e

BACKEND = r"""
import json, os, socket, sys, zipfile
print("BACKEND RAN", file=sys.stderr, flush=True)

def tried(act):
    try:
        act()
        return True
    except OSError:
        return False

def found():
    writable = []
    for root in ("/cache", "/opt/ignite", "/usr"):
        for folder, _, names in os.walk(root):
            if tried(lambda: open(os.path.join(folder, "planted"), "w").close()):
                writable.append(folder)
            for name in names[:3]:
                if tried(lambda: open(os.path.join(folder, name), "ab").close()):
                    writable.append(os.path.join(folder, name))
    source = [name for _, _, names in os.walk("/work") for name in names if "secret" in name]
    hosts = [("127.0.0.1", 3128), ("127.0.0.1", PORT), ("1.1.1.1", 443)]
    reached = [host for host in hosts if tried(lambda: socket.create_connection(host, 2).close())]
    variables = [name for name in os.environ if "INDEX" in name or "PROXY" in name.upper()]
    return {"writable": writable, "source": source, "reached": reached, "variables": variables, "uid": os.getuid()}

def build_wheel(out, settings=None, metadata=None):
    name = "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(out, name), "w") as wheel:
        wheel.writestr("evil.py", "FOUND = " + repr(json.dumps(found())) + "\n")
        wheel.writestr("evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        wheel.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("evil-1.0.dist-info/RECORD", "evil.py,,\n")
    return name

prepare_metadata_for_build_wheel = None
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "back"\nbackend-path = ["."]\n'
HANDLER = "import evil\n\ndef handler(payload, ctx):\n    return evil.FOUND\n"


class Index:
    """A package index (PEP 503) on a loopback port with one package in release 1.0, which is an sdist alone."""

    def __init__(self, name: str = "evil") -> None:
        index = self
        self.name, self.sdist = name, b""

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name, digest = f"{index.name}-1.0.tar.gz", hashlib.sha256(index.sdist).hexdigest()
                page = f'<a href="/files/{name}#sha256={digest}">{name}</a>'.encode()
                body = {f"/simple/{index.name}/": page, f"/files/{name}": index.sdist}.get(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("content-type", "text/html" if self.path.startswith("/simple") else "application/gzip")
                self.send_header("content-length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.port = self.server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/simple"

    def pack(self, files: dict[str, str]) -> None:
        """Make these files the sdist."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as tar:
            for name, text in files.items():
                entry = tarfile.TarInfo(f"{self.name}-1.0/{name}")
                entry.size = len(text.encode())
                tar.addfile(entry, io.BytesIO(text.encode()))
        self.sdist = out.getvalue()

    @contextmanager
    def serving(self) -> Iterator[Index]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()


@pytest.fixture(scope="module")
def server(start: Start) -> Iterator[Server]:
    with Index().serving() as index:
        index.pack({"back.py": BACKEND.replace("PORT", str(index.port)), "pyproject.toml": PYPROJECT})
        with start(index_env={"UV_DEFAULT_INDEX": index.url}, slots=1) as running:
            yield running


def test_a_hostile_backend_runs_once_and_reaches_nothing(server: Server) -> None:
    files = {"handler.py": HANDLER, "requirements.txt": "evil==1.0\n", "secret.txt": "mine"}
    build = server.build("evil", zip_of(files), "python")
    assert server.log(build.build_id).text.count("BACKEND RAN") == 1  # not while dependencies were resolved
    with run.started(server.embedded.settings, build) as running:
        answer = httpx.post(running.url + "/", content="", headers=CALLER, timeout=120, trust_env=False)
    found = json.loads(answer.text)
    assert found.pop("uid") != 0
    assert found == {"writable": [], "source": [], "reached": [], "variables": []}
    again = server.build("evil", zip_of(files), "python", no_cache=True)
    assert "evil==1.0 was built before" in server.log(again.build_id).text
    assert again.image_digest == build.image_digest and again.status == pb.BUILD_STATUS_SUCCEEDED
