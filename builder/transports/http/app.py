"""The HTTP adapter: Starlette routes from the descriptors. It translates; what a call means is in `services`."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Mapping

import anyio
import anyio.to_thread
from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route
from structlog.typing import FilteringBoundLogger

from builder.config import Settings
from builder.contract import codec, routes
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.services.auth import Caller, Tokens, admit
from builder.services.builds import BuildService
from builder.services.errors import CallRefused, unimplemented
from builder.services.nodes import OperateService
from builder.services.streams import LogStreams
from builder.services.uploads import Uploads
from builder.services.workers import WorkerService
from builder.transports.http import bodies
from builder.transports.http.answers import Handler, answering, json_answer, json_bytes, no_route, refused
from builder.transports.http.events import events
from builder.transports.http.probes import Probes

BESIDE_SOURCE_BYTES = 1024 * 1024
LOG_BATCH_BYTES = 64 * 1024 * 1024  # 500 lines of 16 KiB, each byte of them escaped
UPLOADS = 8  # at once; each holds a thread until its client has sent everything


class Api:
    """The routes of the services."""

    def __init__(
        self,
        settings: Settings,
        build_service: BuildService,
        worker_service: WorkerService,
        operate_service: OperateService,
        streams: LogStreams,
        uploads: Uploads,
    ) -> None:
        inline = settings.inline_bytes * 4 // 3 + BESIDE_SOURCE_BYTES  # base64 makes a source a third larger
        self._tokens = Tokens(settings.tokens)
        self._targets: Mapping[str, tuple[object, int]] = {
            "BuildService": (build_service, inline),
            "WorkerService": (worker_service, LOG_BATCH_BYTES),
            "OperateService": (operate_service, BESIDE_SOURCE_BYTES),
        }
        self._workers, self._streams, self._uploads = worker_service, streams, uploads
        # Own threads: a slow upload holds up no heartbeat and no claim.
        self._upload_threads = anyio.CapacityLimiter(UPLOADS)

    def paths(self) -> list[Route]:
        """All of them: the derived ones, and the two whose bodies are no JSON."""
        derived = [route for service in routes.services() for route in routes.routes(service)]
        return [
            *(Route(route.template, answering(self._handler(route)), methods=[route.method]) for route in derived),
            Route(routes.UPLOAD_PATH, answering(self._upload), methods=["POST"]),
            Route(routes.SOURCE_PATH, answering(self._source)),
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
        return caller

    def _caller(self, request: Request) -> Caller:
        return self._tokens.caller(request.headers.get("authorization", ""))

    async def _unary(
        self, route: routes.Route, method: Callable[[Caller, Message], Message] | None, limit: int, request: Request
    ) -> Response:
        caller = self._admitted(request, route.rpc_name)
        if method is None:
            raise unimplemented(f"{route.rpc_name} is not built yet (docs/api.md)")
        body, params, query = await bodies.whole(request, limit), request.path_params, request.query_params

        def call() -> bytes:  # parsing too: a large batch must not hold up the loop
            return codec.dump(method(caller, routes.bind(route, params, query.multi_items(), body)))

        return json_bytes(await run_in_threadpool(call))

    async def _log_stream(self, route: routes.Route, request: Request) -> Response:
        caller = self._admitted(request, route.rpc_name)
        query = routes.bind(route, request.path_params, request.query_params.multi_items(), b"")
        assert isinstance(query, pb.StreamBuildLogsRequest)
        place = await self._streams.open(caller, query, request.headers.get("last-event-id", ""))
        headers = {"cache-control": "no-store"}
        return StreamingResponse(events(self._streams, place), media_type="text/event-stream", headers=headers)

    async def _upload(self, request: Request) -> Response:
        caller = self._admitted(request, "UploadBuildContext")
        body = bodies.chunks(request)
        messages = (pb.UploadBuildContextRequest(chunk=chunk) for chunk in bodies.in_thread(body))
        keep = functools.partial(self._uploads.upload_build_context, caller, messages)
        try:
            return json_answer(await anyio.to_thread.run_sync(keep, limiter=self._upload_threads))
        except BuildError:
            with contextlib.suppress(CallRefused, ClientDisconnect):
                await bodies.drain(body)
            raise

    async def _source(self, request: Request) -> Response:
        caller = self._caller(request)
        claim = codec.number(request.query_params.get("claim", ""), "claim")
        find = functools.partial(self._workers.source, caller, request.path_params["build_id"], claim)
        stream = await run_in_threadpool(find)
        return StreamingResponse(iterate_in_threadpool(stream), media_type="application/octet-stream")


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
