"""What answers for the process itself, without a token: /healthz, /readyz, /metrics, /version."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from structlog.typing import FilteringBoundLogger

import builder
from builder.contract.protocol import PROTOCOL
from builder.transports.http.answers import answering, error

READY_S = 2.0
PROBES = 4  # anybody may ask, and a part that hangs holds the thread that asks it


class Probes:
    """`parts` are asked whether the process is ready; one that is missing raises."""

    def __init__(
        self, parts: Mapping[str, Callable[[], object]], metrics_page: Callable[[], bytes], log: FilteringBoundLogger
    ) -> None:
        self._parts, self._metrics_page, self._log = parts, metrics_page, log
        self._threads = anyio.CapacityLimiter(PROBES)

    def paths(self) -> list[Route]:
        """Their routes."""
        found = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/version": self._version,
        }
        return [Route(path, answering(handle)) for path, handle in found.items()]

    async def _healthz(self, request: Request) -> Response:
        return Response("ok\n")

    async def _readyz(self, request: Request) -> Response:
        missing = [found for found in [await self._missing(*part) for part in self._parts.items()] if found]
        if missing:
            names = ", ".join(found["part"] for found in missing)
            return error(503, "UNAVAILABLE", f"missing: {names}", *missing)
        return JSONResponse({"ready": True})

    async def _version(self, request: Request) -> Response:
        return JSONResponse({"version": builder.__version__, "protocol": PROTOCOL})

    async def _metrics(self, request: Request) -> Response:
        page = await anyio.to_thread.run_sync(self._metrics_page, limiter=self._threads)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    async def _missing(self, name: str, ask: Callable[[], object]) -> Mapping[str, str]:
        """Why a part is missing, or nothing. The caller has shown no token: the part's own words go to the log."""
        try:
            with anyio.fail_after(READY_S):
                await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._threads)
        except TimeoutError:
            return {"part": name, "why": f"no answer within {READY_S:.0f} s"}
        except Exception as raised:
            self._log.warning("a part is missing", action="not-ready", part=name, error=repr(raised))
            return {"part": name, "why": type(raised).__name__}
        return {}
