"""A meter before a registry: passes every request on, counts requests and the bytes of blobs that go up."""

from __future__ import annotations

import http.client
import http.server
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

HOP_BY_HOP = ("connection", "transfer-encoding", "content-length")


@dataclass
class Meter:
    """What went through. `requests` by method."""

    address: str = ""
    blob_bytes: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, method: str, path: str, size: int) -> None:
        with self._lock:
            self.requests[method] += 1
            if "/blobs/" in path:
                self.blob_bytes += size

    def take(self) -> tuple[int, Counter[str]]:
        """(bytes of blobs, requests) since the last time."""
        with self._lock:
            taken = self.blob_bytes, self.requests
            self.blob_bytes, self.requests = 0, Counter()
            return taken


@contextmanager
def before(registry: str) -> Iterator[Meter]:
    """A meter on a loopback port of its own, in front of `registry` (host:port)."""
    meter = Meter()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.body()
            meter.note(self.command, self.path, len(body))
            upstream = http.client.HTTPConnection(registry, timeout=60)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
                upstream.request(self.command, self.path, body, headers)  # Host stays ours: so do the Locations
                answer = upstream.getresponse()
                data = answer.read()
            finally:
                upstream.close()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP_BY_HOP:
                    self.send_header(name, value)
            length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
            self.send_header("content-length", length or "0")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def body(self) -> bytes:
            if self.headers.get("transfer-encoding", "").lower() != "chunked":
                return self.rfile.read(int(self.headers.get("content-length") or 0))
            data = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data

        def log_message(self, format: str, *args: object) -> None:
            return

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    meter.address = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
