"""uvicorn as the control side needs it: the owner of the process has the signals, tails end before connections do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from builder.errors import BuildError
from builder.services.errors import status_of
from builder.services.tails import Tails
from builder.transports.http.answers import error

GRACE_S = 2
TICK_S = 1.0
"""Between two dates of the answers."""


class Protocol(H11Protocol):
    """HTTP/1.1 whose answer to what is none has the form of every error."""

    def send_400_response(self, msg: str) -> None:
        found = status_of(BuildError("InvalidRequest", "this is no HTTP/1.1 request that the server reads"))
        answer = error(found.http, found.code, found.message, found.detail)
        headers = [*answer.raw_headers, (b"connection", b"close")]
        for event in (
            h11.Response(status_code=found.http, headers=headers, reason=b"Bad Request"),
            h11.Data(data=bytes(answer.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event))
        self.transport.close()


class Server(uvicorn.Server):
    """One HTTP server; its loop is the one that tails run in. `should_exit` ends it."""

    def __init__(self, app: Starlette, tails: Tails) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._tails.end()
        await super().shutdown(sockets)
