"""A control side and a cluster in memory, as far as a watcher calls them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from builder.claims.calls import Unanswered
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import PlatformError
from builder.kaniko.ended import Instruction
from builder.kaniko.plan import DockerfilePlan, write_facts
from builder.kube.attend import Emit
from builder.kube.ended import Ended
from builder.kube.job import job_name
from builder.kube.logs import Cursor, Line
from builder.watcher.cluster import SeenJob

NAMESPACE = "ignite-kaniko"
DIGEST = "sha256:" + "d" * 64
PLAN = DockerfilePlan(
    because="Dockerfile at the root",
    dockerfile="Dockerfile",
    sub_path="",
    bases=("registry.example/debian@sha256:" + "b" * 64,),
    pinned=True,
    warnings=(),
    instructions=(
        Instruction(stage=0, line=1, text="FROM debian"),
        Instruction(stage=0, line=3, text="RUN false"),
    ),
)
FACTS = write_facts(PLAN, (("context", "sha256:" + "c" * 64),))


@dataclass
class Record:
    """A build in stage JOB, as the store has it."""

    build_id: str
    claim: int = 1
    watcher: str = ""
    caught_up: bool = False
    cancel: bool = False
    seen: bool = True
    namespace: str = NAMESPACE
    strategy: str = "kaniko"
    facts: str = FACTS
    pushing: bool = False
    """It was in phase PUSH when its last owner was lost."""
    lines: list[str] = field(default_factory=list)
    of_claim: int = 0
    cursors: dict[str, pb.LogCursor] = field(default_factory=dict)
    finished: pb.FinishRequest | None = None

    @property
    def job(self) -> str:
        return job_name(self.build_id, 1)


class Board:
    """The control side. `away` answers nothing; `expire` ends a watcher's leases."""

    def __init__(self, *builds: Record) -> None:
        self.builds = {one.build_id: one for one in builds}
        self.adopted: list[str] = []
        self.away = False
        self.takes_newest = True
        """False of a control side of an earlier version."""

        self.loses_answers = 0
        """How many answers to an adoption are lost after they were given."""

        self._answered: dict[str, pb.AdoptJobResponse] = {}
        self.changed = asyncio.Event()

    def expire(self, watcher: str) -> None:
        for one in self.builds.values():
            if one.watcher == watcher and one.finished is None:
                one.watcher, one.caught_up, one.claim = "", False, one.claim + 1

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what only calls change."""
        async with asyncio.timeout(60):
            while not condition():
                self.changed.clear()
                await self.changed.wait()

    def _hear(self) -> None:
        self.changed.set()
        if self.away:
            raise Unanswered("away")

    async def adopt(self, request: pb.AdoptJobRequest) -> pb.AdoptJobResponse:
        self._hear()
        if request.nonce in self._answered:
            return self._answered[request.nonce]
        mine = [one for one in self.builds.values() if one.watcher == request.watcher and one.finished is None]
        free = [one for one in self.builds.values() if not one.watcher and one.finished is None]
        if not free or not all(one.caught_up for one in mine):
            return pb.AdoptJobResponse()
        one = free[0]
        one.watcher, one.claim, one.of_claim, one.caught_up = request.watcher, one.claim + 1, 0, False
        self.adopted.append(one.build_id)
        answer = pb.AdoptJobResponse(
            adopted=True,
            build_id=one.build_id,
            claim=one.claim,
            attempt=1,
            lease_ms=60,
            heartbeat_interval_ms=20,
            seen=one.seen,
            cancel=one.cancel,
            job=pb.Job(strategy=one.strategy, name=one.job, namespace=one.namespace, facts=one.facts),
            destination=pb.Destination(registry="registry.example:5000"),
            phase=pb.BUILD_PHASE_PUSH if one.pushing else pb.BUILD_PHASE_BUILD,
            takes_newest=self.takes_newest,
        )
        for name, cursor in one.cursors.items():
            answer.cursors[name].CopyFrom(cursor)
        self._answered[request.nonce] = answer
        if self.loses_answers:
            self.loses_answers -= 1
            raise Unanswered("the answer was lost")
        return answer

    def _owned(self, build_id: str, claim: int) -> Record | None:
        one = self.builds[build_id]
        return one if one.claim == claim and one.watcher and one.finished is None else None

    async def caught_up(self, request: pb.CaughtUpRequest) -> pb.CaughtUpResponse:
        self._hear()
        one = self._owned(request.build_id, request.claim)
        if one:
            one.caught_up, one.seen = True, one.seen or request.seen
        return pb.CaughtUpResponse(stale=one is None)

    async def beat(self, request: pb.BeatJobsRequest) -> pb.BeatJobsResponse:
        self._hear()
        answer = pb.BeatJobsResponse()
        for beat in request.beats:
            one = self._owned(beat.build_id, beat.claim)
            answer.beats.add(build_id=beat.build_id, stale=one is None, cancel=bool(one and one.cancel))
        return answer

    async def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        self._hear()
        one = self._owned(request.build_id, request.claim)
        if one is None:
            return pb.AppendLogResponse(stale=True)
        fresh = request.lines[max(0, one.of_claim - request.first_index) :]
        if request.first_index <= one.of_claim:
            one.lines += [line.line for line in fresh]
            one.of_claim += len(fresh)
            one.cursors |= dict(request.cursors)
        return pb.AppendLogResponse(kept_until_index=one.of_claim)

    async def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        self._hear()
        one = self._owned(request.build_id, request.claim)
        if one is None:
            return pb.FinishResponse(stale=True)
        if request.log_count != one.of_claim:
            return pb.FinishResponse(log_incomplete=True, kept_until_index=one.of_claim)
        one.finished = request
        return pb.FinishResponse(status=pb.BUILD_STATUS_RUNNING)

    async def hand_back(self, request: pb.HandBackRequest) -> pb.HandBackResponse:
        self._hear()
        one = self._owned(request.build_id, request.claim)
        if one:
            one.watcher, one.caught_up, one.claim = "", False, one.claim + 1
        return pb.HandBackResponse(stale=one is None)

    async def current(self, request: pb.CurrentJobsRequest) -> pb.CurrentJobsResponse:
        self._hear()
        known = {build_id for build_id, one in self.builds.items() if one.finished is None}
        return pb.CurrentJobsResponse(jobs=[one for one in request.jobs if one.build_id in known and one.attempt == 1])


class OneJob:
    """A Job of the cluster in memory: the lines of its main container, and its end. `before`: lines of init containers,
    which have ended."""

    def __init__(self, *lines: str, container: str = "kaniko", **before: Sequence[str]) -> None:
        self.container, self.before = container, before
        self.lines = list(lines)
        self.ended: Ended | None = None
        self.changed = asyncio.Event()

    def write(self, *lines: str) -> None:
        self.lines += lines
        self.changed.set()

    def end(self, ended: Ended) -> None:
        self.ended = ended
        self.changed.set()


@dataclass
class MemoryCluster:
    """A cluster. A cursor's `lines` is how many lines were read."""

    jobs: dict[str, OneJob] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    refusals: int = 0
    """How many deletions from now on are not answered."""

    strays: list[SeenJob] = field(default_factory=list)
    namespace: str = NAMESPACE
    reads_on: asyncio.Event | None = None
    """Set: what is there already may be read."""

    is_current: asyncio.Event | None = None
    """Set: the view of the cluster is current."""

    async def ready(self) -> None:
        if self.is_current:
            await self.is_current.wait()

    def has_view(self) -> bool:
        return self.is_current is None or self.is_current.is_set()

    async def so_far(self, job: str, cursors: Mapping[str, Cursor], emit: Emit) -> None:
        if self.reads_on:
            await self.reads_on.wait()
        if job in self.jobs:
            await self._emit(job, self._read(job, cursors), emit)

    def _read(self, job: str, cursors: Mapping[str, Cursor]) -> int:
        return cursors.get(self.jobs[job].container, Cursor()).lines if job in self.jobs else 0

    async def _emit(self, job: str, start: int, emit: Emit) -> int:
        lines = self.jobs[job].lines
        if len(lines) > start:
            fresh = [Line(at_ms=1000 + number, text=text) for number, text in enumerate(lines[start:], start)]
            end = start + len(fresh)
            await emit(self.jobs[job].container, fresh, Cursor(since=1, lines=end, newest=10**9 + end))
            return end
        return start

    async def attend(self, job: str, cursors: Mapping[str, Cursor], emit: Emit, waits: Callable[[str], None]) -> Ended:
        read = self._read(job, cursors)
        while job in self.jobs:
            one = self.jobs[job]
            one.changed.clear()
            ended = one.ended
            read = await self._emit(job, read, emit)
            if ended:
                return ended
            await one.changed.wait()
        return Ended(reason="JobVanished", message="the build's Job is not in the cluster any more")

    async def explaining(self, job: str, container: str, is_own: Callable[[str], bool], output_lines: int) -> list[str]:
        if (one := self.jobs.get(job)) is None:
            return []
        return list(one.lines) if container == one.container else list(one.before.get(container, ()))

    async def delete(self, job: str, uid: str = "") -> None:
        if self.refusals:
            self.refusals -= 1
            raise PlatformError("ClusterUnavailable", "the Kubernetes API does not answer: refused")
        self.deleted.append(f"{job} {uid}".strip())
        if (one := self.jobs.pop(job, None)) is not None:
            one.changed.set()

    def began_ms(self, job: str) -> int:
        return 1000 if job in self.jobs else 0

    def seen(self) -> Iterator[SeenJob]:
        return iter(self.strays)
