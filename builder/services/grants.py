"""What an owner gets with its claim: a node for the work of a build, a watcher for its Job."""

from __future__ import annotations

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import start_check_of
from builder.settings import Settings
from builder.store import builds, record


def grant(row: builds.Row, settings: Settings, last: tuple[str, str] | None) -> pb.ClaimBuildResponse:
    """The answer to a granted claim. `last`: runtime and version of the last success of the same app."""
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
        takes_last_lines=True,
        takes_planned_lines=True,
        takes_config=True,
    )


def adoption(row: builds.Row, settings: Settings) -> pb.AdoptJobResponse:
    """The answer to a watcher that adopts a Job. It has no login: a watcher pushes nothing."""
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
        takes_newest=True,
    )
    for name in ("username", "password"):
        found.destination.ClearField(name)
    for name, (since, lines, newest) in record.cursors(row).items():
        found.cursors[name].CopyFrom(pb.LogCursor(since=since, lines=lines, newest_ns=newest))
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
