"""The calls of `WorkerService` that only a watcher of Jobs makes."""

from __future__ import annotations

from collections.abc import Sequence

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.auth import Caller
from builder.services.checks import check_caller, check_count, check_few, check_name, check_nonce, is_of
from builder.services.errors import permission_denied
from builder.services.grants import adoption
from builder.services.parts import Parts
from builder.services.revocations import Revocations
from builder.store import jobs


class WatcherCalls:
    """Every write carries its claim, and the watcher that the caller's token names."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._revocations = Revocations(parts.store)

    def adopt_job(self, caller: Caller, request: pb.AdoptJobRequest) -> pb.AdoptJobResponse:
        """Ownership of the next build in stage JOB that nobody watches."""
        watcher = self._watcher(caller, request.protocol, request.watcher)
        check_nonce(request.nonce)
        settings = self._parts.settings
        got = jobs.adopt(self._parts.store, watcher, request.nonce, settings.lease_ms)
        if got.row is None:
            return pb.AdoptJobResponse(refused_because=got.refused)
        self._parts.changed(got.row["build_id"])
        return adoption(got.row, settings)

    def caught_up(self, caller: Caller, request: pb.CaughtUpRequest) -> pb.CaughtUpResponse:
        """The watcher has what the Job did before it was adopted."""
        self._admit(caller, request.protocol, scopes=("watch",))
        row = jobs.caught_up(self._parts.store, request.build_id, request.claim, caller.node, seen=request.seen)
        if row is None:
            self._parts.stale("caught_up")
        return pb.CaughtUpResponse(stale=row is None)

    def beat_jobs(self, caller: Caller, request: pb.BeatJobsRequest) -> pb.BeatJobsResponse:
        """Renew the leases of a watcher's builds; learn of cancels."""
        watcher = self._watcher(caller, request.protocol, request.watcher)
        check_count("beats", len(request.beats))
        check_few("buildId", [one.build_id for one in request.beats])
        beats = [
            (one.build_id, one.claim, pb.BuildPhase.Name(one.phase).removeprefix("BUILD_PHASE_") if one.phase else "")
            for one in request.beats
        ]
        lease_ms = self._parts.settings.lease_ms
        renewed = jobs.beat(self._parts.store, watcher, beats, lease_ms) if beats else {}
        answer = pb.BeatJobsResponse(lease_ms=lease_ms)
        for build_id, claim, _ in beats:
            cancel = renewed.get((build_id, claim))
            if cancel is None:
                self._parts.stale("beat_jobs")
            answer.beats.add(build_id=build_id, cancel=bool(cancel), stale=cancel is None)
        return answer

    def current_jobs(self, caller: Caller, request: pb.CurrentJobsRequest) -> pb.CurrentJobsResponse:
        """Which of these attempts are current."""
        self._admit(caller, request.protocol, scopes=("watch",))
        check_count("jobs", len(request.jobs))
        check_few("buildId", [one.build_id for one in request.jobs])
        asked = [(one.build_id, one.attempt) for one in request.jobs]
        current = jobs.current(self._parts.store, asked)
        found = [pb.JobAttempt(build_id=one[0], attempt=one[1]) for one in asked if one in current]
        return pb.CurrentJobsResponse(jobs=found)

    def _watcher(self, caller: Caller, protocol: int, named: str) -> str:
        """The name of the watcher that calls. Raises for a caller that is none, or another one."""
        self._admit(caller, protocol, scopes=("watch",))
        check_name("watcher", named)
        if not is_of(caller, named):
            raise permission_denied(f'this token is for the watcher "{caller.node}"')
        return named

    def _admit(self, caller: Caller, protocol: int, node_id: str = "", scopes: Sequence[str] = ("worker",)) -> None:
        """Raises for a caller that is no worker (watcher, owner), or no longer one."""
        check_caller(caller, protocol, scopes)
        self._revocations.check(caller, node_id)
