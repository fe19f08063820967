"""The line of a rebase on a build node: the image's config → plan → mark → Job. No source and no code takes part.

The lifecycle exchanges the layers in the Job. What it needs of the image is read here, so that an image that is gone,
or cannot be rebased, costs no Job, and one that stands on the run image already is answered without any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from builder.attempt.attempt import Attempt
from builder.attempt.planned import report_key
from builder.buildpacks.rebase import RebasePlan, plan_rebase
from builder.claims.outcome import Verdict
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import REBASED, REBUILD
from builder.errors import BuildError, PlatformError
from builder.plan import Toolchain
from builder.strategies import buildpacks
from builder.strategies.base import Setup

ReadImage = Callable[[str], Mapping[str, Any]]
"""(image by digest) → its config. Raises `BuildError` as `images.external.read_config`."""


def plan(attempt: Attempt, setup: Setup, read_image: ReadImage) -> tuple[RebasePlan, Verdict]:
    """What the rebase comes to, and what the store decides about its key.

    Raises `BuildError` ImageNotFound, InvalidRequest; `PlatformError` for a registry that does not do its part.
    """
    image = attempt.grant.rebased
    target = attempt.grant.destination
    reference = f"{target.registry}/{target.repository}@{image.digest}"
    with attempt.phase("FETCH_SOURCE"):
        config = _config(image, reference, read_image)
        attempt.log.system(f"the image of {image.build_id} is {reference}; no source is fetched")
    with attempt.phase("DETECT"):
        made = plan_rebase(config, image=reference, run_image=setup.run_image)
        attempt.log.system(f"a rebase by {buildpacks.TITLE} onto {made.run_image}; nothing is built")
    with attempt.phase("PLAN"):
        verdict = report_key(
            attempt,
            buildpacks.rebase_key(made, setup, attempt.grant.organization_name),
            image.code_hash,
            Toolchain(name=buildpacks.NAME, runtime="", version="", target="", base=""),
            provenance=image.provenance if image.HasField("provenance") else None,
            unchanged=made.unchanged,
        )
    return made, verdict


def _config(image: pb.RebasedImage, reference: str, read_image: ReadImage) -> Mapping[str, Any]:
    """The config of the image. Its registry is the server's own, so only its absence is the request's fault."""
    try:
        return read_image(reference)
    except PlatformError:
        raise
    except BuildError as error:
        if error.reason == "ImageNotFound":
            message = f"the image of {image.build_id} is gone from the registry: {error.message}"
            raise BuildError("ImageNotFound", message, where=REBASED, next=REBUILD) from None
        if error.reason == "ImageForbidden":
            raise PlatformError("RegistryRefused", error.message) from error
        raise BuildError("InvalidRequest", error.message, where=REBASED, next=REBUILD) from error
