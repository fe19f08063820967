"""A watcher's loops: adopt one build after the other, renew all leases in one call, sweep Jobs that are not current."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TypeVar

from builder.claims.calls import Backoff, Refused, Unanswered
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import PlatformError
from builder.logs import logger
from builder.mask import NOTHING, Mask, trace_of
from builder.watcher.build import Followed, Lost
from builder.watcher.calls import WatcherCalls
from builder.watcher.cluster import Cluster, SeenJob

log = logger("watcher")

T = TypeVar("T")
IDLE_S = 1.0
"""Between two questions for a build to adopt, when there was none."""
MOST = 1000
"""Builds in one call."""
GOODBYE_S = 5.0


class Watcher:
    """One watcher of the namespaces of `clusters`.

    `lease_s` and `beat_s` are its settings, until the control side names its own.
    """

    def __init__(
        self,
        name: str,
        calls: WatcherCalls,
        clusters: Sequence[Cluster],
        *,
        lease_s: float,
        beat_s: float,
        idle_s: float = IDLE_S,
        mask: Mask = NOTHING,
    ) -> None:
        self._name, self._calls, self._mask = name, calls, mask
        self._clusters = {one.namespace: one for one in clusters}
        self._lease_s, self._beat_s, self._idle_s = lease_s, beat_s, idle_s
        self._builds: dict[str, Followed] = {}
        self._following: set[asyncio.Task[None]] = set()
        self._sooner = asyncio.Event()

    @property
    def builds(self) -> frozenset[str]:
        """The builds that it follows."""
        return frozenset(self._builds)

    async def run(self, draining: asyncio.Event) -> None:
        """Until `draining` is set; then every build is handed back. Raises `Refused` for a watcher that is not
        wanted."""
        loops = [asyncio.create_task(loop) for loop in (self._adopt(), self._beat(), self._sweep())]
        stopping = asyncio.create_task(draining.wait())
        try:
            done, _ = await asyncio.wait({*loops, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            tasks = [*loops, stopping, *self._following]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hand_back(), GOODBYE_S)
        for task in done:
            task.result()

    async def _adopt(self) -> None:
        """One build after the other, each caught up before the next. An answer that was lost is asked for again.

        Without a current view of the cluster none is adopted: another watcher may have one.
        """
        backoff, nonce = Backoff(0.2, 5.0), uuid.uuid4().hex
        while True:
            for cluster in self._clusters.values():
                await cluster.ready()
            request = pb.AdoptJobRequest(protocol=PROTOCOL, watcher=self._name, nonce=nonce)
            try:
                grant = await self._calls.adopt(request)
            except Unanswered as error:
                log.warning("the API does not answer", action="adopt-unanswered", error=str(error))
                await asyncio.sleep(backoff.pause_s())
                continue
            backoff.reset()
            nonce = uuid.uuid4().hex
            if not grant.adopted:
                if grant.refused_because:
                    log.warning("adoption refused", action="adopt-refused", why=grant.refused_because)
                await asyncio.sleep(self._idle_s)
                continue
            self._lease_s = grant.lease_ms / 1000
            beat_s = min(grant.heartbeat_interval_ms / 1000, self._lease_s / 3)
            if beat_s < self._beat_s:  # by the interval before, the first lease might end without a heartbeat
                self._sooner.set()
            self._beat_s = beat_s
            build = self._builds[grant.build_id] = Followed(grant, self._calls, self._clusters, self._mask)
            log.info("adopted", action="adopted", build_id=grant.build_id, job=grant.job.name, attempt=grant.attempt)
            if await self._guarded(build, build.catch_up()):
                task = asyncio.create_task(self._follow(build))
                self._following.add(task)
                task.add_done_callback(self._following.discard)

    async def _follow(self, build: Followed) -> None:
        if await self._guarded(build, build.follow()):
            self._forget(build)
            log.info("finished", action="finished", build_id=build.build_id)

    async def _guarded(self, build: Followed, work: object) -> bool:
        """Whether the work ended well; else the build is no longer this watcher's. No failure ends the watcher."""
        try:
            await work  # type: ignore[misc]
            return True
        except Lost:
            self._forget(build)
            log.info("lost", action="claim-lost", build_id=build.build_id)
        except Exception as error:
            self._forget(build)
            mask = self._mask
            facts = {"error": mask.text(repr(error)), "exception": trace_of(error, mask)}
            log.error("a build failed here", action="follow-failed", build_id=build.build_id, **facts)
        return False

    def _forget(self, build: Followed) -> None:
        if self._builds.get(build.build_id) is build:
            del self._builds[build.build_id]

    async def _beat(self) -> None:
        """Renew the leases of all builds, a thousand in a call; learn of cancels and of claims that are lost."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sooner.wait(), self._beat_s)
                self._sooner.clear()
                continue
            for some in _some(list(self._builds.values())):
                beats = [
                    pb.JobBeat(
                        build_id=one.build_id,
                        claim=one.claim,
                        phase=pb.BuildPhase.Value("BUILD_PHASE_" + one.phase),
                    )
                    for one in some
                ]
                try:
                    answer = await self._calls.beat(
                        pb.BeatJobsRequest(protocol=PROTOCOL, watcher=self._name, beats=beats)
                    )
                except Unanswered as error:
                    log.warning("heartbeats unanswered", action="beat-unanswered", error=str(error))
                    continue
                for build, beaten in zip(some, answer.beats, strict=False):
                    if beaten.stale:
                        build.lose()
                    elif beaten.cancel:
                        build.cancel()

    async def _sweep(self) -> None:
        """Once a lease, delete the Jobs whose attempt is not current. What is younger than a lease may be a Job whose
        mark the control side has not committed; of what it does not answer nothing is deleted."""
        while True:
            await asyncio.sleep(self._lease_s)
            for cluster in self._clusters.values():
                await self._sweep_in(cluster)

    async def _sweep_in(self, cluster: Cluster) -> None:
        old = [job for job in cluster.seen() if job.age_s > self._lease_s]
        for some in _some(old):
            asked = [pb.JobAttempt(build_id=job.build_id, attempt=job.attempt) for job in some]
            try:
                answer = await self._calls.current(pb.CurrentJobsRequest(protocol=PROTOCOL, jobs=asked))
            except (Unanswered, Refused) as error:
                log.warning("no Job is swept", action="sweep-unanswered", error=str(error))
                continue
            current = {(one.build_id, one.attempt) for one in answer.jobs}
            for job in some:
                if (job.build_id, job.attempt) not in current:
                    await self._delete(cluster, job)

    async def _delete(self, cluster: Cluster, job: SeenJob) -> None:
        try:
            await cluster.delete(job.name, job.uid)
            log.info("a Job was swept", action="job-swept", job=job.name)
        except PlatformError as error:
            log.warning("a Job was not swept", action="job-left", job=job.name, error=str(error))

    async def _hand_back(self) -> None:
        for build in list(self._builds.values()):
            with suppress(Unanswered, Refused):
                await build.hand_back()
        self._builds.clear()


def _some(found: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(found), MOST):
        yield found[start : start + MOST]
