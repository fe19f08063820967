"""A row of the store as the wire has it. Pure."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.contract.request import built_image, is_image, is_rebase, start_check_of
from builder.plan import PLATFORM
from builder.store.logs import Position
from builder.store.transitions import CANCELLED, FAILED, JOB, OWNED, PENDING, RUNNING, SUCCEEDED

VERSION_STATUS = {
    PENDING: common.VERSION_STATUS_COMPILING,
    RUNNING: common.VERSION_STATUS_COMPILING,
    SUCCEEDED: common.VERSION_STATUS_DRAFT,
    FAILED: common.VERSION_STATUS_FAILED,
    CANCELLED: common.VERSION_STATUS_FAILED,
}


def request(row: Mapping[Any, Any]) -> pb.CreateBuildRequest:
    """What was asked for, without its source."""
    return pb.CreateBuildRequest.FromString(_wire(row["request"]))


@functools.lru_cache(maxsize=64)
def _wire(text: str) -> bytes:
    """A stored request in protobuf's own form: JSON takes thirty times as long to read, and each of the dozen
    statements of a build reads its request."""
    return bytes(json_format.Parse(text, pb.CreateBuildRequest()).SerializeToString())


def build(row: Mapping[Any, Any]) -> pb.Build:
    """The build record."""
    asked = request(row)
    message = pb.Build(
        build_id=row["build_id"],
        name=row["name"],
        organization_name=row["organization"],
        status=pb.BuildStatus.Value("BUILD_STATUS_" + row["status"]),
        version_status=VERSION_STATUS[row["status"]],
        code_kind=code_kind(asked, of_commit=bool(row["provenance"])),
        deployment_mode=deployment_mode(asked),
        runtime=row["runtime"],
        runtime_version=row["runtime_version"],
        target=row["target"],
        warnings=json.loads(row["warnings"]),
        phase=pb.BuildPhase.Value("BUILD_PHASE_" + row["phase"]),
        source_sha256="sha256:" + row["source_sha256"] if row["source_sha256"] else "",
        platform=PLATFORM,
        priority=row["priority"],
        node_id=row["node_id"],
        code_hash=row["code_hash"],
        build_key=row["build_key"],
        from_cache_of=row["from_cache_of"],
        attached_to=row["attached_to"],
        created_at_ms=row["created_at"],
        started_at_ms=row["started_at"],
        ended_at_ms=row["ended_at"],
        updated_at_ms=row["updated_at"],
        claim=row["claim"],
        attempt=row["attempt"],
        failures=row["failures"],
        retries=row["retries"],
        cancel_requested=row["cancel_requested"],
        report_sequence=row["report_sequence"],
        log_lines=row["log_lines"],
        tags=json.loads(row["tags"]),
        repository=row["repository"],
        statement=row["statement"],
        labels=asked.labels,
        build_args=dict.fromkeys(
            [*asked.build_args, *asked.code.compile.build_args, *built_image(asked)[0].build_args], "***"
        ),
    )
    for name, start, end, ok in json.loads(row["phases"]):
        message.phases.add(
            phase=pb.BuildPhase.Value("BUILD_PHASE_" + name),
            status=pb.PHASE_STATUS_SUCCEEDED if ok else pb.PHASE_STATUS_FAILED,
            started_at_ms=start,
            ended_at_ms=end,
            duration_ms=max(0, end - start),
        )
    if row["status"] == SUCCEEDED:
        artifact = built(row)
        if message.deployment_mode == common.DEPLOYMENT_MODE_COMPILATION:
            message.artifact_ref = artifact.reference
            message.artifact_sha256 = artifact.digest.removeprefix("sha256:")
        message.image_digest = artifact.digest
        message.size_bytes = artifact.size_bytes
        message.image_refs.extend(one for one in (artifact.reference, artifact.tag_reference) if one)
        if artifact.HasField("start_check"):
            message.start_check.CopyFrom(artifact.start_check)
    if row["status"] == RUNNING:
        message.stage = pb.BuildStage.Value("BUILD_STAGE_" + row["stage"])
        if row["job"] and row["stage"] in OWNED:
            message.job = f"{job(row).namespace}/{job(row).name}"
        message.watcher = row["watcher"] if row["stage"] == JOB else ""
    if row["provenance"]:
        json_format.Parse(row["provenance"], message.provenance)
    if row["failure"]:
        json_format.Parse(row["failure"], message.failure)
    return message


def job(row: Mapping[Any, Any]) -> pb.Job:
    """The Kubernetes Job that marks the attempt."""
    found: pb.Job = json_format.Parse(row["job"], pb.Job())
    return found


def cursors(row: Mapping[Any, Any]) -> dict[str, Position]:
    """Container of the Job → where the reader of its log stands behind the lines that are stored."""
    found: dict[str, list[int]] = json.loads(row["cursors"] or "{}")
    # What an earlier version stored has no time of the newest line.
    return {name: (at[0], at[1], at[2] if len(at) > 2 else 0) for name, at in found.items()}


CODE_KINDS = {
    "prebuilt": common.CODE_KIND_PREBUILT,
    "from_code": common.CODE_KIND_UPLOAD_IMAGE,
    "from_git": common.CODE_KIND_GIT_IMAGE,
}


def code_kind(asked: pb.CreateBuildRequest, *, of_commit: bool = False) -> common.CodeKind.ValueType:
    """What the code of a request is. `of_commit`: of a rebase, whether the image was made of a commit."""
    if is_rebase(asked):
        return common.CODE_KIND_GIT_IMAGE if of_commit else common.CODE_KIND_UPLOAD_IMAGE
    return CODE_KINDS.get(asked.code.image.WhichOneof("variant") or "", common.CODE_KIND_SDK)


def deployment_mode(asked: pb.CreateBuildRequest) -> common.DeploymentMode.ValueType:
    """How the code of a request is deployed."""
    return common.DEPLOYMENT_MODE_IMAGE if is_image(asked) else common.DEPLOYMENT_MODE_COMPILATION


def built(row: Mapping[Any, Any]) -> pb.BuiltArtifact:
    """The artifact: as its owner reported it until the control side has compared it with the registry."""
    artifact: pb.BuiltArtifact = json_format.Parse(row["artifact"], pb.BuiltArtifact())
    return artifact


def start_mode(row: Mapping[Any, Any], default: str) -> str:
    """The start check that a build asks for: off, warn or require; `default` is the server's setting."""
    return start_check_of(request(row), default)


def starts(row: Mapping[Any, Any]) -> bool:
    """Whether somebody saw the artifact of a row start."""
    return built(row).start_check.status == pb.START_STATUS_LISTENS


def is_checked(row: Mapping[Any, Any]) -> bool:
    """Whether the artifact of a row has a verdict of a start check, whatever it is."""
    return built(row).HasField("start_check")


def start_words(row: Mapping[Any, Any]) -> str:
    """What the start check of an artifact found, as the end of a line; nothing where there was none, or all is well."""
    found = built(row).start_check
    return f"; start check: {found.message}" if found.message else ""


def attempt_tag(row: Mapping[Any, Any]) -> str:
    """The tag that the owner of this attempt pushes to."""
    return f"build-{row['build_id']}-{row['attempt']}"


def report(row: Mapping[Any, Any], sequence: int, now: int) -> pb.BuildReport:
    """The report for the control plane."""
    record = build(row)
    message = pb.BuildReport(
        build_id=record.build_id,
        organization_name=record.organization_name,
        name=record.name,
        sequence=sequence,
        version_status=record.version_status,
        build_status=record.status,
        labels=record.labels,
        code_hash=record.code_hash,
        code_kind=record.code_kind,
        deployment_mode=record.deployment_mode,
        image_refs=record.image_refs,
        image_digest=record.image_digest,
        artifact_ref=record.artifact_ref,
        created_at_ms=now,
    )
    if row["failure"]:
        message.failure.CopyFrom(record.failure)
    return message
