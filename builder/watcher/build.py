"""One build in stage JOB, from its adoption to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from builder.claims.calls import Backoff, Unanswered
from builder.claims.outcome import Artifact
from builder.claims.requests import artifact_record, failure_record, hand_back_request
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import BuildError, PlatformError
from builder.kube.ended import Ended, of_upload
from builder.kube.logs import Cursor, Line
from builder.logs import logger
from builder.mask import NOTHING, Lines, Mask, masked, trace_of
from builder.plan import Diagnosis
from builder.strategies import by_name
from builder.strategies.base import Reading
from builder.text import log_line
from builder.watcher.calls import WatcherCalls
from builder.watcher.cluster import Cluster

log = logger("watcher")

T = TypeVar("T")
LOOK_S = 5.0


class Lost(Exception):
    """The claim is another's, or nobody's."""


class Followed:
    """A build that this watcher adopted. `catch_up`, then `follow`; both raise `Lost`. `clusters` by namespace; `mask`
    hides what a Job may print of the operator's."""

    def __init__(
        self, grant: pb.AdoptJobResponse, calls: WatcherCalls, clusters: Mapping[str, Cluster], mask: Mask = NOTHING
    ) -> None:
        self.grant, self._calls, self._cluster = grant, calls, clusters.get(grant.job.namespace)
        self._mask = mask
        self._hidden: dict[str, Lines] = {}
        self.build_id, self.claim, self.job = grant.build_id, grant.claim, grant.job
        self.phase = "PUSH" if grant.phase == pb.BUILD_PHASE_PUSH else "BUILD"
        self._cursors = {name: cursor_of(record) for name, record in grant.cursors.items()}
        self._count = 0
        self._pushed_at = 0
        self._writing = asyncio.Lock()
        self._writes = set[asyncio.Future[None]]()
        self._changed = asyncio.Event()
        self._cancelled, self._lost = grant.cancel, False
        self._began = _now()
        strategy = by_name(grant.job.strategy)
        self._reading = strategy.read(grant.job.facts) if strategy else None
        uploads = self.phase == "PUSH" and self._reading is not None and self._reading.push_is_upload
        self._uploading_at = _now() if uploads else 0
        """When the tool began to give the image away, ms; whoever adopts a build in PUSH knows no earlier moment."""
        self._output_lines = strategy.OUTPUT_LINES if strategy else 0
        self._namespaces = sorted(clusters)

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
        if not self._cancelled and self._cluster and self._reading:
            emit = partial(self._emit, self._reading)
            await self._unless_stopped(self._cluster.so_far(self.job.name, dict(self._cursors), emit))
        seen = bool(self._cluster and self._cluster.began_ms(self.job.name))
        request = pb.CaughtUpRequest(protocol=PROTOCOL, build_id=self.build_id, claim=self.claim, seen=seen)
        if (await self._insist(lambda: self._calls.caught_up(request))).stale:
            raise Lost

    async def follow(self) -> None:
        """To the end of the build."""
        cluster, reading = self._cluster, self._reading
        if cluster is None or reading is None:
            await self._finish(failure=PlatformError("ClusterUnavailable", self._why_not()))
            return
        ended = await self._unless_stopped(self._attend(cluster, reading))
        if ended is None:
            await self._delete_insisting(cluster)
            await self._finish(failure=BuildError("Cancelled", "cancelled on request"))
            return
        if ended.succeeded and (digest := reading.digest(ended.said)):
            summary = f"{self.grant.destination.repository}@{digest}"
            await self._say(f"pushed {summary}")
            await self._finish(artifact=Artifact(digest=digest, summary=summary, materials=reading.materials))
        elif ended.succeeded:
            await self._finish(failure=PlatformError("Internal", "the Job ended well and reported no digest"))
        else:
            await self._finish(failure=await self._explained(cluster, reading, ended))
        await self._delete(cluster)

    def _why_not(self) -> str:
        """Why this watcher cannot follow the Job."""
        if self._cluster is None:
            return (
                f"its Job is in the namespace {self.job.namespace}, and watchers follow {', '.join(self._namespaces)}"
            )
        return f'its Job is of the strategy "{log_line(self.job.strategy)}", which this watcher does not know'

    async def hand_back(self) -> None:
        """This watcher stops: the next one adopts the build, and the Job goes on."""
        request = hand_back_request(self.build_id, self.claim, "drain")
        await self._calls.hand_back(request)

    async def _attend(self, cluster: Cluster, reading: Reading) -> Ended:
        """The Job to its end; what it waits for becomes lines of the log."""
        words: asyncio.Queue[str] = asyncio.Queue()
        saying = asyncio.create_task(self._say_all(words))
        overdue = asyncio.create_task(self._overdue(cluster))
        emit = partial(self._emit, reading)
        attending = asyncio.ensure_future(cluster.attend(self.job.name, dict(self._cursors), emit, words.put_nowait))
        try:
            await asyncio.wait({attending, overdue}, return_when=asyncio.FIRST_COMPLETED)
            return attending.result() if attending.done() else overdue.result()
        finally:
            for task in (tasks := (saying, overdue, attending)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _overdue(self, cluster: Cluster) -> Ended:
        """The end of a Job whose time is over while the cluster is away: whoever waits longer finds the build ended as
        one that took too long, which nobody knows."""
        late_ms = self.job.deadline_at_ms + self.grant.lease_ms // 2
        while True:
            await asyncio.sleep(max(LOOK_S, (late_ms - _now()) / 1000))
            if not cluster.has_view():
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

    async def _emit(self, reading: Reading, container: str, lines: Sequence[Line], cursor: Cursor) -> None:
        """Store lines of a container, and the cursor behind them."""
        for line in lines:
            if self.phase == "BUILD" and reading.pushes(container, line.text):
                self.phase, self._pushed_at = "PUSH", line.at_ms
            if reading.uploads(container, line.text):
                self._uploading_at = line.at_ms
        hidden = self._hidden.setdefault(container, self._mask.lines())
        texts = [text for line in lines for text in hidden.feed(log_line(reading.shown(line.text)))]
        texts += hidden.flush()  # none waits: the cursor stands behind all of them
        entries = [
            pb.LogEntry(timestamp_ms=line.at_ms, stream=pb.LOG_STREAM_STDOUT, line=text)
            for line, text in zip(lines, texts, strict=True)
        ]
        await self._append(entries, {container: cursor_record(cursor, takes_newest=self.grant.takes_newest)})
        self._cursors[container] = cursor

    async def _say(self, text: str) -> None:
        text = self._mask.text(log_line(text))
        entry = pb.LogEntry(timestamp_ms=_now(), stream=pb.LOG_STREAM_SYSTEM, line=text)
        await self._append([entry], {})

    async def _append(self, entries: Sequence[pb.LogEntry], cursors: Mapping[str, pb.LogCursor]) -> None:
        """Store lines, those of a caller that is cancelled meanwhile, too: the next ones stand behind them."""
        write = asyncio.ensure_future(self._write(entries, cursors))
        self._writes.add(write)
        write.add_done_callback(self._writes.discard)
        await asyncio.shield(write)

    async def _write(self, entries: Sequence[pb.LogEntry], cursors: Mapping[str, pb.LogCursor]) -> None:
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

    async def _explained(self, cluster: Cluster, reading: Reading, ended: Ended) -> BuildError:
        """The failure that a Job's end is."""
        if ended.reason == "JobVanished" and not self.grant.seen:
            return PlatformError("JobVanished", "the build's Job was never created: its worker was lost before")
        if self._uploading_at:
            until = min(_now(), self.job.deadline_at_ms or _now())
            ended = of_upload(ended, until - self._uploading_at, self.grant.destination.registry)
        lines = {
            container: await cluster.explaining(self.job.name, container, reading.is_own, self._output_lines)
            for container in reading.explaining(ended)
        }
        try:
            found = reading.diagnose(ended, lines)
        except Exception as error:  # words of a build, however odd, keep no build from its end
            found = Diagnosis(reason=ended.reason, message=ended.message)
            facts = {"error": self._mask.text(repr(error)), "exception": trace_of(error, self._mask)}
            log.error("an end is not explained", action="end-unexplained", build_id=self.build_id, **facts)
        shown = replace(
            found,
            message=log_line(found.message),
            where=log_line(found.where),
            said=tuple(log_line(line) for line in found.said),
            next=log_line(found.next),
        )
        is_limit = found.reason == ended.reason
        limit, peak = (ended.limit, ended.peak) if is_limit else (0, 0)
        return shown.failure(exit_code=ended.exit_code, limit=limit, peak=peak)

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
            request.failure.CopyFrom(failure_record(masked(failure, self._mask), self.phase))
        answer = await self._insist(lambda: self._calls.finish(request))
        if answer.stale or answer.log_incomplete:
            raise Lost
        if answer.refused_because:
            log.error("refused", action="finish-refused", build_id=self.build_id, why=answer.refused_because)

    def _phases(self, *, succeeded: bool) -> list[pb.PhaseRecord]:
        """BUILD from the Job's creation, PUSH from the line on that shows it."""
        created = self._cluster.began_ms(self.job.name) if self._cluster else 0
        began, now = created or self._began, _now()
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

    async def _delete(self, cluster: Cluster) -> None:
        """Delete the ended Job; what is left is swept."""
        try:
            await cluster.delete(self.job.name)
        except PlatformError as error:
            log.warning("a Job was not deleted", action="job-left", job=self.job.name, error=str(error))

    async def _delete_insisting(self, cluster: Cluster) -> None:
        """Delete the Job of a cancelled build: it is CANCELLED once nothing of it runs. Whoever waits for that reads
        why it takes longer."""
        backoff, said = Backoff(0.2, 5.0), False
        while not self._lost:
            try:
                await cluster.delete(self.job.name)
                return
            except PlatformError as error:
                log.warning("a Job was not deleted yet", action="job-left", job=self.job.name, error=str(error))
            if not said:
                await self._say("the Job cannot be deleted while the cluster does not answer; it is tried again")
                said = True
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


def cursor_record(cursor: Cursor, *, takes_newest: bool) -> pb.LogCursor:
    """A cursor as AppendLog carries it, to a control side that takes the time of the newest line or not."""
    newest = cursor.newest if takes_newest else 0
    return pb.LogCursor(since=cursor.since, lines=cursor.lines, newest_ns=newest)


def cursor_of(record: pb.LogCursor) -> Cursor:
    """The same as the next watcher gets it."""
    return Cursor(since=record.since, lines=record.lines, newest=record.newest_ns)


def _now() -> int:
    return time.time_ns() // 1_000_000
