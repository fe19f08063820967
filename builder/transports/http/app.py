"""The HTTP adapter: Starlette routes from the descriptors, SSE for logs, errors as `{code, message, details}`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from structlog.typing import FilteringBoundLogger

from builder.config import Settings
from builder.contract import codec, routes
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.services.auth import Caller, CallRefused, Tokens, unimplemented
from builder.services.nodes import OperateService
from builder.services.service import BuildService, WorkerService
from builder.services.tails import Tails

READY_S = 2.0
BESIDE_SOURCE_BYTES = 1024 * 1024
LOG_BATCH_BYTES = 64 * 1024 * 1024  # 500 lines of 16 KiB, each byte of them escaped
DRAINED_BYTES = 64 * 1024 * 1024
KEEP_ALIVE_S = 15.0  # proxies and clients cut a connection that says nothing for 30 s or 60 s
SILENCE_S = 60.0  # a client that sends nothing of its body for so long has gone, or does not mean it
UPLOADS = 8  # at once; each holds a thread until its client has sent everything
PROBES = 4  # anybody may ask, and a part that hangs holds the thread that asks it

Handler = Callable[[Request], Awaitable[Response]]


def make_app(
    settings: Settings,
    build_service: BuildService,
    worker_service: WorkerService,
    operate_service: OperateService,
    tails: Tails,
    parts: Mapping[str, Callable[[], object]],
    metrics_page: Callable[[], bytes],
    log: FilteringBoundLogger,
) -> Starlette:
    """The ASGI application. `parts` are asked whether we are ready; one that is missing raises."""
    tokens = Tokens(settings.tokens)
    # Not the threads that answer everything else: heartbeats and claims must not wait for who holds one of these.
    uploads, probes = anyio.CapacityLimiter(UPLOADS), anyio.CapacityLimiter(PROBES)
    inline = settings.inline_bytes * 4 // 3 + BESIDE_SOURCE_BYTES  # base64 makes a source a third larger
    targets: Mapping[str, tuple[object, int]] = {
        "BuildService": (build_service, inline),
        "WorkerService": (worker_service, LOG_BATCH_BYTES),
        "OperateService": (operate_service, BESIDE_SOURCE_BYTES),
    }
    derived = {route.rpc_name: route for service in routes.services() for route in routes.routes(service)}
    paths: list[BaseRoute] = [
        Route(route.template, _answering(_unary(route, *targets[route.service], tokens)), methods=[route.method])
        for route in derived.values()
        if not route.server_streaming
    ]

    async def upload(request: Request) -> Response:
        caller = _caller(request, tokens)
        chunks = _chunks(request)
        stopped = False

        async def next_chunk() -> bytes | None:
            nonlocal stopped
            try:
                return await anext(chunks, None)
            except asyncio.CancelledError:  # we stop; the thread that waits for this must not take it for the end
                stopped = True
                return None

        def pull() -> Iterator[bytes]:
            while (chunk := anyio.from_thread.run(next_chunk)) is not None:
                yield chunk
            if stopped:
                raise ClientDisconnect

        keep = functools.partial(build_service.upload, caller, pull())
        try:
            return _json(await anyio.to_thread.run_sync(keep, limiter=uploads))
        except BuildError:
            with contextlib.suppress(CallRefused, ClientDisconnect):
                await _read_on(chunks)
            raise

    async def source(request: Request) -> Response:
        caller = _caller(request, tokens)
        claim = codec.number(request.query_params.get("claim", ""), "claim")
        find = functools.partial(worker_service.source, caller, request.path_params["build_id"], claim)
        stream = await run_in_threadpool(find)
        return StreamingResponse(iterate_in_threadpool(stream), media_type="application/octet-stream")

    async def log_stream(request: Request) -> Response:
        caller = _caller(request, tokens)
        build_id = request.path_params["build_id"]
        query = codec.from_query(
            pb.StreamBuildLogsRequest, [("buildId", build_id), *request.query_params.multi_items()]
        )
        last = request.headers.get("last-event-id", "")
        if last:
            after = codec.number(last, "Last-Event-ID")
        elif query.HasField("from_sequence"):
            after = max(0, query.from_sequence - 1)
        else:
            after = 0 if query.from_start else -1
        record = await run_in_threadpool(build_service.get_build, caller, pb.GetBuildRequest(build_id=build_id))
        after = record.log_lines if after < 0 else after
        body = _events(build_service, tails, caller, record.build_id, after)
        return StreamingResponse(body, media_type="text/event-stream", headers={"cache-control": "no-store"})

    async def healthz(request: Request) -> Response:
        return Response("ok\n")

    async def readyz(request: Request) -> Response:
        missing = [found for found in [await _missing(name, ask, probes, log) for name, ask in parts.items()] if found]
        if missing:
            names = ", ".join(found["part"] for found in missing)
            return _error(503, "UNAVAILABLE", f"missing: {names}", *missing)
        return JSONResponse({"ready": True})

    async def metrics(request: Request) -> Response:
        page = await anyio.to_thread.run_sync(metrics_page, limiter=probes)
        return Response(page, media_type=CONTENT_TYPE_LATEST)

    paths += [
        Route(routes.UPLOAD_PATH, _answering(upload), methods=["POST"]),
        Route(routes.SOURCE_PATH, _answering(source)),
        Route(derived["StreamBuildLogs"].template, _answering(log_stream)),
        Route("/healthz", _answering(healthz)),
        Route("/readyz", _answering(readyz)),
        Route("/metrics", _answering(metrics)),
    ]
    app = Starlette(
        routes=sorted(paths, key=_specific_last),
        exception_handlers={HTTPException: _no_route, Exception: _unforeseen},
    )
    app.state.log = log
    app.router.redirect_slashes = False  # a path is the contract's or it is none
    return app


def _caller(request: Request, tokens: Tokens) -> Caller:
    return tokens.caller(request.headers.get("authorization", ""))


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises `CallRefused` DEADLINE_EXCEEDED when nothing does."""
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(SILENCE_S):
                chunk = await anext(stream, None)
        except TimeoutError:
            message = f"nothing of the body came for {SILENCE_S:.0f} s; send it again"
            raise CallRefused("DEADLINE_EXCEEDED", 408, message) from None
        if chunk is None:
            return
        yield chunk


async def _read_on(chunks: AsyncIterator[bytes]) -> None:
    """Within reason, read a refused body to its end: who is still sending when the connection closes never sees the
    answer."""
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > DRAINED_BYTES:
            return


async def _body(request: Request, limit: int) -> bytes:
    """The whole body; nothing of one beyond the limit is kept."""
    data, chunks = bytearray(), _chunks(request)
    async for chunk in chunks:
        data += chunk
        if len(data) <= limit:
            continue
        data.clear()
        await _read_on(chunks)
        raise BuildError("ArchiveTooLarge", f"the body has more than {limit} bytes; upload the source", where="body")
    return bytes(data)


def _unary(route: routes.Route, target: object, limit: int, tokens: Tokens) -> Handler:
    method = getattr(target, _snake(route.rpc_name), None)

    async def handle(request: Request) -> Response:
        caller = _caller(request, tokens)
        if method is None:
            raise unimplemented(f"{route.rpc_name} is not built yet (docs/api.md)")
        match = routes.Match(route=route, params=dict(request.path_params))
        parsed = routes.bind(match, request.query_params.multi_items(), await _body(request, limit))
        return _json(await run_in_threadpool(method, caller, parsed))

    return handle


def _json(message: Any) -> Response:
    return Response(codec.dump(message), media_type="application/json")


def _answering(handle: Handler) -> Handler:
    """Turn what a handler raises into the contract's error body."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except CallRefused as error:
            return _error(error.http, error.code, error.message)
        except codec.Malformed as error:
            refused = BuildError("InvalidRequest", error.message, where=error.where)
            return _error(refused.row.http, refused.row.grpc, refused.message, _detail(refused))
        except BuildError as error:
            return _error(error.row.http, error.row.grpc, error.message, _detail(error))
        except ClientDisconnect:
            return _error(499, "CANCELLED", "the client went away")
        except asyncio.CancelledError:  # we stop, and this call did not end in time
            return _error(503, "UNAVAILABLE", "the server stops; ask again")
        except Exception as error:
            return await _unforeseen(request, error)

    return answer


async def _missing(
    name: str, ask: Callable[[], object], probes: anyio.CapacityLimiter, log: FilteringBoundLogger
) -> Mapping[str, str]:
    """Why a part is missing, or nothing. Whoever asks has shown no token: the part's own words go to the log."""
    try:
        with anyio.fail_after(READY_S):
            await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=probes)
    except TimeoutError:
        return {"part": name, "why": f"no answer within {READY_S:.0f} s"}
    except Exception as error:
        log.warning("a part is missing", action="not-ready", part=name, error=repr(error))
        return {"part": name, "why": type(error).__name__}
    return {}


def _error(http: int, code: str, message: str, *details: Mapping[str, str]) -> JSONResponse:
    return JSONResponse({"code": code, "message": message, "details": list(details)}, http)


def _detail(error: BuildError) -> Mapping[str, str]:
    return {"reason": error.reason, "errorClass": str(error.error_class), "where": error.where, "hint": error.next}


async def _unforeseen(request: Request, error: Exception) -> Response:
    """Ours. The log gets everything, the caller a word to find it by: an exception's text may hold anything."""
    where = f"{request.method} {request.url.path}"
    log: FilteringBoundLogger = request.app.state.log
    if _store_is_away(error):
        log.warning("the store does not answer", action="store-away", where=where, error=repr(error))
        answer = _error(503, "UNAVAILABLE", "the store of the server does not answer; ask again")
        answer.headers["retry-after"] = "1"
        return answer
    mark = secrets.token_hex(4)
    log.error("an unforeseen error", action="unforeseen", mark=mark, where=where, error=repr(error), exc_info=error)
    message = f"an error of ours; the server's log has it as {mark}"
    return _error(500, "INTERNAL", message, _detail(BuildError("Internal", message)))


def _store_is_away(error: Exception) -> bool:
    """Whether the store does not answer for now (gone, locked, full); a statement that it refuses is ours."""
    if isinstance(error, OperationalError):  # SQLite has this class for statements that it refuses, too
        return getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    return isinstance(error, InterfaceError | PoolTimeout) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


async def _no_route(request: Request, error: Exception) -> Response:
    """Starlette's own refusals: no such path, or not with this method (HTTP 405 is UNIMPLEMENTED in gRPC's words)."""
    assert isinstance(error, HTTPException)
    path = shown_path(request.url.path)
    if error.status_code == 404 and request.url.path.startswith(routes.NOT_YET_PATHS):
        return _error(501, "UNIMPLEMENTED", f"{path} is not built yet (docs/api.md)")
    if error.status_code == 404:
        return _error(404, "NOT_FOUND", f"there is no {path} (docs/api.md)")
    if error.status_code == 405:
        methods = sorted(_methods(request.app.routes, request.url.path))
        answer = _error(405, "UNIMPLEMENTED", f"{path} takes {', '.join(methods)}, not {request.method}")
        answer.headers["allow"] = ", ".join(methods)
        return answer
    return _error(error.status_code, "INVALID_ARGUMENT", str(error.detail))


def _methods(known: Iterable[BaseRoute], path: str) -> set[str]:
    """The methods of a path, over all of its routes."""
    fitting = (route for route in known if isinstance(route, Route) and route.path_regex.match(path))
    return {method for route in fitting for method in route.methods or ()}


def shown_path(path: str) -> str:
    """A stranger's path as an error message holds it."""
    return path[:100].encode("ascii", "backslashreplace").decode()


async def _events(service: BuildService, tails: Tails, caller: Caller, build_id: str, after: int) -> AsyncIterator[str]:
    """Each sequence once, in order, then `eof`. The store is read after a second of silence, too.

    Without `eof` the stream is not at its end: this process stops, and another one, or its successor, goes on.
    """
    with tails.follow(build_id) as heard:
        spoke = time.monotonic()
        while not tails.ended:
            entries, ended = await run_in_threadpool(service.log_page, caller, build_id, after)
            for entry in entries:
                name = "eof" if entry.eof else "log"
                yield f"id: {entry.sequence}\nevent: {name}\ndata: {codec.dump(entry).decode()}\n\n"
                after = entry.sequence
            if ended:
                return
            now = time.monotonic()
            if entries:
                spoke = now
                continue
            if now - spoke >= KEEP_ALIVE_S:
                yield ": keep-alive\n\n"
                spoke = now
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(heard.wait(), min(1.0, KEEP_ALIVE_S))
            heard.clear()


def _specific_last(route: BaseRoute) -> bool:
    """Paths without a parameter come first, so that a literal segment wins over one."""
    return "{" in getattr(route, "path", "")
