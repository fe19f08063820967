"""The calls of an owner, whatever carries them: HTTP on a node, the service objects themselves in one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb


class Unanswered(Exception):
    """No answer, or one that asks to come later. The same call may be repeated."""


class Refused(Exception):
    """A final refusal. The same call gets it again."""


class Calls(Protocol):
    """Every call may be repeated with the same request. Each raises `Unanswered` or `Refused`."""

    def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse: ...

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse: ...

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse: ...

    def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse: ...

    def finish(self, request: pb.FinishRequest) -> pb.FinishResponse: ...

    def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse: ...

    def launching(self, request: pb.LaunchingRequest) -> pb.LaunchingResponse: ...

    def launched(self, request: pb.LaunchedRequest) -> pb.LaunchedResponse: ...

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        """The stored bytes of the source in pieces."""
        ...

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        """Store the canonical archive, a file; the answer has a URL of it that lives so long."""
        ...


class Backoff:
    """Growing pauses between two tries of one call, in seconds."""

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._next_s = first_s

    def pause_s(self) -> float:
        """The next pause; each is twice the one before, up to the longest."""
        pause, self._next_s = self._next_s, min(self._next_s * 2, self._most_s)
        return pause

    def reset(self) -> None:
        """An answer came: the next pause is the first again."""
        self._next_s = self._first_s
