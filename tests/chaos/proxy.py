"""A proxy before a real registry that has spells: 503, 429, a connection that is reset, no answer, a lost answer."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAIT_S = 30.0
MODES = ("503", "429", "reset", "hang", "lost")


class FaultProxy:
    """`mode` is one of `MODES`, or "" for none; `met` counts the requests that a mode has hit."""

    def __init__(self, upstream: str) -> None:
        self.met = dict.fromkeys(MODES, 0)
        self._mode, self._over = "", threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                mode = outer._mode
                if mode:
                    outer.met[mode] += 1
                if mode in ("503", "429"):
                    self.send_response(int(mode))
                    if mode == "429":
                        self.send_header("retry-after", "1")
                    self.send_header("content-length", "0")
                    self.end_headers()
                elif mode in ("reset", "hang"):
                    if mode == "hang":
                        outer._over.wait(WAIT_S)
                    self._drop()
                else:
                    self._pass_on(body, lost=mode == "lost")

            def _pass_on(self, body: bytes, *, lost: bool) -> None:
                connection = http.client.HTTPConnection(upstream, timeout=WAIT_S)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                try:
                    connection.request(self.command, self.path, body, headers | {"Host": outer.host})
                    answer = connection.getresponse()
                    data = answer.read()
                except (OSError, http.client.HTTPException):  # the registry is dead
                    self._drop()
                    return
                finally:
                    connection.close()
                if lost:
                    self._drop()
                    return
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                length = answer.getheader("content-length") if self.command == "HEAD" else str(len(data))
                self.send_header("content-length", length or "0")
                self.end_headers()
                self.wfile.write(data)

            def _drop(self) -> None:
                """RST instead of FIN: the other side sees a reset (socket(7), SO_LINGER)."""
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                return

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that is killed in a request breaks its connection."""

            def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
                assert isinstance(request, socket.socket)
                self.close_request(request)  # no FIN before the RST

        self.server = Server(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_address[1]}"

    def spell(self, mode: str) -> None:
        """Begin a mode, or with "" end it."""
        if mode:
            self._over.clear()
        self._mode = mode
        if not mode:
            self._over.set()


@contextmanager
def fault_proxy(upstream: str) -> Iterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.spell("")
        proxy.server.shutdown()
        thread.join()
        proxy.server.server_close()
