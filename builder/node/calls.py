"""The calls of an owner over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar, cast

from google.protobuf.message import Message

from builder.client.api import CHUNK_BYTES, Api
from builder.client.judged import judged
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.routes import ARCHIVE_PATH, SOURCE_PATH

Answer = TypeVar("Answer", bound=Message)


class ApiCalls:
    """`claims.calls.Calls` over a client of the API; one for each process, shared by its threads."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        return self._call("ClaimBuild", request, pb.ClaimBuildResponse)

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        return self._call("Heartbeat", request, pb.HeartbeatResponse)

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        return self._call("Planned", request, pb.PlannedResponse)

    def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        return self._call("AppendLog", request, pb.AppendLogResponse)

    def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        return self._call("Finish", request, pb.FinishResponse)

    def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        return self._call("HandBack", request, pb.HandBackResponse)

    def launching(self, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        return self._call("Launching", request, pb.LaunchingResponse)

    def launched(self, request: pb.LaunchedRequest) -> pb.LaunchedResponse:
        return self._call("Launched", request, pb.LaunchedResponse)

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        with judged():
            yield from self._api.download(f"{SOURCE_PATH.format(build_id=build_id)}?claim={claim}")

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        path = f"{ARCHIVE_PATH.format(build_id=build_id)}?claim={claim}&sha256={sha256}&livesS={lives_s}"
        with judged(), archive.open("rb") as file:
            pieces = iter(lambda: file.read(CHUNK_BYTES), b"")
            return cast(pb.StoredArchive, self._api.send(path, pieces, pb.StoredArchive))

    def _call(self, name: str, request: Message, answer: type[Answer]) -> Answer:
        with judged():
            return cast(Answer, self._api.call(name, request))
