"""The calls of a watcher. Every call may be repeated with the same request."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, cast

from google.protobuf.message import Message

from builder.client.api import Api
from builder.client.judged import judged
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

Answer = TypeVar("Answer", bound=Message)
THREADS = 4
"""Calls at once. A batch of log lines waits for a thread, and its Job's log waits for the batch."""


class WatcherCalls(Protocol):
    """Each raises `Unanswered` or `Refused`."""

    async def adopt(self, request: pb.AdoptJobRequest) -> pb.AdoptJobResponse: ...

    async def caught_up(self, request: pb.CaughtUpRequest) -> pb.CaughtUpResponse: ...

    async def beat(self, request: pb.BeatJobsRequest) -> pb.BeatJobsResponse: ...

    async def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse: ...

    async def finish(self, request: pb.FinishRequest) -> pb.FinishResponse: ...

    async def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse: ...

    async def current(self, request: pb.CurrentJobsRequest) -> pb.CurrentJobsResponse: ...


class ApiWatcherCalls:
    """Over a client of the API, whose calls block: on few threads of its own."""

    def __init__(self, api: Api) -> None:
        self._api, self._has_answered = api, False
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="calls")

    async def adopt(self, request: pb.AdoptJobRequest) -> pb.AdoptJobResponse:
        return await self._call("AdoptJob", request, pb.AdoptJobResponse)

    async def caught_up(self, request: pb.CaughtUpRequest) -> pb.CaughtUpResponse:
        return await self._call("CaughtUp", request, pb.CaughtUpResponse)

    async def beat(self, request: pb.BeatJobsRequest) -> pb.BeatJobsResponse:
        return await self._call("BeatJobs", request, pb.BeatJobsResponse)

    async def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        return await self._call("AppendLog", request, pb.AppendLogResponse)

    async def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        return await self._call("Finish", request, pb.FinishResponse)

    async def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        return await self._call("HandBack", request, pb.HandBackResponse)

    async def current(self, request: pb.CurrentJobsRequest) -> pb.CurrentJobsResponse:
        return await self._call("CurrentJobs", request, pb.CurrentJobsResponse)

    def close(self) -> None:
        """Close the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._api.close()

    async def _call(self, name: str, request: Message, answer: type[Answer]) -> Answer:
        with judged(is_known=self._has_answered):
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, self._api.call, name, request)
        self._has_answered = True
        return cast(Answer, found)
