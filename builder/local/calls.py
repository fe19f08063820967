"""The calls of an owner in the process of the control side: the services answer them directly."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from builder.claims.calls import Refused, Unanswered
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.auth import Caller
from builder.services.errors import is_of_files, status_of
from builder.services.workers import WorkerService

Request = TypeVar("Request")
Answer = TypeVar("Answer")
CHUNK = 1024 * 1024
PATIENCE_S = 3.0
"""How long a disk that is full may take to have room again: there is nobody else to free it whom a build could wait
for, and who waits for the build sees nothing of it."""
OWNER = Caller(organization="", scopes=frozenset({"worker"}))


class ServiceCalls:
    """`claims.calls.Calls` over `WorkerService`. A store that is locked answers later, as one does whose disk is full,
    for `PATIENCE_S`: then each call raises what the store raised, and `gone` has it."""

    def __init__(self, service: WorkerService, now: Callable[[], float] = time.monotonic) -> None:
        self._service, self._now = service, now
        self._since: dict[str, float] = {}
        self.gone: Exception | None = None
        """Why nobody here has an answer to wait for."""

    def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        return self._answer(self._service.claim_build, request)

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        return self._answer(self._service.heartbeat, request)

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        return self._answer(self._service.planned, request)

    def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        return self._answer(self._service.append_log, request)

    def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        return self._answer(self._service.finish, request)

    def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        return self._answer(self._service.hand_back, request)

    def launching(self, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        return self._answer(self._service.launching, request)

    def launched(self, request: pb.LaunchedRequest) -> pb.LaunchedResponse:
        return self._answer(self._service.launched, request)

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        try:
            yield from self._service.source(OWNER, build_id, claim)
        except Exception as error:
            raise self._as_call(error) from error

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        try:
            with archive.open("rb") as file:
                upload = self._service.archive(OWNER, build_id, claim, sha256, lives_s)
                with closing(upload):
                    while data := file.read(CHUNK):
                        upload.write(data)
                    return upload.finish()
        except Exception as error:
            raise self._as_call(error) from error

    def _answer(self, call: Callable[[Caller, Request], Answer], request: Request) -> Answer:
        try:
            answer = call(OWNER, request)
        except Exception as error:
            raise self._as_call(error, call.__name__) from error
        self._since.pop(call.__name__, None)  # on a disk that is nearly full some calls still fit
        return answer

    def _as_call(self, error: Exception, name: str = "") -> Exception:
        """What a call over a transport would have raised; our own faults stay what they are."""
        status = status_of(error)
        if not status.outage:
            return error if status.mark else Refused(f"{status.code}: {status.message}")
        if is_of_files(error):
            now = self._now()
            if now - self._since.setdefault(name, now) >= PATIENCE_S:
                self.gone = error
                return error
        return Unanswered(str(error))
