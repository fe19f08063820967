"""What an owner sends, and what each answer asks of it next. All but the first carry the claim."""

from __future__ import annotations

import enum
from collections.abc import Sequence

from builder.claims.lease import Lease
from builder.claims.outcome import Artifact, Outcome, Start, Verdict
from builder.claims.spool import Line, Spool
from builder.contract import materials
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.errors import BuildError, PlatformError
from builder.plan import Toolchain
from builder.text import visible

CLAIM_PAUSES_S = (0.1, 0.3, 1.0, 2.0)
"""Between the tries of one claim. After the last the owner lets the hint go: the store offers the build again."""


def claim_request(node_id: str, build_id: str, nonce: str) -> pb.ClaimBuildRequest:
    """A claim. Repeated with its nonce it gets the same answer."""
    return pb.ClaimBuildRequest(protocol=PROTOCOL, node_id=node_id, build_id=build_id, nonce=nonce)


def planned_request(
    lease: Lease,
    *,
    key: str,
    code_hash: str,
    toolchain: Toolchain,
    warnings: Sequence[str],
    phases: Sequence[pb.PhaseRecord],
    provenance: pb.SourceProvenance | None = None,
    unchanged: bool = False,
    log_count: int = 0,
    last: Sequence[Line] = (),
) -> pb.PlannedRequest:
    """The key is known. `phases` are stored where the verdict ends this claim. For a control side that takes them here,
    `log_count`: the lines of this claim so far; `last`: those that are not kept yet."""
    return pb.PlannedRequest(
        protocol=PROTOCOL,
        build_id=lease.build_id,
        claim=lease.claim,
        key=key,
        code_hash=code_hash,
        runtime=toolchain.runtime,
        runtime_version=toolchain.version,
        target=toolchain.target,
        warnings=[visible(line) for line in warnings],
        phases=phases,
        provenance=provenance,
        unchanged=unchanged,
        log_count=log_count,
        first_index=last[0].index if last else 0,
        lines=_entries(last),
    )


def append_request(build_id: str, claim: int, lines: Sequence[Line]) -> pb.AppendLogRequest:
    """One batch of lines, dense from the index of the first."""
    return pb.AppendLogRequest(
        protocol=PROTOCOL, build_id=build_id, claim=claim, first_index=lines[0].index, lines=_entries(lines)
    )


def _entries(lines: Sequence[Line]) -> list[pb.LogEntry]:
    return [
        pb.LogEntry(
            timestamp_ms=line.timestamp_ms,
            phase=pb.BuildPhase.Value("BUILD_PHASE_" + (line.phase or "UNSPECIFIED")),
            stream=pb.LogStream.Value("LOG_STREAM_" + line.stream),
            line=line.text,
        )
        for line in lines
    ]


def appended(lease: Lease, spool: Spool, request: pb.AppendLogRequest, answer: pb.AppendLogResponse) -> None:
    """A batch was answered: acknowledge its lines, or send again what the control side lacks."""
    lease.lost = lease.lost or answer.stale
    if answer.kept_until_index < request.first_index:  # the store went back in time
        spool.again(answer.kept_until_index)
    else:
        spool.acknowledge(answer.kept_until_index)


class Close(enum.Enum):
    """How an owner leaves its claim."""

    LOST = "lost"
    """Without a word: the claim is another's, or nobody's."""
    RELEASED = "released"
    """The store ended the claim at PLAN; only the log is completed."""
    HAND_BACK = "handed-back"
    FINISH = "finished"
    LAUNCHED = "launched"
    """Its Job goes on, and a watcher follows it."""
    ABANDONED = "abandoned"
    """Its Job has no owner: cancel was requested while it was created."""


def close_of(lease: Lease, outcome: Outcome) -> Close:
    """How an owner with this outcome leaves its claim."""
    if lease.lost or outcome.verdict is Verdict.STALE:
        return Close.LOST
    if outcome.verdict in (Verdict.REUSE, Verdict.ATTACHED):
        return Close.RELEASED
    if outcome.job is not None:
        return Close.LAUNCHED
    if lease.drained and not lease.cancelled and outcome.artifact is None:
        return Close.HAND_BACK
    return Close.FINISH


def launching_request(lease: Lease, job: pb.Job) -> pb.LaunchingRequest:
    """The mark of the attempt with the Job that is created next."""
    return pb.LaunchingRequest(protocol=PROTOCOL, build_id=lease.build_id, claim=lease.claim, job=job)


def launched_request(lease: Lease, *, log_count: int, phases: Sequence[pb.PhaseRecord]) -> pb.LaunchedRequest:
    """The Job is created. `log_count`: the lines of this claim."""
    return pb.LaunchedRequest(
        protocol=PROTOCOL, build_id=lease.build_id, claim=lease.claim, log_count=log_count, phases=phases
    )


def hand_back_request(build_id: str, claim: int, reason: str) -> pb.HandBackRequest:
    """Give the build back: "drain" costs nothing, "lost" counts as a lost owner."""
    return pb.HandBackRequest(protocol=PROTOCOL, build_id=build_id, claim=claim, reason=reason)


def finish_request(
    lease: Lease,
    outcome: Outcome,
    *,
    log_count: int,
    phase: str,
    phases: Sequence[pb.PhaseRecord],
    last: Sequence[Line] = (),
) -> pb.FinishRequest:
    """The outcome as the wire has it. `log_count`: the lines of this claim; `phase`: where a failure without one was;
    `last`: the lines that are not kept yet, for a control side that takes them here.

    A cancel beats whatever failure it led to.
    """
    request = pb.FinishRequest(
        protocol=PROTOCOL,
        build_id=lease.build_id,
        claim=lease.claim,
        log_count=log_count,
        phases=phases,
        first_index=last[0].index if last else 0,
        lines=_entries(last),
    )
    if outcome.artifact is not None:
        request.success.CopyFrom(artifact_record(outcome.artifact))
        return request
    error = outcome.failure or BuildError("Internal", "the build ended without an outcome")
    if lease.cancelled:
        error = BuildError("Cancelled", "cancelled on request", phase=phase)
    request.failure.CopyFrom(failure_record(error, phase))
    return request


def artifact_record(artifact: Artifact) -> pb.BuiltArtifact:
    """An `Artifact` as the wire has it: what the control side does not find out itself.

    Names come from the source, where they may hold anything; what is hidden in one is escaped.
    """
    named = [(visible(name)[: materials.NAME_CHARACTERS], digest) for name, digest in artifact.materials]
    config = artifact.config
    return pb.BuiltArtifact(
        digest=artifact.digest,
        materials=[pb.Material(name=name, digest=digest) for name, digest in named],
        config=config if len(config) <= materials.CONFIG_BYTES else b"",
        start_check=start_record(artifact.start) if artifact.start else None,
    )


def start_record(start: Start) -> pb.StartCheck:
    """What the start check saw, as the wire has it. Its message holds a line of the program's own."""
    return pb.StartCheck(
        status=start.status.value,
        message=visible(start.line)[: materials.START_CHARACTERS],
        cold_start_ms=start.cold_start_ms,
        memory_bytes=start.memory_bytes,
    )


def failure_record(error: BuildError, phase: str) -> pb.Failure:
    """A `BuildError` as the record's failure."""
    return pb.Failure(
        reason=error.reason,
        message=error.message,
        exit_code=error.exit_code,
        error_class=str(error.error_class),
        where=error.where,
        said=error.said,
        next=error.next,
        limit=error.limit,
        peak=error.peak,
        retry_after_ms=error.retry_after_ms if isinstance(error, PlatformError) else 0,
        phase=pb.BuildPhase.Value("BUILD_PHASE_" + (error.phase or phase)),
    )
