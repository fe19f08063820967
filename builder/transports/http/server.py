"""uvicorn as the control side needs it: the owner of the process has the signals, tails end before connections do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

from builder.services.tails import Tails

GRACE_S = 2


class Server(uvicorn.Server):
    """One HTTP server; its loop is the one that tails run in. `should_exit` ends it."""

    def __init__(self, app: Starlette, tails: Tails) -> None:
        super().__init__(
            uvicorn.Config(
                app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=GRACE_S
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
