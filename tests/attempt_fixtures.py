"""Attempts for unit tests: real values, over an API in memory that keeps what a store would keep."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from builder.attempt.attempt import Attempt, Node
from builder.attempt.desk import Desk, answer
from builder.attempt.exchange import Budget
from builder.attempt.fetch import FetchedSource, open_source, reading_source
from builder.attempt.log import Log
from builder.attempt.reader import Reading
from builder.attempt.reading import Bounds
from builder.claims.calls import Calls, Refused, Unanswered
from builder.claims.lease import lease_of
from builder.claims.spool import Spool
from builder.claims.timelimit import TimeLimit
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.pipelines.base import PlanRequest
from builder.settings import Settings


class Clock:
    """Seconds; it moves when it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.seconds, self.step = 0.0, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


class Instant(threading.Condition):
    """A condition over a clock of the test: a wait ends at once, whatever it waits for."""

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        return predicate()


class ReadersHere:
    """Readers without a process: the same desk, the same JSON, no limit. tests/e2e/test_reader.py has the real ones."""

    def __init__(self, known: Any, catalog: Any) -> None:
        self._known, self._catalog = known, catalog

    @contextmanager
    def reading(self, work: Path, budget: Budget, check: object, who: object, source: int | None) -> Iterator[Reading]:
        desk = Desk(self._known, self._catalog, lambda path: None, source, work / "src", work / "fetch")

        def ask(message: bytes, bounds: Bounds) -> dict[str, Any]:
            said: dict[str, Any] = json.loads(answer(desk, json.loads(message)))
            return said

        yield Reading(ask, lambda: "", budget)


class MemoryCalls:
    """Keeps lines as the store does (`builder/store/logs.py`); before `forgets` answers of Finish it loses some."""

    def __init__(self, forgets: int = 0, keep: int = 0, refuses: tuple[str, ...] = ()) -> None:
        self.kept: dict[str, list[str]] = {}
        self.plans: list[pb.PlannedRequest] = []
        self.finished: list[pb.FinishRequest] = []
        self.handed_back: list[str] = []
        self.beats: list[pb.HeartbeatRequest] = []
        self.forgets, self.keep, self.refuses = forgets, keep, refuses

    def claim(self, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        return grant_of(request.build_id)

    def heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        self.beats.append(request)
        return pb.HeartbeatResponse(lease_ms=60_000)

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        if (kept := self._lacks(request)) is not None:
            return pb.PlannedResponse(log_incomplete=True, kept_until_index=kept)
        self._keep(request)
        self.plans.append(request)
        return pb.PlannedResponse(verdict=pb.PLANNED_GO_ON)

    def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        if request.build_id in self.refuses:
            raise Refused("not yours")
        return pb.AppendLogResponse(kept_until_index=self._keep(request))

    def _lacks(self, request: pb.PlannedRequest | pb.FinishRequest) -> int | None:
        """How many lines are kept, where the claim has more of them."""
        kept = len(self.kept.get(request.build_id, []))
        last = request.first_index + len(request.lines) if request.first_index <= kept else 0
        return kept if max(kept, last) < request.log_count else None

    def _keep(self, request: pb.AppendLogRequest | pb.PlannedRequest | pb.FinishRequest) -> int:
        kept = self.kept.setdefault(request.build_id, [])
        if request.first_index <= len(kept):
            kept += [line.line for line in request.lines][len(kept) - request.first_index :]
        return len(kept)

    def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        if self.forgets:
            self.forgets -= 1
            del self.kept[request.build_id][self.keep :]
        if (kept := self._lacks(request)) is not None:
            return pb.FinishResponse(log_incomplete=True, kept_until_index=kept)
        self._keep(request)
        self.finished.append(request)
        return pb.FinishResponse(status=pb.BUILD_STATUS_FAILED)

    def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        self.handed_back.append(request.build_id)
        return pb.HandBackResponse()

    def launching(self, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        raise Unanswered("this API has no Jobs")

    def launched(self, request: pb.LaunchedRequest) -> pb.LaunchedResponse:
        raise Unanswered("this API has no Jobs")

    def open_source(self, build_id: str, claim: int) -> Iterator[bytes]:
        raise Unanswered("this API keeps no sources")

    def store_archive(self, build_id: str, claim: int, archive: Path, sha256: str, lives_s: int) -> pb.StoredArchive:
        raise Unanswered("this API keeps no sources")


def grant_of(
    build_id: str = "b",
    *,
    timeout_ms: int = 60_000,
    lease_ms: int = 60_000,
    takes_last_lines: bool = False,
    takes_planned_lines: bool = False,
    takes_config: bool = False,
) -> pb.ClaimBuildResponse:
    return pb.ClaimBuildResponse(
        granted=True,
        build_id=build_id,
        claim=1,
        attempt=1,
        lease_ms=lease_ms,
        organization_name="o",
        limits=pb.Limits(timeout_ms=timeout_ms),
        takes_last_lines=takes_last_lines,
        takes_planned_lines=takes_planned_lines,
        takes_config=takes_config,
    )


def node_at(folder: Path, calls: Calls | None = None, **more: Any) -> Node:
    """A node whose folder is `folder`; `settings` are those beside the folder."""
    settings = Settings(**{"node_dir": str(folder), "node_id": "n", **more.pop("settings", {})})
    parts = {"catalog": SimpleNamespace(), "known": (), "toolchains": SimpleNamespace(), "uid": 0, **more}
    parts["readers"] = ReadersHere(cast(Any, parts["known"]), cast(Any, parts["catalog"]))
    return Node(
        settings=settings,
        calls=calls or MemoryCalls(),
        destination=cast(Any, parts.pop("destination", None)),
        **cast(Any, parts),
    )


def attempt_at(
    folder: Path,
    calls: Calls | None = None,
    clock: Callable[[], float] | None = None,
    timeout_ms: int = 60_000,
    request: PlanRequest = PlanRequest(runtime="go"),  # noqa: B008
    **more: Any,
) -> Attempt:
    """An attempt that nothing drives: its waits end at once, its lines stay in the spool."""
    now = clock or Clock()
    node = node_at(folder, calls, **more)
    grant = grant_of(timeout_ms=timeout_ms)
    work = folder / "work"
    work.mkdir()
    work.with_suffix(".private").mkdir()
    spool = Spool(folder / "spool/b.1.jsonl", 1 << 20, Instant())
    made = Attempt(
        node=node,
        grant=grant,
        request=request,
        lease=lease_of(grant, 30, now()),
        log=Log(spool=spool, now=now),
        time_limit=TimeLimit(limit_ms=timeout_ms, started_at=now()),
        work=work,
        now=now,
    )
    weakref.finalize(made, spool.close)
    return made


def fetched(attempt: Attempt) -> FetchedSource:
    """The attempt's source, in its working copy."""
    with reading_source(attempt) as reading:
        return open_source(attempt, reading)
