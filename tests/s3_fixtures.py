"""Real S3 servers on loopback: moto's, and versitygw over a folder; and a proxy before them that fails on demand."""

from __future__ import annotations

import fcntl
import http.client
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from builder.local.ports import free_port
from builder.stores.s3 import BucketStore
from tests.kept import KEPT

VERSITYGW = "v1.8.0"
ACCESS, SECRET, REGION, BUCKET = "test-access", "test-secret-key", "us-east-1", "sources"
START_S = 300.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}


def versitygw() -> Path:
    """The program, compiled once on a machine from its module, by version."""
    folder = KEPT / f"versitygw-{VERSITYGW}"
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "versitygw"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            made = folder / "made"
            environ = {**os.environ, "GOBIN": str(made), "CGO_ENABLED": "0", "GOFLAGS": "-mod=mod"}
            module = f"github.com/versity/versitygw/cmd/versitygw@{VERSITYGW}"
            argv = ["go", "install", "-trimpath", "-ldflags", "-s -w", module]
            subprocess.run(argv, check=True, env=environ, cwd=folder)
            (made / "versitygw").rename(program)
    return program


@contextmanager
def versity_server(folder: Path) -> Iterator[str]:
    """versitygw over a new folder; its URL."""
    port = free_port()
    (folder / "data").mkdir(parents=True)
    (folder / "sidecar").mkdir()
    argv = [str(versitygw()), "--port", f"127.0.0.1:{port}", "--access", ACCESS, "--secret", SECRET, "--region", REGION]
    argv += ["posix", "--sidecar", str(folder / "sidecar"), str(folder / "data")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        _wait(port, process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def moto_server() -> Iterator[str]:
    """moto's server in threads of this process; its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"versitygw did not start: {log.read_text()[-2000:]}")


def bucket_at(url: str, spool: Path, name: str = BUCKET, prefix: str = "ignite/x") -> BucketStore:
    """A store in a bucket of that server, which is made."""
    import botocore.exceptions

    store = BucketStore(f"s3://{name}/{prefix}", spool, url, REGION)
    try:
        store._client.create_bucket(Bucket=name)
    except botocore.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")
    return store


Fault = Callable[[BaseHTTPRequestHandler], bool]
"""Answers a request itself, and returns True; or leaves it alone."""


class FaultyProxy:
    """A reverse proxy before an S3 server. `fault` is asked at each request; `cut` bytes of an answer's body pass."""

    def __init__(self, backend: str) -> None:
        self.backend = backend.removeprefix("http://")
        self.fault: Fault = lambda request: False
        self.cuts: list[int] = []
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                proxy.requests.append(f"{self.command} {self.path}")
                if proxy.fault(self):
                    return
                backend = http.client.HTTPConnection(proxy.backend, timeout=120)
                headers = {name: text for name, text in self.headers.items() if name.lower() != "expect"}
                backend.request(self.command, self.path, body or None, headers)
                answer = backend.getresponse()
                data = answer.read()
                self.send_response_only(answer.status)
                for name, text in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                        self.send_header(name, text)
                length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
                self.send_header("content-length", length or "0")
                self.end_headers()
                backend.close()
                if self.command == "GET" and len(data) > 4096 and proxy.cuts:
                    self.wfile.write(data[: proxy.cuts.pop(0)])
                    reset(self)
                elif self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


def reset(request: BaseHTTPRequestHandler) -> None:
    """End a connection with a reset, in the middle of whatever it carries."""
    request.wfile.flush()
    request.close_connection = True
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.connection.close()


def answer(request: BaseHTTPRequestHandler, status: int, code: str, **headers: str) -> None:
    """An error as S3 writes it."""
    body = f"<Error><Code>{code}</Code><Message>said so</Message></Error>".encode()
    request.send_response_only(status)
    for name, text in {"content-type": "application/xml", **headers, "content-length": str(len(body))}.items():
        request.send_header(name.replace("_", "-"), text)
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
