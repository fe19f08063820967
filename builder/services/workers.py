"""`WorkerService`: what build nodes and watchers of Jobs call. Every write carries its claim; the store decides.

Methods are named as their RPCs in snake case and take (caller, request). An RPC without a method is UNIMPLEMENTED.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import BinaryIO

from google.protobuf import json_format

from builder.attest.artifact import Refused, reported
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.contract.request import repository_of, start_check_of
from builder.errors import REASONS, BuildError
from builder.git.source import parse_url
from builder.services.archives import Archives, ArchiveUpload, check_size
from builder.services.auth import OWNERS, Caller, require, stages_of
from builder.services.errors import CallRefused, not_found, permission_denied
from builder.services.parts import Parts
from builder.services.revocations import Revocations, forgotten
from builder.settings import Settings
from builder.store import builds, jobs, logs, membership, nodes, record
from builder.store.transitions import RUNNING, WORK
from builder.text import log_line, visible

LACKS = 200
MOST_SLOTS = 4096
"""Of a node. The window of hints is about twice the free slots; one that offers more would take everybody's."""
MOST_NAMES, NAME_CHARACTERS = 1000, 200
"""Queues or toolchains of a node, and each of their names: the dispatcher reads them at each look."""
LINE_CHARACTERS = 128 * 1024
"""Of a log line. A node splits lines at 16 KiB; what it then escapes becomes a few times as long."""
TEXT_CHARACTERS, SAID_LINES, MOST_WARNINGS = 16 * 1024, 6, 100
"""Of each text of a failure or warning, the lines of the tool's own words in it, and the warnings of a build."""
LAST_MS = 253_402_300_799_999
"""The end of the year 9999: no calendar has a later time, so a reader of a record or log could not write it."""
MOST_JOBS, FACTS_BYTES = 1000, 64 * 1024
"""Of one call of a watcher; of what it needs to explain the end of a Job."""
MOST_PHASES = 100
"""Of one claim. The line has a tenth of them, and every reader of the record reads them all."""
_DNS_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_NODE_ID = re.compile(r"[A-Za-z0-9][!-.0-~]{0,199}")  # a segment of the paths that drain and forget it


class WorkerService:
    """What build nodes and watchers call. Every write carries its claim, and the node or watcher that the caller's
    token names; the store has both in the condition of its statement."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._revocations = Revocations(parts.store)
        self.archives = Archives(parts.sources)

    def register_node(self, caller: Caller, request: pb.RegisterNodeRequest) -> pb.RegisterNodeResponse:
        """Note what a node can build and that it lives."""
        self._admit(caller, request.protocol, request.node_id)
        _given("nodeId", request.node_id)
        if not _NODE_ID.fullmatch(request.node_id):
            message = "nodeId takes 1 to 200 printable ASCII characters without a slash, a letter or digit first"
            raise BuildError("InvalidRequest", message, where="nodeId")
        if request.slots > MOST_SLOTS:
            raise BuildError("InvalidRequest", f"slots takes up to {MOST_SLOTS}", where="slots")
        _few("queues", request.queues)
        _few("toolchains", [name + digest for name, digest in request.toolchains.items()])
        _as_node(caller, request.node_id)
        settings = self._parts.settings
        can = (request.queues, request.toolchains, request.slots if request.lacks else max(1, request.slots))
        live_ms = nodes.LIVE_LEASES * settings.lease_ms
        try:
            known = nodes.register(
                self._parts.store, request.node_id, *can, live_ms, caller.token_sha256, request.lacks[:LACKS]
            )
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
        _given("nodeId", request.node_id)
        _few("nonce", [request.nonce])
        _given("nonce", request.nonce)  # two claims without one would pass for the same, sent twice
        _as_node(caller, request.node_id)
        store, settings = self._parts.store, self._parts.settings
        try:
            got = builds.claim(
                store, request.build_id, request.node_id, request.nonce, settings.lease_ms, settings.running_jobs
            )
        except builds.UnknownNode:
            raise CallRefused("FAILED_PRECONDITION", "register the node first") from None
        if got.row is None:
            return pb.ClaimBuildResponse(refused_because=got.refused)
        self._parts.fan_out(request.build_id, [])
        grant = _grant(got.row, settings, got.last)
        try:
            grant.secrets.update(self._secrets_of(got.row))
        except BuildError as error:  # deleted since the submit: this build cannot be answered, and ends
            failure = pb.Failure(reason=error.reason, message=error.message, error_class=str(error.error_class),
                                 where=error.where, next=error.next)  # fmt: skip
            ended = pb.FinishRequest(build_id=request.build_id, claim=got.row["claim"], failure=failure)
            builds.finish(store, ended, settings.retry_backoff_ms)
            self._parts.fan_out(request.build_id, [])
            return pb.ClaimBuildResponse(refused_because=f"it ended: {error.message}")
        return grant

    def _secrets_of(self, row: builds.Row) -> Mapping[str, str]:
        """The secrets of this build, opened at each claim."""
        asked = repository_of(record.request(row))
        if asked is None or not asked.secret:
            return {}
        where = asked.where("secretRef")
        found = self._parts.secrets.git(row["organization"], asked.secret, where)
        host = parse_url(asked.url, asked.where("url"))
        if found.host and found.host not in (host.host, f"{host.host}:{host.port}"):
            message = f'the secret "{asked.secret}" is only for {found.host}; the repository is at {host.host}'
            raise BuildError("InvalidRequest", message, where=where)
        if found.private_key:
            message = f'the secret "{asked.secret}" is an SSH key; https takes a token'
            raise BuildError("SecretWrongType", message, where=where)
        return {"git.username": found.username, "git.token": found.token}

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
        _few("runtimeVersion", [request.runtime_version, request.target])
        _within_calendar(request.phases)
        verdict = builds.planned(
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
            provenance=_provenance(request.provenance) if request.HasField("provenance") else "",
        )
        if verdict == "STALE":
            self._parts.stale("planned")
        return pb.PlannedResponse(verdict=pb.PlannedVerdict.Value("PLANNED_" + verdict))

    def append_log(self, caller: Caller, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        """Store a batch in one transaction, then wake the tails, then answer."""
        self._admit(caller, request.protocol, scopes=OWNERS)
        lines = [
            {
                "t": _moment(line.timestamp_ms),
                "p": pb.BuildPhase.Name(line.phase).removeprefix("BUILD_PHASE_") if line.phase else "",
                "o": pb.LogStream.Name(line.stream).removeprefix("LOG_STREAM_"),
                "l": line.line[:LINE_CHARACTERS],
            }
            for line in request.lines
        ]
        stale, kept, fresh = logs.append(
            self._parts.store, request.build_id, request.claim, request.first_index, lines, caller.node,
            _cursors(request.cursors), stages_of(caller),
        )  # fmt: skip
        if stale:
            self._parts.stale("log")
        if fresh:
            self._parts.fan_out(request.build_id, fresh)
        return pb.AppendLogResponse(stale=stale, kept_until_index=kept)

    def finish(self, caller: Caller, request: pb.FinishRequest) -> pb.FinishResponse:
        """An owner's outcome; repeated, it is answered with the record. A success that cannot be one is refused here:
        the attempt ends as `Internal`. What the registry knows comes before ATTEST (`builder/finalize.py`)."""
        self._admit(caller, request.protocol, scopes=OWNERS)
        settings = self._parts.settings
        _within_calendar(request.phases)
        if request.WhichOneof("outcome") == "failure":
            _as_text(request.failure)
        request, refused = _checked(request)
        stages = stages_of(caller)
        done = builds.finish(self._parts.store, request, settings.retry_backoff_ms, caller.node, stages)
        if done.outcome == "stale":
            self._parts.stale("finish")
        else:
            self._parts.fan_out(request.build_id, [])
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
            self._parts.fan_out(request.build_id, [])
        return pb.HandBackResponse(stale=row is None)

    def launching(self, caller: Caller, request: pb.LaunchingRequest) -> pb.LaunchingResponse:
        """Mark the attempt with its Job, before the Job is created."""
        self._admit(caller, request.protocol)
        job = request.job
        _check_job(job)
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
        _within_calendar(request.phases)
        try:
            done = jobs.launched(
                self._parts.store, request.build_id, request.claim, request.log_count, request.phases, caller.node
            )
        except jobs.Unmarked:
            raise CallRefused("FAILED_PRECONDITION", "mark the attempt with its Job first (Launching)") from None
        if done.outcome == "stale":
            self._parts.stale("launched")
        elif done.outcome == "done":
            self._parts.fan_out(request.build_id, [])
        status = pb.BuildStatus.Value("BUILD_STATUS_" + (done.row["status"] if done.row else "UNSPECIFIED"))
        answer = pb.LaunchedResponse(
            stale=done.outcome == "stale", log_incomplete=done.outcome == "incomplete", status=status
        )
        if done.outcome == "incomplete" and done.row:
            answer.kept_until_index = done.row["claim_lines"]
        return answer

    def adopt_job(self, caller: Caller, request: pb.AdoptJobRequest) -> pb.AdoptJobResponse:
        """Ownership of the next build in stage JOB that nobody watches."""
        watcher = self._watcher(caller, request.protocol, request.watcher)
        _few("nonce", [request.nonce])
        _given("nonce", request.nonce)  # two calls without one would pass for the same, sent twice
        settings = self._parts.settings
        got = jobs.adopt(self._parts.store, watcher, request.nonce, settings.lease_ms)
        if got.row is None:
            return pb.AdoptJobResponse(refused_because=got.refused)
        self._parts.fan_out(got.row["build_id"], [])
        return _adoption(got.row, settings)

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
        _most("beats", len(request.beats))
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
        _most("jobs", len(request.jobs))
        asked = [(one.build_id, one.attempt) for one in request.jobs]
        current = jobs.current(self._parts.store, asked)
        found = [pb.JobAttempt(build_id=one[0], attempt=one[1]) for one in asked if one in current]
        return pb.CurrentJobsResponse(jobs=found)

    def _watcher(self, caller: Caller, protocol: int, named: str) -> str:
        """The name of the watcher that calls. Raises for a caller that is none, or another one."""
        self._admit(caller, protocol, scopes=("watch",))
        _given("watcher", named)
        if not _NODE_ID.fullmatch(named):
            message = "watcher takes 1 to 200 printable ASCII characters without a slash, a letter or digit first"
            raise BuildError("InvalidRequest", message, where="watcher")
        if not _is_of(caller, named):
            raise permission_denied(f'this token is for the watcher "{caller.node}"')
        return named

    def _admit(self, caller: Caller, protocol: int, node_id: str = "", scopes: Sequence[str] = ("worker",)) -> None:
        """Raises for a caller that is no worker (watcher, owner), or no longer one."""
        _speaks(caller, protocol, scopes)
        self._revocations.check(caller, node_id)

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
        if row is None or not owned or not _is_of(caller, row["node_id"]):
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
    except Refused as error:
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


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while chunk := file.read(1024 * 1024):
            yield chunk


def _moment(ms: int) -> int:
    """A time that a node names, within the calendar."""
    return min(max(0, ms), LAST_MS)


def _within_calendar(phases: Collection[pb.PhaseRecord]) -> None:
    """Raises `BuildError` InvalidRequest for more phases than a line has."""
    if len(phases) > MOST_PHASES:
        raise BuildError("InvalidRequest", f"phases takes up to {MOST_PHASES} of them", where="phases")
    for phase in phases:
        phase.started_at_ms, phase.ended_at_ms = _moment(phase.started_at_ms), _moment(phase.ended_at_ms)


def _few(name: str, values: Collection[str]) -> None:
    if len(values) > MOST_NAMES or any(len(value) > NAME_CHARACTERS for value in values):
        message = f"{name} takes up to {MOST_NAMES} values of up to {NAME_CHARACTERS} characters"
        raise BuildError("InvalidRequest", message, where=name)


def _as_text(failure: pb.Failure) -> None:
    """A failure's texts as a log would keep them: of bounded length, and nothing in them acts on a terminal."""
    for name in ("reason", "message", "where", "next"):
        lines = getattr(failure, name)[:TEXT_CHARACTERS].split("\n")
        setattr(failure, name, "\n".join(map(log_line, lines)))
    failure.said[:] = [log_line(line[:TEXT_CHARACTERS]) for line in failure.said[:SAID_LINES]]


def _most(name: str, count: int) -> None:
    if count > MOST_JOBS:
        raise BuildError("InvalidRequest", f"{name} takes up to {MOST_JOBS} of them", where=name)


def _check_job(job: pb.Job) -> None:
    """Raises `BuildError` InvalidRequest for what cannot be a Job, or is too large for a record."""
    for name, value in (("strategy", job.strategy), ("name", job.name), ("namespace", job.namespace)):
        if not _DNS_LABEL.fullmatch(value):
            raise BuildError("InvalidRequest", f"job.{name} takes a DNS label", where=f"job.{name}")
    if len(job.facts.encode()) > FACTS_BYTES:
        message = f"job.facts has {len(job.facts.encode())} bytes, {FACTS_BYTES} are allowed"
        raise BuildError("InvalidRequest", message, where="job.facts")
    job.deadline_at_ms = _moment(job.deadline_at_ms)


def _cursors(found: Mapping[str, pb.LogCursor]) -> dict[str, tuple[int, int]]:
    """Where the readers of a Job's containers stand. Raises `BuildError` InvalidRequest."""
    if len(found) > logs.MOST_CURSORS or not all(_DNS_LABEL.fullmatch(name) for name in found):
        message = f"cursors takes up to {logs.MOST_CURSORS} names of containers"
        raise BuildError("InvalidRequest", message, where="cursors")
    return {name: (min(max(0, at.since), LAST_MS // 1000), max(0, at.lines)) for name, at in found.items()}


def _given(name: str, value: str) -> None:
    if not value:
        raise BuildError("InvalidRequest", f"{name} is needed", where=name)


def _as_node(caller: Caller, node_id: str) -> None:
    if not _is_of(caller, node_id):
        raise permission_denied(f'this token is for the node "{caller.node}"')


def _is_of(caller: Caller, node_id: str) -> bool:
    """Whether a token may act for a node or watcher. One that names no node may for all of them (the embedded mode)."""
    return caller.node in ("", node_id)


def _speaks(caller: Caller, protocol: int, scopes: Sequence[str]) -> None:
    require(caller, *scopes)
    if protocol != PROTOCOL:
        message = f"the worker speaks protocol {protocol}, the API speaks {PROTOCOL}: install the same version"
        raise CallRefused("FAILED_PRECONDITION", message)


def _provenance(found: pb.SourceProvenance) -> str:
    """A node's word of a commit, in its form, as the record keeps it. Raises `BuildError` InvalidRequest."""
    if not re.fullmatch(r"[0-9a-f]{40}", found.commit_sha):
        raise BuildError("InvalidRequest", "a commit has 40 hex digits", where="provenance.commitSha")
    kept = pb.SourceProvenance(
        commit_sha=found.commit_sha,
        author=visible(found.author, limit=200),
        branch=visible(found.branch, limit=255),
        source_timestamp_ms=min(max(found.source_timestamp_ms, 0), LAST_MS),
    )
    return json_format.MessageToJson(kept, indent=None)


def _grant(row: builds.Row, settings: Settings, last: tuple[str, str] | None) -> pb.ClaimBuildResponse:
    return pb.ClaimBuildResponse(
        default_versions=dict((last,) if last else ()),
        granted=True,
        build_id=row["build_id"],
        claim=row["claim"],
        attempt=row["attempt"],
        lease_ms=settings.lease_ms,
        organization_name=row["organization"],
        request=record.request(row),
        source=pb.StoredSource(
            sha256="sha256:" + row["source_sha256"] if row["source_sha256"] else "", size_bytes=row["source_size"]
        ),
        limits=pb.Limits(timeout_ms=row["timeout_ms"]),
        destination=destination(settings, row),
        start_check=start_check_of(record.request(row), settings.start_check),
    )


def _adoption(row: builds.Row, settings: Settings) -> pb.AdoptJobResponse:
    found = pb.AdoptJobResponse(
        adopted=True,
        build_id=row["build_id"],
        claim=row["claim"],
        attempt=row["attempt"],
        lease_ms=settings.lease_ms,
        heartbeat_interval_ms=settings.heartbeat_ms,
        organization_name=row["organization"],
        name=row["name"],
        job=record.job(row),
        seen=row["job_seen"],
        cancel=row["cancel_requested"],
        destination=destination(settings, row),
        limits=pb.Limits(timeout_ms=row["timeout_ms"]),
        phase=pb.BuildPhase.Value("BUILD_PHASE_" + row["phase"]),
    )
    for name in ("username", "password"):  # a watcher pushes nothing
        found.destination.ClearField(name)
    for name, (since, lines) in record.cursors(row).items():
        found.cursors[name].CopyFrom(pb.LogCursor(since=since, lines=lines))
    return found


def destination(settings: Settings, row: builds.Row) -> pb.Destination:
    """Where the artifact of this attempt goes, with what it takes to push it."""
    return pb.Destination(
        registry=settings.registry,
        repository=row["repository"],
        tag=record.attempt_tag(row),
        insecure=settings.registry_insecure,
        username=settings.registry_username,
        password=settings.registry_password,
        layout_path="" if settings.registry else f"{settings.data_dir}/artifacts",
    )
