"""uvicorn as the control side needs it: the owner of the process has the signals, tails end before connections do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from builder.errors import BuildError
from builder.services.errors import RETRY_AFTER_S, CallRefused, status_of
from builder.services.tails import Tails
from builder.transports.http.answers import error
from builder.transports.http.connections import Connections, places

GRACE_S = 2
TICK_S = 1.0
"""Between two dates of the answers."""
ABSOLUTE = re.compile(rb"https?://[^/]+", re.IGNORECASE)
"""What stands before the path of a target in absolute form."""
LENGTHS = {b"content-length", b"transfer-encoding"}


class Protocol(H11Protocol):
    """HTTP/1.1 whose answer to what is none has the form of every error, over connections that are bounded."""

    def __init__(self, connections: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._bounded = connections
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._bounded.opened(self, time.monotonic()):
            return
        self._is_refused = True
        if not self._bounded.refused(self, time.monotonic()):
            self.abort()
            return
        answer = error(503, "UNAVAILABLE", "the server has as many requests under way as it may; ask again")
        answer.headers["retry-after"] = str(RETRY_AFTER_S)
        self._write(answer, b"Service Unavailable")
        self.transport.write_eof()  # a close while its head comes is a reset, behind which nobody reads the answer

    def connection_lost(self, exc: Exception | None) -> None:
        self._bounded.closed(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_refused:
            super().data_received(data)

    def on_response_complete(self) -> None:
        self._bounded.answered(self, time.monotonic())
        super().on_response_complete()

    def is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def is_sending(self) -> bool:
        return self.conn.our_state is h11.DONE and self.conn.their_state is h11.SEND_BODY

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()

    def too_slow(self) -> None:
        if self.conn.our_state is h11.IDLE:
            found = status_of(
                CallRefused("DEADLINE_EXCEEDED", "the head of the request came too slowly; send it again")
            )
            self._last(error(408, found.code, found.message, found.detail), b"Request Timeout")
        else:  # it has had an answer, and what it sends now belongs to no other
            self.abort()

    def abort(self) -> None:
        self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self._last(_unread("this is no HTTP/1.1 request that the server reads"), b"Bad Request")

    def _last(self, answer: Response, reason: bytes) -> None:
        """Send an answer that is not the application's, and close."""
        self._write(answer, reason)
        self.transport.close()

    def _write(self, answer: Response, reason: bytes) -> None:
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=answer.status_code, headers=headers, reason=reason),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))


def conforming(app: ASGIApp) -> ASGIApp:
    """`app` with what RFC 9112 requires of a server: a target in absolute form is the path that it names (3.2.2), and a
    body of two lengths ends its connection (6.3), since a proxy before this server may have read the other length."""

    async def called(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if before := ABSOLUTE.match(scope["raw_path"]):
                path = scope["raw_path"][before.end() :] or b"/"
                scope = {**scope, "raw_path": path, "path": unquote(path.decode("ascii"))}
            if {name for name, _ in scope["headers"]} >= LENGTHS:
                refusal = _unread("the request has a Content-Length and a Transfer-Encoding")
                refusal.headers["connection"] = "close"
                return await refusal(scope, receive, send)
        await app(scope, receive, send)

    return called


def _unread(why: str) -> Response:
    found = status_of(BuildError("InvalidRequest", why))
    return error(found.http, found.code, found.message, found.detail)


class Server(uvicorn.Server):
    """One HTTP server; its loop is the one that tails run in. `should_exit` ends it."""

    def __init__(self, app: Starlette, tails: Tails) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        self._connections = Connections(places(resource.getrlimit(resource.RLIMIT_NOFILE)[0]))
        super().__init__(
            uvicorn.Config(
                conforming(app),
                http=self._protocol,  # type: ignore[arg-type]  # called as a class is
                log_level="warning",
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._tails = tails

    @property
    def should_exit(self) -> bool:
        """Whether the server shall end. May be set by any thread and in a signal handler."""
        return self._should_exit

    @should_exit.setter
    def should_exit(self, value: bool) -> None:
        self._should_exit = value
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # closed meanwhile
                self._loop.call_soon_threadsafe(self._told.set)

    def _protocol(self, **uvicorns: Any) -> Protocol:
        return Protocol(self._connections, **uvicorns)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None of them: uvicorn raises a signal again at its end, when our other parts still have to stop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._tails.bind(asyncio.get_running_loop())
        await super().startup(sockets)

    async def main_loop(self) -> None:
        """Until the server shall end, which wakes it: uvicorn's own looks ten times a second."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._told.wait(), TICK_S)

    async def on_tick(self, counter: int) -> bool:
        self._connections.look(time.monotonic())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._tails.end()
        await super().shutdown(sockets)
