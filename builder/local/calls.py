"""The calls of an owner in the process of the control side: the services answer them directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from builder.claims.calls import Refused, Unanswered
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.auth import Caller
from builder.services.errors import status_of
from builder.services.workers import WorkerService

Request = TypeVar("Request")
Answer = TypeVar("Answer")
CHUNK = 1024 * 1024
OWNER = Caller(organization="", scopes=frozenset({"worker"}))


class ServiceCalls:
    """`claims.calls.Calls` over `WorkerService`. A store that is locked or full answers later."""

    def __init__(self, service: WorkerService) -> None:
        self._service = service

    def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        return _answer(self._service.claim_build, request)

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        return _answer(self._service.heartbeat, request)

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        return _answer(self._service.planned, request)

    def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        return _answer(self._service.append_log, request)

    def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        return _answer(self._service.finish, request)

    def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        return _answer(self._service.hand_back, request)

    def launching(self, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        return _answer(self._service.launching, request)

    def launched(self, request: pb.LaunchedRequest) -> pb.LaunchedResponse:
        return _answer(self._service.launched, request)

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        try:
            yield from self._service.source(OWNER, build_id, claim)
        except Exception as error:
            raise _as_call(error) from error

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        try:
            with archive.open("rb") as file:
                upload = self._service.archive(OWNER, build_id, claim, sha256, lives_s)
                with closing(upload):
                    while data := file.read(CHUNK):
                        upload.write(data)
                    return upload.finish()
        except Exception as error:
            raise _as_call(error) from error


def _answer(call: Callable[[Caller, Request], Answer], request: Request) -> Answer:
    try:
        return call(OWNER, request)
    except Exception as error:
        raise _as_call(error) from error


def _as_call(error: Exception) -> Exception:
    """What a call over a transport would have raised; our own faults stay what they are."""
    status = status_of(error)
    if status.outage:
        return Unanswered(str(error))
    return error if status.mark else Refused(f"{status.code}: {status.message}")
