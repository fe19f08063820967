"""The HTTP adapter: Starlette routes from the descriptors. It translates; what a call means is in `services`."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import BinaryIO, Protocol

import anyio
import anyio.to_thread
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from builder.contract import codec, routes
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.services.auth import Caller, Tokens, admit
from builder.services.builds import BuildService
from builder.services.errors import CallRefused, unauthenticated, unimplemented
from builder.services.nodes import OperateService
from builder.services.shares import Memory, Share
from builder.services.streams import LogStreams
from builder.services.uploads import Uploads
from builder.services.workers import WorkerService
from builder.settings import Settings
from builder.transports.http import bodies
from builder.transports.http.answers import Handler, answering, json_answer, json_bytes, no_route, refused
from builder.transports.http.connections import MOST
from builder.transports.http.events import events
from builder.transports.http.probes import Probes

BESIDE_SOURCE_BYTES = 1024 * 1024
LOG_BATCH_BYTES = 64 * 1024 * 1024  # 500 lines of 16 KiB, each byte of them escaped
CALLS_AT_ONCE = MOST // 8
"""Calls of an organization under way in this process, so that seven others find places. No setting: what lasts has
settings of its own (`log_streams`, `open_uploads`), and whoever is beyond it is told when to come again."""
UPLOAD_THREADS = 8  # each is busy for one piece, and waits for no client
PIECE_BYTES = 256 * 1024  # of an upload, in memory before it is written
SENT_BYTES = 1024 * 1024  # of a download, in memory before it is sent


class Streamed(StreamingResponse):
    """A stream that counts in a share until it has ended, however that is."""

    def __init__(self, content: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"cache-control": "no-store"})
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


class FileDownload(StreamingResponse):
    """An open file as a body of known length; it is closed, and `ended` called, however the answer ends."""

    def __init__(self, file: BinaryIO, is_head: bool, ended: Callable[[], None]) -> None:
        self._file, self._ended = file, ended
        size = os.fstat(file.fileno()).st_size
        pieces: Iterator[bytes] = iter(()) if is_head else iter(lambda: file.read(SENT_BYTES), b"")
        headers = {"content-length": str(size), "cache-control": "no-store"}
        super().__init__(iterate_in_threadpool(pieces), media_type="application/octet-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._file.close()
            self._ended()


class Incoming(Protocol):
    """What receives a body piece by piece, and has an answer at its end. Its calls may block: for a thread."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> Message: ...

    def close(self) -> None: ...


class Api:
    """The routes of the services. `called` hears the name of each call that is admitted."""

    def __init__(
        self,
        settings: Settings,
        build_service: BuildService,
        worker_service: WorkerService,
        operate_service: OperateService,
        streams: LogStreams,
        uploads: Uploads,
        called: Callable[[str], None] = lambda _: None,
    ) -> None:
        inline = settings.inline_bytes * 4 // 3 + BESIDE_SOURCE_BYTES  # base64 makes a source a third larger
        self._tokens = Tokens(settings.tokens)
        self._targets: Mapping[str, tuple[object, int]] = {
            "BuildService": (build_service, inline),
            "WorkerService": (worker_service, LOG_BATCH_BYTES),
            "OperateService": (operate_service, BESIDE_SOURCE_BYTES),
        }
        self._builds, self._workers, self._streams, self._uploads = build_service, worker_service, streams, uploads
        self._called, self._memory, self._least = called, Memory(settings.bodies_bytes), settings.body_rate_bytes
        self._calls = Share("calls", CALLS_AT_ONCE)
        # Own threads: a slow disk below uploads holds up no heartbeat and no claim.
        self._upload_threads = anyio.CapacityLimiter(UPLOAD_THREADS)

    def paths(self) -> list[Route]:
        """All of them: the derived ones, and those whose bodies are no JSON."""
        derived = [route for service in routes.services() for route in routes.routes(service)]
        return [
            *(Route(route.template, answering(self._handler(route)), methods=[route.method]) for route in derived),
            Route(routes.UPLOAD_PATH, answering(self._upload), methods=["POST"]),
            Route(routes.SOURCE_PATH, answering(self._source)),
            Route(routes.ARCHIVE_PATH, answering(self._archive), methods=["POST"]),
            Route(routes.SOURCE_URL_PATH, answering(self._source_url)),
        ]

    def _handler(self, route: routes.Route) -> Handler:
        if route.rpc_name == "StreamBuildLogs":
            return functools.partial(self._log_stream, route)
        target, limit = self._targets[route.service]
        method = getattr(target, _snake(route.rpc_name), None)
        return functools.partial(self._unary, route, method, limit)

    def _admitted(self, request: Request, rpc_name: str) -> Caller:
        """The caller, when its token may make this call. Nothing of the body is read yet."""
        caller = self._caller(request)
        admit(caller, rpc_name)
        self._called(rpc_name)
        return caller

    def _caller(self, request: Request) -> Caller:
        given = request.headers.getlist("authorization")
        if len(given) > 1:  # a proxy may have looked at another one than this server would
            raise unauthenticated("send one Authorization header, not several")
        return self._tokens.caller(*given or ("",))

    async def _unary(
        self, route: routes.Route, method: Callable[[Caller, Message], Message] | None, limit: int, request: Request
    ) -> Response:
        caller = self._admitted(request, route.rpc_name)
        if method is None:
            raise unimplemented(f"{route.rpc_name} is not built yet (docs/api.md)")
        if route.has_body:
            bodies.check_type(request, bodies.JSON)
        if route.rpc_name == "CreateBuild":
            self._builds.check_room(caller)
        params, query = request.path_params, request.query_params
        # A node's token belongs to the operator, who has as many calls as nodes.
        share = self._calls.one(caller.organization) if caller.organization else contextlib.nullcontext()
        with share:
            async with bodies.whole(request, limit, self._memory, _owner(caller), self._least) as body:

                def call() -> bytes:  # parsing too: a large batch must not hold up the loop
                    return codec.dump(method(caller, routes.bind(route, params, query.multi_items(), body)))

                return json_bytes(await run_in_threadpool(call))

    async def _log_stream(self, route: routes.Route, request: Request) -> Response:
        caller = self._admitted(request, route.rpc_name)
        last = request.headers.get("last-event-id", "")
        query = routes.bind(route, request.path_params, request.query_params.multi_items(), b"")
        assert isinstance(query, pb.StreamBuildLogsRequest)
        share = self._streams.share
        share.take(caller.organization)
        try:
            place = await self._streams.open(caller, query, last)
        except BaseException:
            share.give_back(caller.organization)
            raise
        if place.is_over:  # an EventSource comes again after the end, until it is answered so
            share.give_back(caller.organization)
            return Response(status_code=204)
        return Streamed(events(self._streams, place), lambda: share.give_back(caller.organization))

    async def _upload(self, request: Request) -> Response:
        """Read in the loop, written in a thread piece by piece: a client that is slow holds neither."""
        caller = self._admitted(request, "UploadBuildContext")
        bodies.check_type(request, bodies.SOURCES)
        with self._uploads.share.one(caller.organization):
            begin = functools.partial(self._uploads.begin, caller, bodies.announced(request))
            return await self._received(request, caller, begin)

    async def _archive(self, request: Request) -> Response:
        """The same, for a node: the claim, not an organization, has a share."""
        caller = self._admitted(request, "Archive")
        bodies.check_type(request, bodies.SOURCES[:1])
        build_id, query = request.path_params["build_id"], request.query_params
        claim, lives_s = (codec.number(query.get(name, ""), name) for name in ("claim", "livesS"))
        with self._workers.archives.share.one(build_id):
            asked = (build_id, claim, query.get("sha256", ""), lives_s, bodies.announced(request))
            return await self._received(request, caller, functools.partial(self._workers.archive, caller, *asked))

    async def _received(self, request: Request, caller: Caller, begin: Callable[[], Incoming]) -> Response:
        self._memory.take(_owner(caller), PIECE_BYTES)
        try:
            return json_answer(await self._stored(request, begin))
        finally:
            self._memory.give_back(_owner(caller), PIECE_BYTES)

    async def _stored(self, request: Request, begin: Callable[[], Incoming]) -> Message:
        upload = Received(begin, self._upload_threads)
        body, is_sent = bodies.chunks(request, self._least), not bodies.waits(request)
        try:
            await upload.begin()
            is_sent = True
            piece = bytearray()
            async for chunk in body:
                piece += chunk
                if len(piece) >= PIECE_BYTES:
                    await upload.write(bytes(piece))
                    piece.clear()
            await upload.write(bytes(piece))
            return await upload.finish()
        except BuildError as error:
            if error.reason == "ArchiveTooLarge" and is_sent:
                with contextlib.suppress(CallRefused, ClientDisconnect):
                    await bodies.drain(body)
            raise
        finally:
            await upload.close()

    async def _source(self, request: Request) -> Response:
        caller = self._caller(request)
        self._called("Source")
        claim = codec.number(request.query_params.get("claim", ""), "claim")
        find = functools.partial(self._workers.source, caller, request.path_params["build_id"], claim)
        stream = await run_in_threadpool(find)
        return StreamingResponse(iterate_in_threadpool(stream), media_type="application/octet-stream")

    async def _source_url(self, request: Request) -> Response:
        """A source for whoever has its URL: nobody else's, nothing of a range, no list. No token counts here."""
        self._called("SourceUrl")
        sha256, query = request.path_params["sha256"], request.query_params
        expires_ms = codec.number(query.get("expires", ""), "expires")
        find = functools.partial(self._workers.source_by_url, sha256, expires_ms, query.get("signature", ""))
        downloads = self._workers.archives.downloads
        file = await run_in_threadpool(find)
        try:
            downloads.take(sha256)
        except BaseException:
            file.close()
            raise
        return FileDownload(file, request.method == "HEAD", lambda: downloads.give_back(sha256))


class Received:
    """An `Incoming` whose calls run in threads; one that a cancel overtakes is closed all the same."""

    def __init__(self, begin: Callable[[], Incoming], threads: anyio.CapacityLimiter) -> None:
        self._begin, self._threads = begin, threads
        self._upload: Incoming | None = None

    async def begin(self) -> None:
        def call() -> None:
            self._upload = self._begin()

        await anyio.to_thread.run_sync(call, limiter=self._threads)

    async def write(self, data: bytes) -> None:
        assert self._upload is not None
        await anyio.to_thread.run_sync(self._upload.write, data, limiter=self._threads)

    async def finish(self) -> Message:
        assert self._upload is not None
        return await anyio.to_thread.run_sync(self._upload.finish, limiter=self._threads)

    async def close(self) -> None:
        if self._upload is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._upload.close, limiter=self._threads)


def _owner(caller: Caller) -> str:
    """Whose memory a body is; tokens of nodes have no organization."""
    return caller.organization or caller.token_sha256


def make_app(api: Api, probes: Probes, log: FilteringBoundLogger) -> Starlette:
    """The ASGI application."""
    paths: list[BaseRoute] = [*api.paths(), *probes.paths()]
    app = Starlette(
        routes=sorted(paths, key=_specific_last),
        exception_handlers={HTTPException: no_route, Exception: refused},
    )
    app.state.log = log
    app.router.redirect_slashes = False  # a path is the contract's or it is none
    return app


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _specific_last(route: BaseRoute) -> bool:
    """Paths without a parameter come first, so that a literal segment wins over one."""
    return "{" in getattr(route, "path", "")
