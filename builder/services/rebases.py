"""A rebase on the control side: which build it may name, and what its worker learns of that build's image."""

from __future__ import annotations

from google.protobuf import json_format

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.materials import BUILDPACKS
from builder.contract.request import REBASED, REBUILD, is_image, is_rebase
from builder.errors import BuildError
from builder.services.parts import build_of
from builder.store import builds, record
from builder.store.engine import Store
from builder.store.transitions import SUCCEEDED


def named(store: Store, organization: str, request: pb.CreateBuildRequest) -> builds.Row:
    """The build whose image a request rebases. Raises `CallRefused` NOT_FOUND, `BuildError` InvalidRequest."""
    row = build_of(store, organization, request.rebase.build_id, REBASED)
    build_id = row["build_id"]
    if row["status"] != SUCCEEDED:
        message = f"{build_id} is {row['status']}; a rebase takes the image of a build that has succeeded"
        raise BuildError("InvalidRequest", message, where=REBASED, next="Name one that has: ignite-builder ls")
    if not _by_buildpacks(row):
        message = f"{build_id} was not made by buildpacks: nothing says which of its layers are the run image's"
        raise BuildError("InvalidRequest", message, where=REBASED, next=REBUILD)
    _check_alone(request, row)
    return row


def rebased(store: Store, row: builds.Row) -> pb.RebasedImage | None:
    """What the owner of a rebase starts from; None for a build that is none.

    Raises `BuildError` ImageNotFound where the named build is gone since the submit.
    """
    asked = record.request(row)
    if not is_rebase(asked):
        return None
    origin = builds.by_id(store, asked.rebase.build_id)
    if origin is None or origin["organization"] != row["organization"] or origin["status"] != SUCCEEDED:
        message = f"the record of {asked.rebase.build_id}, whose image is to be rebased, was deleted meanwhile"
        raise BuildError("ImageNotFound", message, where=REBASED, next=REBUILD)
    found = pb.RebasedImage(
        build_id=origin["build_id"], digest=record.built(origin).digest, code_hash=origin["code_hash"]
    )
    if origin["provenance"]:
        json_format.Parse(origin["provenance"], found.provenance)
    return found


def _by_buildpacks(row: builds.Row) -> bool:
    """Whether buildpacks made the image: the lifecycle's labels alone are also those of what was built upon it.

    What made an image is the first of its materials. Behind it a Dockerfile's own bases have any name.
    """
    made_by = [material.name for material in record.built(row).materials[:1]]
    return is_image(record.request(row)) and made_by == [BUILDPACKS]


def _check_alone(request: pb.CreateBuildRequest, row: builds.Row) -> None:
    """Raises `BuildError` InvalidRequest for what a rebase would not look at."""
    for name in ("build_args", "dockerfile", "buildpacks"):
        if getattr(request, name):
            field = request.DESCRIPTOR.fields_by_name[name].json_name
            message = f"{field} is given; a rebase builds nothing"
            raise BuildError("InvalidRequest", message, where=field, next=f"Leave {field} out.")
    if request.source_ref.WhichOneof("ref"):
        raise BuildError("InvalidRequest", "a rebase has no source", where="sourceRef")
    for name in ("output_repository", "repository"):
        if getattr(request, name) not in ("", row["repository"]):
            field = request.DESCRIPTOR.fields_by_name[name].json_name
            message = f'a rebase stays in the repository of its build, "{row["repository"]}"'
            raise BuildError("InvalidRequest", message, where=field, next=f"Leave {field} out.")
