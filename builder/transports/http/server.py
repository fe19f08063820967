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

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None of them: uvicorn raises a signal again at its end, when our other parts still have to stop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._tails.bind(asyncio.get_running_loop())
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._tails.end()
        await super().shutdown(sockets)
