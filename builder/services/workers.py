"""`WorkerService`: what build nodes and watchers of Jobs call. Every write carries its claim; the store decides.

Methods are named as their RPCs in snake case and take (caller, request). An RPC without a method is UNIMPLEMENTED.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Iterator
from typing import BinaryIO

from google.protobuf import json_format

from builder.attest.artifact import ArtifactRefused, reported
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS, BuildError
from builder.services.archives import Archives, ArchiveUpload, check_size
from builder.services.auth import OWNERS, Caller, require, stages_of
from builder.services.checks import (
    TEXT_CHARACTERS,
    check_few,
    check_job,
    check_lines,
    check_name,
    check_node,
    check_nonce,
    check_phases,
    check_plan,
    checked_cursors,
    checked_provenance,
    clean,
    hide,
    is_of,
    moment,
    need,
)
from builder.services.errors import CallRefused, not_found
from builder.services.grants import grant
from builder.services.masks import Masks, hidden, secrets_of
from builder.services.parts import Parts
from builder.services.rebases import rebased
from builder.services.revocations import forgotten
from builder.services.watchers import WatcherCalls
from builder.store import builds, jobs, logs, membership, nodes
from builder.store.transitions import JOB, RUNNING, WORK
from builder.text import log_line, visible

LACKS = 200
MOST_SLOTS = 4096
"""Slots of a node. The window of hints is about twice the free slots; one that offers more would take everybody's."""
LINE_CHARACTERS = 128 * 1024
"""Characters of a log line. A node splits lines at 16 KiB; what it then escapes becomes a few times as long."""
MOST_WARNINGS = 100
WITH_CLAIM_BYTES = 64 * 1024
"""Sources up to this size travel in the answer to the claim, which saves their node a call. So small that a hundred
answers at once, each in base64 beside its bytes, are no load; it is far above what a handler or a small service has."""


class WorkerService(WatcherCalls):
    """What build nodes and watchers call. Every write carries its claim, and the node or watcher that the caller's
    token names; the store has both in the condition of its statement."""

    def __init__(
        self, parts: Parts, now: Callable[[], float] = time.monotonic, *, with_claim_bytes: int = WITH_CLAIM_BYTES
    ) -> None:
        """`with_claim_bytes`: up to which size a source travels with its claim; 0 where owners have it at hand."""
        super().__init__(parts)
        self._with_claim_bytes = with_claim_bytes
        self.archives = Archives(parts.sources)
        self.masks = Masks(parts, now)

    def register_node(self, caller: Caller, request: pb.RegisterNodeRequest) -> pb.RegisterNodeResponse:
        """Note what a node can build and that it lives."""
        self._admit(caller, request.protocol, request.node_id)
        check_name("nodeId", request.node_id)
        if request.slots > MOST_SLOTS:
            raise BuildError("InvalidRequest", f"slots takes up to {MOST_SLOTS}", where="slots")
        check_few("queues", request.queues)
        check_few("toolchains", [name + digest for name, digest in request.toolchains.items()])
        check_node(caller, request.node_id)
        lacks = visible(request.lacks[:LACKS])[:LACKS]
        settings = self._parts.settings
        can = (request.queues, request.toolchains, request.slots if request.lacks else max(1, request.slots))
        live_ms = nodes.LIVE_LEASES * settings.lease_ms
        try:
            known = nodes.register(self._parts.store, request.node_id, *can, live_ms, caller.token_sha256, lacks)
        except membership.Forgotten:
            raise forgotten(request.node_id) from None
        self._parts.dropped(request.dropped_messages)
        if known.changed:
            self._parts.wake()
        return pb.RegisterNodeResponse(
            heartbeat_interval_ms=settings.heartbeat_ms,
            lease_ms=settings.lease_ms,
            drain=known.drain,
            message_key=settings.message_key,
        )

    def claim_build(self, caller: Caller, request: pb.ClaimBuildRequest) -> pb.ClaimBuildResponse:
        """Ownership of a build, or why not."""
        self._admit(caller, request.protocol, request.node_id)
        need("nodeId", request.node_id)
        check_nonce(request.nonce)
        check_node(caller, request.node_id)
        store, settings = self._parts.store, self._parts.settings
        try:
            got = builds.claim(
                store, request.build_id, request.node_id, request.nonce, settings.lease_ms, settings.running_jobs
            )
        except builds.UnknownNode:
            raise CallRefused("FAILED_PRECONDITION", "register the node first") from None
        if got.row is None:
            if got.passed_on:
                self._parts.wake()  # before this node waits for hints again
            return pb.ClaimBuildResponse(refused_because=got.refused)
        answer = grant(got.row, settings, got.last)
        try:
            answer.secrets.update(secrets_of(got.row, self._parts))
            if (image := rebased(store, got.row)) is not None:
                answer.rebased.CopyFrom(image)
        except BuildError as error:  # deleted since the submit: this build cannot be answered, and ends
            failure = pb.Failure(reason=error.reason, message=error.message, error_class=str(error.error_class),
                                 where=error.where, next=error.next)  # fmt: skip
            ended = pb.FinishRequest(build_id=request.build_id, claim=got.row["claim"], failure=failure)
            builds.finish(store, ended, settings.retry_backoff_ms)
            self._parts.changed(request.build_id)
            return pb.ClaimBuildResponse(refused_because=f"it ended: {error.message}")
        if 0 < got.row["source_size"] <= self._with_claim_bytes:  # behind the transaction, and no claim fails for it
            answer.source.content = self._parts.sources.at_hand(got.row["source_sha256"], self._with_claim_bytes)
        return answer

    def heartbeat(self, caller: Caller, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """Renew the lease; learn of a cancel."""
        self._admit(caller, request.protocol)
        phase = pb.BuildPhase.Name(request.phase).removeprefix("BUILD_PHASE_") if request.phase else ""
        settings = self._parts.settings
        row = builds.heartbeat(
            self._parts.store,
            request.build_id,
            request.claim,
            phase,
            settings.lease_ms,
            caller.node,
            request.waited_ms,
        )
        if row is None:
            self._parts.stale("heartbeat")
            return pb.HeartbeatResponse(stale=True)
        return pb.HeartbeatResponse(lease_ms=settings.lease_ms, cancel=row["cancel_requested"])

    def planned(self, caller: Caller, request: pb.PlannedRequest) -> pb.PlannedResponse:
        """The key is known."""
        self._admit(caller, request.protocol)
        check_plan(request)
        check_phases(request.phases)
        lines = _lines_of(request.lines)
        found = builds.planned(
            self._parts.store,
            request.build_id,
            request.claim,
            request.key,
            request.code_hash,
            request.runtime,
            request.phases,
            caller.node,
            self._parts.settings.start_check,
            version=request.runtime_version,
            target=request.target,
            warnings=[log_line(line[:TEXT_CHARACTERS]) for line in request.warnings[:MOST_WARNINGS]],
            provenance=checked_provenance(request.provenance) if request.HasField("provenance") else "",
            unchanged=request.unchanged,
            log_count=request.log_count,
            first_index=request.first_index,
            lines=lines,
        )
        if found.verdict == "INCOMPLETE":
            return pb.PlannedResponse(log_incomplete=True, kept_until_index=found.kept)
        if found.verdict == "STALE":
            self._parts.stale("planned")
        elif lines:
            self._parts.changed(request.build_id)
        return pb.PlannedResponse(verdict=pb.PlannedVerdict.Value("PLANNED_" + found.verdict))

    def append_log(self, caller: Caller, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        """Store a batch in one transaction, then wake the tails, then answer."""
        self._admit(caller, request.protocol, scopes=OWNERS)
        lines = _lines_of(request.lines)
        if request.cursors and (mask := self.masks.of(request.build_id, request.claim)):
            # A watcher has no secret of the build; what it sent before may have gone to another process of ours.
            lines = hidden(lines, mask)
        stale, kept, fresh = logs.append(
            self._parts.store, request.build_id, request.claim, request.first_index, lines, caller.node,
            checked_cursors(request.cursors), stages_of(caller),
        )  # fmt: skip
        if stale:
            self._parts.stale("log")
        if fresh:
            self._parts.changed(request.build_id)
        return pb.AppendLogResponse(stale=stale, kept_until_index=kept)

    def finish(self, caller: Caller, request: pb.FinishRequest) -> pb.FinishResponse:
        """An owner's outcome, and the last lines of its claim; repeated, it is answered with the record. A success that
        cannot be one is refused here: the attempt ends as `Internal`. What the registry knows comes before ATTEST
        (`builder/finalize.py`)."""
        self._admit(caller, request.protocol, scopes=OWNERS)
        settings = self._parts.settings
        check_phases(request.phases)
        stages, lines = stages_of(caller), _lines_of(request.lines)
        failed = request.WhichOneof("outcome") == "failure"
        if failed:
            clean(request.failure)
        if (failed or lines) and JOB in stages and (mask := self.masks.of(request.build_id, request.claim)):
            lines = hidden(lines, mask)
            if failed:
                hide(request.failure, mask)
        request, refused = _checked(request)
        done = builds.finish(self._parts.store, request, settings.retry_backoff_ms, caller.node, stages, lines)
        if done.outcome == "stale":
            self._parts.stale("finish")
        else:
            self._parts.changed(request.build_id)
        status = pb.BuildStatus.Value("BUILD_STATUS_" + (done.row["status"] if done.row else "UNSPECIFIED"))
        answer = pb.FinishResponse(
            stale=done.outcome == "stale", log_incomplete=done.outcome == "incomplete", status=status
        )
        if done.outcome == "done":
            answer.refused_because = refused
        if done.outcome == "incomplete" and done.row:
            answer.kept_until_index = done.row["claim_lines"]
        return answer

    def hand_back(self, caller: Caller, request: pb.HandBackRequest) -> pb.HandBackResponse:
        """The owner gives the build back."""
        self._admit(caller, request.protocol, scopes=OWNERS)
        row = builds.hand_back(
            self._parts.store, request.build_id, request.claim, request.reason, caller.node, stages_of(caller)
        )
        if row is None:
            self._parts.stale("hand_back")
        else:
            self._parts.changed(request.build_id)
        return pb.HandBackResponse(stale=row is None)

    def launching(self, caller: Caller, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        """Mark the attempt with its Job, before the Job is created."""
        self._admit(caller, request.protocol)
        job = request.job
        check_job(job)
        kept = json_format.MessageToJson(job, indent=None)
        try:
            row = jobs.launching(self._parts.store, request.build_id, request.claim, job, kept, caller.node)
        except jobs.Foreign as error:
            message = f'"{job.name[:80]}" cannot be the Job of this attempt: its name ends with {error}'
            raise BuildError("InvalidRequest", message, where="job.name") from None
        if row is None:
            self._parts.stale("launching")
            return pb.LaunchingResponse(stale=True)
        return pb.LaunchingResponse(cancel=row["cancel_requested"])

    def launched(self, caller: Caller, request: pb.LaunchedRequest) -> pb.LaunchedResponse:
        """The Job is created, and the worker is free; repeated, it is answered with the record."""
        self._admit(caller, request.protocol)
        check_phases(request.phases)
        try:
            done = jobs.launched(
                self._parts.store, request.build_id, request.claim, request.log_count, request.phases, caller.node
            )
        except jobs.Unmarked:
            raise CallRefused("FAILED_PRECONDITION", "mark the attempt with its Job first (Launching)") from None
        if done.outcome == "stale":
            self._parts.stale("launched")
        elif done.outcome == "done":
            self._parts.changed(request.build_id)
        status = pb.BuildStatus.Value("BUILD_STATUS_" + (done.row["status"] if done.row else "UNSPECIFIED"))
        answer = pb.LaunchedResponse(
            stale=done.outcome == "stale", log_incomplete=done.outcome == "incomplete", status=status
        )
        if done.outcome == "incomplete" and done.row:
            answer.kept_until_index = done.row["claim_lines"]
        return answer

    def source(self, caller: Caller, build_id: str, claim: int) -> Iterator[bytes]:
        """The stored source of a build, for the owner of its work."""
        return _chunks(self._parts.sources.open(self._owned(caller, build_id, claim)["source_sha256"]))

    def archive(
        self, caller: Caller, build_id: str, claim: int, sha256: str, lives_s: int, announced: int = 0
    ) -> ArchiveUpload:
        """Begin to store the canonical archive of a build, whose URL lives so long, for the owner of its work.

        The claim is looked at before the first byte, and again before the archive is in the store.
        """
        self._owned(caller, build_id, claim)
        check_size(announced, self.archives.limit)
        owned = functools.partial(self._owned, caller, build_id, claim)
        return ArchiveUpload(self.archives, owned, build_id, claim, sha256, lives_s)

    def source_by_url(self, sha256: str, expires_ms: int, signature: str) -> BinaryIO:
        """One stored source, for whoever has its URL."""
        return self._parts.sources.open_signed(sha256, expires_ms, signature)

    def _owned(self, caller: Caller, build_id: str, claim: int) -> builds.Row:
        """The build that the caller's claim owns the work of: RUNNING, under this claim, on the caller's node."""
        require(caller, "worker")
        self._revocations.check(caller)
        row = builds.by_id(self._parts.store, build_id)
        owned = row is not None and (row["status"], row["stage"], row["claim"]) == (RUNNING, WORK, claim)
        if row is None or not owned or not is_of(caller, row["node_id"]):
            raise not_found("this claim owns no such build")
        return row


def _checked(request: pb.FinishRequest) -> tuple[pb.FinishRequest, str]:
    """What is stored of a finish, and why its success is refused: then it is a failure. No registry is asked."""
    if request.WhichOneof("outcome") != "success":
        return request, ""
    kept, refused = pb.FinishRequest(), ""
    kept.CopyFrom(request)
    try:
        kept.success.CopyFrom(reported(request.success))
    except ArtifactRefused as error:
        refused = f"the node reported an artifact that cannot be one: {error}"
        known = REASONS["Internal"]
        kept.failure.CopyFrom(
            pb.Failure(
                reason=known.name,
                message=refused,
                error_class=str(known.error_class),
                next=known.hint,
                phase=pb.BUILD_PHASE_PUSH,
            )
        )
    return kept, refused


def _lines_of(entries: Collection[pb.LogEntry]) -> list[logs.Line]:
    """Lines of an owner as the store takes them. Raises `BuildError` InvalidRequest for too many."""
    check_lines(entries)
    return [
        {
            "t": moment(line.timestamp_ms),
            "p": pb.BuildPhase.Name(line.phase).removeprefix("BUILD_PHASE_") if line.phase else "",
            "o": pb.LogStream.Name(line.stream).removeprefix("LOG_STREAM_"),
            "l": line.line[:LINE_CHARACTERS],
        }
        for line in entries
    ]


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1024 * 1024):
            yield chunk
