"""`BuildService`: what clients call. It knows nothing of HTTP or gRPC.

Methods are named as their RPCs in snake case and take (caller, request). An RPC without a method is UNIMPLEMENTED;
`StreamBuildLogs` is in `streams.py`, `UploadBuildContext` in `uploads.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from google.protobuf import json_format

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services import intake, secrets
from builder.services.auth import Caller, require, same_organization
from builder.services.errors import CallRefused, QuotaExceeded
from builder.services.labels import label_filter
from builder.services.parts import Parts, find_build
from builder.services.records import shown
from builder.store import builds, outbox

PAGE, MOST = 50, 500
FULL_RETRY_S = 30


class BuildService:
    """What clients call."""

    def __init__(self, parts: Parts, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._parts, self._monotonic = parts, monotonic
        self._full_until: dict[str, float] = {}
        """Organization → when its queue, which was full, is looked at again."""

    def check_room(self, caller: Caller) -> None:
        """Raises `QuotaExceeded`, without a look at the store, as long as a refused caller was asked to wait: so the
        body of a call that comes again too early is not read."""
        wait = self._full_until.get(caller.organization, 0.0) - self._monotonic()
        if wait > 0:
            raise self._full(caller.organization, math.ceil(wait))
        self._full_until.pop(caller.organization, None)

    def _full(self, organization: str, retry_s: int) -> QuotaExceeded:
        most = self._parts.settings.queued_builds
        return QuotaExceeded(f'"{organization}" has {most} builds queued, which is all it may have', retry_s)

    def create_build(self, caller: Caller, request: pb.CreateBuildRequest) -> pb.CreateBuildResponse:
        """Store the source, commit the record, answer at once."""
        require(caller, "submit")
        organization = same_organization(caller, request.organization_name)
        parts = self._parts
        values = intake.take(request, organization, parts)
        try:
            submission = builds.submit(parts.store, values, parts.settings.queued_builds, request.labels)
        except builds.QueueFull:
            self._full_until[organization] = self._monotonic() + FULL_RETRY_S
            raise self._full(organization, FULL_RETRY_S) from None
        if submission.outcome == "conflict":
            message = f"idempotencyKey was used for another request, build {submission.row['build_id']}"
            raise CallRefused("ALREADY_EXISTS", message)
        found = shown(submission.row)
        return pb.CreateBuildResponse(build_id=found.build_id, status=found.status, build=found)

    def get_build(self, caller: Caller, request: pb.GetBuildRequest) -> pb.Build:
        """One record, by any unique start of its id."""
        require(caller, "read")
        row = find_build(self._parts, caller, request.build_id)
        found = shown(row)
        found.queue_position = builds.position(self._parts.store, row)
        return found

    def list_builds(self, caller: Caller, request: pb.ListBuildsRequest) -> pb.ListBuildsResponse:
        """Newest first; only those of a status, of a name and with the labels that the request names."""
        require(caller, "read")
        organization = same_organization(caller, request.organization_name)
        limit = min(request.limit or PAGE, MOST)
        before = codec.number(request.cursor, "cursor") if request.cursor else None
        status = pb.BuildStatus.Name(request.status).removeprefix("BUILD_STATUS_") if request.status else ""
        labelled = label_filter(request.label)
        rows = builds.page(
            self._parts.store, organization, limit + 1, before, status=status, name=request.name, labelled=labelled
        )
        cursor = str(rows[limit - 1]["number"]) if len(rows) > limit else ""
        return pb.ListBuildsResponse(builds=[shown(row) for row in rows[:limit]], next_cursor=cursor)

    def list_build_reports(self, caller: Caller, request: pb.ListBuildReportsRequest) -> pb.ListBuildReportsResponse:
        """The feed of the organization's reports, from a cursor on."""
        require(caller, "read")
        organization = same_organization(caller, request.organization_name)
        after = codec.number(request.cursor, "cursor") if request.cursor else 0
        rows = outbox.feed(self._parts.store, organization, after, min(request.limit or PAGE, MOST))
        last = rows[-1]["position"] if rows else after
        found = [json_format.Parse(row["body"], pb.BuildReport()) for row in rows]
        return pb.ListBuildReportsResponse(reports=found, next_cursor=str(last))

    def save_build_secrets(self, caller: Caller, request: pb.SaveBuildSecretsRequest) -> pb.SaveBuildSecretsResponse:
        """Store secrets of the organization; the answer has no value."""
        require(caller, "submit")
        organization = same_organization(caller, request.organization_name)
        return secrets.save(self._parts.secrets, organization, request)

    def list_build_secrets(self, caller: Caller, request: pb.ListBuildSecretsRequest) -> pb.ListBuildSecretsResponse:
        """What is known of the secrets of the organization, by name."""
        require(caller, "read")
        organization = same_organization(caller, request.organization_name)
        rows = self._parts.secrets.listed(organization)
        return pb.ListBuildSecretsResponse(secrets=[secrets.shown(row) for row in rows])

    def delete_build_secret(self, caller: Caller, request: pb.DeleteBuildSecretRequest) -> pb.DeleteBuildSecretResponse:
        """Delete a secret of the organization; builds that name it fail from now on."""
        require(caller, "submit")
        self._parts.secrets.remove(caller.organization, request.name)
        return pb.DeleteBuildSecretResponse()

    def cancel_build(self, caller: Caller, request: pb.CancelBuildRequest) -> pb.Build:
        """A request; the record is CANCELLED only once that is written."""
        require(caller, "submit")
        row = find_build(self._parts, caller, request.build_id)
        changed = builds.cancel(self._parts.store, caller.organization, row["build_id"]) or row
        self._parts.changed(row["build_id"])
        return shown(changed)
