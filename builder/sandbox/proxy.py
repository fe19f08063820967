"""The egress proxy: serves a listener inside a sandbox, connects outside where the policy allows.

CONNECT (RFC 9110, 9.3.6) for TLS, absolute-form requests (RFC 9112, 3.2.2) for plain HTTP. It never looks into TLS. For
a client that knows no proxy it is a tunnel to one address from the first byte on.
"""

from __future__ import annotations

import base64
import contextlib
import re
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from builder.addresses import normalized
from builder.sandbox.policy import DEFAULT_PORTS, Decision, Egress, EgressRecord, Verdict

PORT = 3128
HEAD_LIMIT = 64 * 1024
CHUNK = 256 * 1024
CONNECT_TIMEOUT_S = 20.0
HEAD_TIMEOUT_S = 30.0
IDLE_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 1.0
MOST_CONNECTIONS = 128
HOP_HEADERS = frozenset({b"connection", b"proxy-connection", b"proxy-authorization", b"keep-alive", b"upgrade"})
# RFC 9112: no white space before the colon, no folded line. Controls alone end a line for some servers.
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[^\x00-\x08\x0a-\x1f\x7f]*")
_START = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]+) (HTTP/1\.[01])")


class BadRequest(Exception):
    """What came is no proxy request."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Where to, and the bytes to send there first (empty for CONNECT). `silent`: its client speaks no HTTP."""

    host: str
    port: int
    tunnel: bool
    first: bytes
    silent: bool = False


def environment() -> dict[str, str]:
    """The variables that make package clients use the proxy."""
    url = f"http://127.0.0.1:{PORT}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    return {spelled: url for name in names for spelled in (name, name.lower())}


def parse(data: bytes) -> Request:
    """Read a request's head (and what came behind it). Raises `BadRequest`.

    A server sees the host that the policy was asked about, whatever `Host` the step sent, and one request a connection.
    """
    head, _, rest = data.partition(b"\r\n\r\n")
    start, *headers = head.split(b"\r\n")
    parts = _START.fullmatch(start)
    if not parts:
        raise BadRequest(f"not a proxy request: {start[:80]!r}")
    method, target, version = (part.decode("ascii") for part in parts.groups())
    fields = [(_name(line), line) for line in headers]
    try:
        if method == "CONNECT":
            url = urlsplit("//" + target)
            if not url.hostname or not url.port or url.netloc != target or "@" in target:
                raise BadRequest("CONNECT needs host:port")
            return Request(host=normalized(url.hostname), port=url.port, tunnel=True, first=rest)
        url = urlsplit(target)
        if url.scheme != "http" or not url.hostname:
            raise BadRequest("only CONNECT and http:// are served")
        host, port = normalized(url.hostname), url.port or DEFAULT_PORTS["http"]
    except ValueError as error:
        raise BadRequest(str(error)) from None
    path = (url.path or "/") + ("?" + url.query if url.query else "")
    lines = [
        f"{method} {path} {version}".encode("ascii"),
        f"Host: {_authority(host, port)}".encode("ascii"),
        *(line for name, line in fields if name != b"host" and name not in HOP_HEADERS),
        b"Connection: close",  # the next request could name another host
    ]
    return Request(host=host, port=port, tunnel=False, first=b"\r\n".join(lines) + b"\r\n\r\n" + rest)


def _name(line: bytes) -> bytes:
    """The name of a header field, in lower case. Raises `BadRequest` for a line that servers read in different ways."""
    field = _FIELD.fullmatch(line)
    if not field:
        raise BadRequest(f"not a header field: {line[:80]!r}")
    return field[1].lower()


def _authority(host: str, port: int) -> str:
    """The authority of a URI (RFC 9110, 7.2); it has the port only where that is not the one of plain HTTP."""
    name = f"[{host}]" if ":" in host else host
    return name if port == DEFAULT_PORTS["http"] else f"{name}:{port}"


@contextmanager
def serving(listener: socket.socket, egress: Egress) -> Iterator[None]:
    """Serve the listener until the block ends; then every connection is cut."""
    proxy = _Proxy(listener, egress)
    thread = threading.Thread(target=proxy.accept, name="sandbox-egress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        proxy.stop()
        thread.join()


class _Proxy:
    def __init__(self, listener: socket.socket, egress: Egress) -> None:
        self._listener, self._egress = listener, egress
        self._free = threading.Semaphore(MOST_CONNECTIONS)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._stopped = False

    def accept(self) -> None:
        while True:
            self._free.acquire()
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,), name="sandbox-egress-one", daemon=True)
            with self._lock:  # `stop` joins these: one that is not started yet cannot be joined
                self._threads.add(thread)
                thread.start()

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for one in (self._listener, *self._open):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
            waiting = set(self._threads)
        self._free.release()
        end = time.monotonic() + STOP_TIMEOUT_S
        for thread in waiting:  # one may still be connecting; it finds out by itself
            thread.join(max(0.0, end - time.monotonic()))
        self._listener.close()

    @contextmanager
    def _held(self, one: socket.socket) -> Iterator[None]:
        """Known to `stop` while in use, closed afterwards."""
        with one:
            with self._lock:
                self._open.add(one)
                if self._stopped:
                    one.shutdown(socket.SHUT_RDWR)
            try:
                yield
            finally:
                with self._lock:
                    self._open.discard(one)

    def _serve(self, client: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError), self._held(client):
                try:
                    request = self._asked(client)
                except BadRequest as error:
                    _answer(client, "400 Bad Request", str(error))
                    return
                self._forward(client, request)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())
            self._free.release()

    def _asked(self, client: socket.socket) -> Request:
        """Raises `BadRequest`, OSError."""
        if self._egress.tunnel:
            host, port = self._egress.tunnel
            return Request(host=host, port=port, tunnel=True, first=b"", silent=True)
        return parse(_read_head(client))

    def _forward(self, client: socket.socket, request: Request) -> None:
        host, port = request.host, request.port
        decision = self._egress.decide(host, port)
        verdict, why = decision.verdict, decision.why
        server = None
        if verdict is Verdict.ALLOWED:
            try:
                server = _connect(decision, port)
            except OSError as error:
                verdict, why = Verdict.UNREACHABLE, str(error)
        if server is None:
            status = "403 Forbidden" if verdict is Verdict.REFUSED else "502 Bad Gateway"
            self._egress.record(EgressRecord(host=host, port=port, bytes_in=0, bytes_out=0, verdict=verdict, why=why))
            if not request.silent:
                _answer(client, status, f"{host}:{port} {verdict}: {why}")
            return
        count = [0, 0]
        try:
            with self._held(server):
                if request.tunnel and not request.silent:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                server.sendall(request.first)
                count[1] += len(request.first)
                relay(client, server, count)
        finally:
            self._egress.record(
                EgressRecord(host=host, port=port, bytes_in=count[0], bytes_out=count[1], verdict=verdict)
            )


def _connect(decision: Decision, port: int) -> socket.socket:
    """The first address that answers. Raises OSError."""
    if decision.upstream:
        return through_upstream(decision.upstream, decision.addresses[0], port)
    failed: OSError = OSError("no address")
    for address in decision.addresses:
        try:
            return socket.create_connection((address, port), timeout=CONNECT_TIMEOUT_S)
        except OSError as error:
            failed = error
    raise failed


def through_upstream(upstream: str, host: str, port: int) -> socket.socket:
    """A tunnel through the operator's own proxy, logged in where its URL has a user. Raises OSError when it says no."""
    url = urlsplit(upstream if "//" in upstream else "//" + upstream)
    server = socket.create_connection((url.hostname or "", url.port or 3128), timeout=CONNECT_TIMEOUT_S)
    try:
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        server.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{_login(url)}\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_LIMIT:
            byte = server.recv(1)  # one by one: what follows the head belongs to the tunnel
            if not byte:
                break
            head += byte
        status = head.split(b"\r\n")[0].decode("latin-1").split(" ")
        if len(status) < 2 or not status[1].startswith("2"):
            raise OSError(f"the upstream proxy answered {' '.join(status)[:120] or 'nothing'}")
    except OSError:
        server.close()
        raise
    return server


def _login(url: SplitResult) -> str:
    """The header line of RFC 7617 for a URL's user and password; nothing without a user. It never enters a sandbox."""
    if not url.username:
        return ""
    pair = f"{unquote(url.username)}:{unquote(url.password or '')}"
    return f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}\r\n"


def relay(client: socket.socket, server: socket.socket, count: list[int]) -> None:
    """Carry bytes both ways until both sides are done or silent for 5 min; `count` grows: [to client, to server]."""
    client.settimeout(IDLE_TIMEOUT_S)
    server.settimeout(IDLE_TIMEOUT_S)
    with selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ, (server, 1))
        ready.register(server, selectors.EVENT_READ, (client, 0))
        while ready.get_map():
            events = ready.select(IDLE_TIMEOUT_S)
            if not events:
                return
            for key, _ in events:
                source = key.fileobj
                assert isinstance(source, socket.socket)
                target, index = key.data
                data = source.recv(CHUNK)
                if data:
                    target.sendall(data)
                    count[index] += len(data)
                else:
                    ready.unregister(source)
                    with contextlib.suppress(OSError):
                        target.shutdown(socket.SHUT_WR)


def _read_head(client: socket.socket) -> bytes:
    """A request's head and what came with it. The time is that of the whole head: a byte now and then gains none.

    Raises `BadRequest`, OSError.
    """
    data, until = b"", time.monotonic() + HEAD_TIMEOUT_S
    while b"\r\n\r\n" not in data:
        left = until - time.monotonic()
        if left <= 0:
            raise BadRequest(f"no whole request head within {HEAD_TIMEOUT_S:g} s")
        client.settimeout(left)
        try:
            more = client.recv(8192)
        except TimeoutError:
            continue
        if not more or len(data) > HEAD_LIMIT:
            raise BadRequest("no request head")
        data += more
    return data


def _answer(client: socket.socket, status: str, why: str) -> None:
    body = f"ignite egress: {why}\n".encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    client.sendall(head.encode() + body)
