"""Answers in proto3 JSON, and errors as `{code, message, details}`: the table of `services/errors.py` on HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from structlog.typing import FilteringBoundLogger

from builder.contract import codec, routes
from builder.errors import BuildError
from builder.services.errors import RETRY_AFTER_S, CallRefused, Status, status_of

Handler = Callable[[Request], Awaitable[Response]]


def json_answer(message: Message) -> Response:
    """A message as the contract writes it."""
    return json_bytes(codec.dump(message))


def json_bytes(data: bytes) -> Response:
    """A message that is encoded already."""
    return Response(data, media_type="application/json")


def error(status: int, code: str, message: str, *details: Mapping[str, str]) -> JSONResponse:
    """The error body."""
    return JSONResponse({"code": code, "message": message, "details": list(details)}, status)


def answering(handle: Handler) -> Handler:
    """Turn what a handler raises into an answer."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except ClientDisconnect:
            return error(499, "CANCELLED", "the client went away")
        except asyncio.CancelledError:  # we stop, and this call did not end in time
            answer = error(503, "UNAVAILABLE", "the server stops; ask again")
            answer.headers["retry-after"] = str(RETRY_AFTER_S)
            return answer
        except Exception as raised:
            return await refused(request, raised)

    return answer


async def refused(request: Request, raised: Exception) -> Response:
    """The answer to what a call raised; what is our trouble goes to the log."""
    status = status_of(raised)
    _log(request, status, raised)
    return _answer(status)


def _answer(status: Status) -> Response:
    answer = error(status.http, status.code, status.message, *([status.detail] if status.detail else []))
    if status.http == 401:  # without it the clients of some languages read no answer at all
        answer.headers["www-authenticate"] = 'Bearer realm="ignite-builder"'
    if status.retry_after_s:
        answer.headers["retry-after"] = str(status.retry_after_s)
    return answer


def _log(request: Request, status: Status, raised: Exception) -> None:
    log: FilteringBoundLogger = request.app.state.log
    where = f"{request.method} {request.url.path}"
    if status.outage:
        log.warning("the store does not answer", action="store-away", where=where, error=repr(raised))
    elif status.mark:
        log.error(
            "an unforeseen error",
            action="unforeseen",
            mark=status.mark,
            where=where,
            error=repr(raised),
            exc_info=raised,
        )


async def no_route(request: Request, raised: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method (HTTP 405 is UNIMPLEMENTED in gRPC's words)."""
    assert isinstance(raised, HTTPException)
    path = shown_path(request.url.path)
    if raised.status_code == 404 and request.url.path.startswith(routes.NOT_YET_PATHS):
        return _answer(status_of(CallRefused("UNIMPLEMENTED", f"{path} is not built yet (docs/api.md)")))
    if raised.status_code == 404:
        where = "The paths are in docs/api.md."
        return _answer(status_of(CallRefused("NOT_FOUND", f"there is no {path} (docs/api.md)", next=where)))
    if raised.status_code == 405:
        methods = ", ".join(sorted(_methods(request.app.routes, request.url.path)))
        found = status_of(CallRefused("UNIMPLEMENTED", f"{path} takes {methods}, not {request.method}"))
        answer = error(405, found.code, found.message, found.detail)
        answer.headers["allow"] = methods
        return answer
    found = status_of(BuildError("InvalidRequest", str(raised.detail)))
    return error(raised.status_code, found.code, found.message, found.detail)


def _methods(known: Iterable[BaseRoute], path: str) -> set[str]:
    """The methods of a path, over all of its routes."""
    fitting = (route for route in known if isinstance(route, Route) and route.path_regex.match(path))
    return {method for route in fitting for method in route.methods or ()}


def shown_path(path: str) -> str:
    """A stranger's path as an error message holds it."""
    return path[:100].encode("ascii", "backslashreplace").decode()
