"""One build in stage JOB, from its adoption to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from builder.claims.calls import Backoff, Unanswered
from builder.claims.outcome import Artifact
from builder.claims.requests import artifact_record, failure_record, hand_back_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import BuildError, PlatformError
from builder.images.destination import DIGEST
from builder.kaniko.ended import EXPLAINED, diagnose, own_message, shown
from builder.kaniko.manifest import CONTAINER
from builder.kaniko.plan import Facts, read_facts
from builder.kube.ended import Ended
from builder.kube.logs import Cursor, Line
from builder.logs import logger
from builder.plan import Diagnosis
from builder.text import log_line
from builder.watcher.calls import WatcherCalls
from builder.watcher.cluster import Cluster

log = logger("watcher")

T = TypeVar("T")
PUSHES = "Pushing image to"
"""How the executor's own line begins when the image is made."""
LOOK_S = 5.0
NO_FACTS = Facts(dockerfile="Dockerfile", instructions=(), materials=())


class Lost(Exception):
    """The claim is another's, or nobody's."""


class Followed:
    """A build that this watcher adopted. `catch_up`, then `follow`; both raise `Lost`."""

    def __init__(self, grant: pb.AdoptJobResponse, calls: WatcherCalls, cluster: Cluster) -> None:
        self.grant, self._calls, self._cluster = grant, calls, cluster
        self.build_id, self.claim, self.job = grant.build_id, grant.claim, grant.job
        self.phase = "PUSH" if grant.phase == pb.BUILD_PHASE_PUSH else "BUILD"
        self._cursors = {name: Cursor(since=cursor.since, lines=cursor.lines) for name, cursor in grant.cursors.items()}
        self._count = 0
        self._pushed_at = 0
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._cancelled, self._lost = grant.cancel, False
        self._began = _now()
        try:
            self._facts = read_facts(grant.job.facts)
        except ValueError:  # they are a node's word
            self._facts = NO_FACTS

    def cancel(self) -> None:
        """Cancel was requested."""
        self._cancelled = True
        self._changed.set()

    def lose(self) -> None:
        """The claim is no longer this watcher's."""
        self._lost = True
        self._changed.set()

    async def catch_up(self) -> None:
        """Store what the Job did before it was adopted, and tell so."""
        if not self._cancelled and self.job.namespace == self._cluster.namespace:
            await self._unless_stopped(self._cluster.so_far(self.job.name, dict(self._cursors), self._emit))
        seen = bool(self._cluster.began_ms(self.job.name))
        request = pb.CaughtUpRequest(protocol=PROTOCOL, build_id=self.build_id, claim=self.claim, seen=seen)
        if (await self._insist(lambda: self._calls.caught_up(request))).stale:
            raise Lost

    async def follow(self) -> None:
        """To the end of the build."""
        if self.job.namespace != self._cluster.namespace:
            message = f"its Job is in the namespace {self.job.namespace}, and watchers follow {self._cluster.namespace}"
            await self._finish(failure=PlatformError("ClusterUnavailable", message))
            return
        ended = await self._unless_stopped(self._attend())
        if ended is None:
            await self._delete_insisting()
            await self._finish(failure=BuildError("Cancelled", "cancelled on request"))
            return
        if ended.succeeded and DIGEST.fullmatch(ended.said):
            summary = f"{self.grant.destination.repository}@{ended.said}"
            await self._say(f"pushed {summary}")
            await self._finish(artifact=Artifact(digest=ended.said, summary=summary, materials=self._facts.materials))
        elif ended.succeeded:
            await self._finish(failure=PlatformError("Internal", "the Job ended well and reported no digest"))
        else:
            await self._finish(failure=await self._explained(ended))
        await self._delete()

    async def hand_back(self) -> None:
        """This watcher stops: the next one adopts the build, and the Job goes on."""
        request = hand_back_request(self.build_id, self.claim, "drain")
        await self._calls.hand_back(request)

    async def _attend(self) -> Ended:
        """The Job to its end; what it waits for becomes lines of the log."""
        words: asyncio.Queue[str] = asyncio.Queue()
        saying = asyncio.create_task(self._say_all(words))
        overdue = asyncio.create_task(self._overdue())
        attending = asyncio.ensure_future(
            self._cluster.attend(self.job.name, dict(self._cursors), self._emit, words.put_nowait)
        )
        try:
            await asyncio.wait({attending, overdue}, return_when=asyncio.FIRST_COMPLETED)
            return attending.result() if attending.done() else overdue.result()
        finally:
            for task in (tasks := (saying, overdue, attending)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _overdue(self) -> Ended:
        """The end of a Job whose time is over while the cluster is away: whoever waits longer finds the build ended as
        one that took too long, which nobody knows."""
        late_ms = self.job.deadline_at_ms + self.grant.lease_ms // 2
        while True:
            await asyncio.sleep(max(LOOK_S, (late_ms - _now()) / 1000))
            if not self._cluster.has_view():
                message = "the cluster is away since before the build's time was over: how its Job ended is not known"
                return Ended(reason="ClusterUnavailable", message=message)

    async def _say_all(self, words: asyncio.Queue[str]) -> None:
        while True:
            await self._say(await words.get())

    async def _unless_stopped(self, work: Awaitable[T]) -> T | None:
        """The result; None when cancel was requested. Raises `Lost`."""
        task = asyncio.ensure_future(work)
        try:
            while not task.done() and not self._lost and not self._cancelled:
                self._changed.clear()
                waiting = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            if self._lost:
                raise Lost
            return task.result() if task.done() else None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _emit(self, container: str, lines: Sequence[Line], cursor: Cursor) -> None:
        """Store lines of a container, and the cursor behind them."""
        if container == CONTAINER:
            for line in lines:
                if self.phase == "BUILD" and (own_message(line.text) or "").startswith(PUSHES):
                    self.phase, self._pushed_at = "PUSH", line.at_ms
        entries = [
            pb.LogEntry(timestamp_ms=line.at_ms, stream=pb.LOG_STREAM_STDOUT, line=log_line(shown(line.text)))
            for line in lines
        ]
        await self._append(entries, {container: pb.LogCursor(since=cursor.since, lines=cursor.lines)})
        self._cursors[container] = cursor

    async def _say(self, text: str) -> None:
        entry = pb.LogEntry(timestamp_ms=_now(), stream=pb.LOG_STREAM_SYSTEM, line=log_line(text))
        await self._append([entry], {})

    async def _append(self, entries: Sequence[pb.LogEntry], cursors: Mapping[str, pb.LogCursor]) -> None:
        phase = pb.BuildPhase.Value("BUILD_PHASE_" + self.phase)
        for entry in entries:
            entry.phase = phase
        async with self._writing:
            request = pb.AppendLogRequest(
                protocol=PROTOCOL,
                build_id=self.build_id,
                claim=self.claim,
                first_index=self._count,
                lines=entries,
                cursors=cursors,
            )
            answer = await self._insist(lambda: self._calls.append_log(request))
            if answer.stale or answer.kept_until_index < self._count + len(entries):
                # The second is a store that went back in time: whoever adopts next reads on at its cursors.
                self.lose()
                raise Lost
            self._count += len(entries)

    async def _explained(self, ended: Ended) -> BuildError:
        """The failure that a Job's end is."""
        if ended.reason == "JobVanished" and not self.grant.seen:
            return PlatformError("JobVanished", "the build's Job was never created: its worker was lost before")
        container = ended.container or CONTAINER
        has_words = container == CONTAINER and ended.reason in EXPLAINED
        lines = await self._cluster.explaining(self.job.name, container) if has_words else []
        try:
            found = diagnose(ended, lines, self._facts.instructions, self._facts.dockerfile)
        except Exception as error:  # words of a build, however odd, keep no build from its end
            log.error("an end is not explained", action="end-unexplained", build_id=self.build_id, error=repr(error),
                      exc_info=True)  # fmt: skip
            found = Diagnosis(reason=ended.reason, message=ended.message)
        return BuildError(
            found.reason,
            log_line(found.message),
            where=log_line(found.where),
            said=tuple(log_line(line) for line in found.said),
            next=log_line(found.next),
            exit_code=ended.exit_code,
            limit=ended.limit,
            peak=ended.peak,
        )

    async def _finish(self, *, artifact: Artifact | None = None, failure: BuildError | None = None) -> None:
        request = pb.FinishRequest(
            protocol=PROTOCOL,
            build_id=self.build_id,
            claim=self.claim,
            log_count=self._count,
            phases=self._phases(succeeded=artifact is not None),
        )
        if artifact is not None:
            request.success.CopyFrom(artifact_record(artifact))
        elif failure is not None:
            request.failure.CopyFrom(failure_record(failure, self.phase))
        answer = await self._insist(lambda: self._calls.finish(request))
        if answer.stale or answer.log_incomplete:
            raise Lost
        if answer.refused_because:
            log.error("refused", action="finish-refused", build_id=self.build_id, why=answer.refused_because)

    def _phases(self, *, succeeded: bool) -> list[pb.PhaseRecord]:
        """BUILD from the Job's creation, PUSH from the executor's own line on."""
        began, now = self._cluster.began_ms(self.job.name) or self._began, _now()
        moments = [("BUILD", began, self._pushed_at or now)]
        if self.phase == "PUSH":
            moments.append(("PUSH", self._pushed_at or now, now))
        last = pb.PHASE_STATUS_SUCCEEDED if succeeded else pb.PHASE_STATUS_FAILED
        return [
            pb.PhaseRecord(
                phase=pb.BuildPhase.Value("BUILD_PHASE_" + name),
                status=last if name == moments[-1][0] else pb.PHASE_STATUS_SUCCEEDED,
                started_at_ms=start,
                ended_at_ms=max(start, end),
                duration_ms=max(0, end - start),
            )
            for name, start, end in moments
        ]

    async def _delete(self) -> None:
        """Delete the ended Job; what is left is swept."""
        try:
            await self._cluster.delete(self.job.name)
        except PlatformError as error:
            log.warning("a Job was not deleted", action="job-left", job=self.job.name, error=str(error))

    async def _delete_insisting(self) -> None:
        """Delete the Job of a cancelled build: it is CANCELLED once nothing of it runs."""
        backoff = Backoff(0.2, 5.0)
        while not self._lost:
            try:
                await self._cluster.delete(self.job.name)
                return
            except PlatformError as error:
                log.warning("a Job was not deleted yet", action="job-left", job=self.job.name, error=str(error))
            await asyncio.sleep(backoff.pause_s())
        raise Lost

    async def _insist(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until it is answered. Raises `Lost`, `Refused`."""
        backoff = Backoff(0.1, 3.0)
        while not self._lost:
            try:
                return await call()
            except Unanswered:
                await asyncio.sleep(backoff.pause_s())
        raise Lost


def _now() -> int:
    return time.time_ns() // 1_000_000
