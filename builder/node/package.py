"""PACKAGE and PUSH: layers of the output over the base as one image, by digest to this attempt's tag."""

from __future__ import annotations

from pathlib import Path

from builder import pipelines
from builder.build import Artifact, Claim
from builder.errors import BuildError
from builder.images.image import Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer
from builder.node.attempt import Attempt
from builder.plan import LayerSource, Plan
from builder.source.tree import DirTree

RESOLVED_MAX = 5000


def package(attempt: Attempt, claim: Claim, plan: Plan) -> object:
    """One image; what the resolver took is read while the working copy is there."""
    attempt.materials += _resolved(attempt, plan)
    layers: list[Layer] = []
    left = attempt.node.settings.artifact_bytes
    for index, source in enumerate(plan.output.layers):
        layers.append(_layer(attempt, index, source, left))
        left = max(0, left - layers[-1].unpacked)
    output = plan.output
    config = ImageConfig(
        entrypoint=output.entrypoint, env=output.env, workdir=output.workdir, user=output.user, labels=()
    )
    return build_image(attempt.provided.base, tuple(layers), config)


def _resolved(attempt: Attempt, plan: Plan) -> tuple[tuple[str, str], ...]:
    found = pipelines.resolved(plan.detection.runtime, DirTree(attempt.source), attempt.node.known)
    if len(found) > RESOLVED_MAX:
        attempt.held.said(f"warning: {len(found)} packages were resolved; the provenance names only the lock file")
        return ()
    return found


def _layer(attempt: Attempt, index: int, source: LayerSource, limit: int) -> Layer:
    """One layer; what lies below the work folder may be hostile and is walked without following a link."""
    host = _host_path(attempt, source.source)
    out = attempt.work / f"layer-{index}.tar.gz"
    below = attempt.work if host.is_relative_to(attempt.work) else None
    layer = write_layer(
        [(host, source.dest)], out, created_by=source.created_by, limit=limit, below=below, check=attempt.check
    )
    for warning in layer.warnings:
        attempt.held.said(f"warning: {warning}")
    return layer


def _host_path(attempt: Attempt, inside: str) -> Path:
    """A path of the sandbox on this host: below /work, or in a mounted folder of ours."""
    if inside.startswith("/work/"):
        return attempt.work / inside.removeprefix("/work/")
    for mount in attempt.provided.root.mounts:
        if inside == mount.dest or inside.startswith(mount.dest + "/"):
            return mount.source / inside.removeprefix(mount.dest).lstrip("/")
    raise BuildError("Internal", f"{inside} is nowhere on this node")


def push(attempt: Attempt, claim: Claim, image: object) -> Artifact:
    """By digest, and to this attempt's tag."""
    assert isinstance(image, Image)
    target = attempt.granted.destination
    pushed = attempt.node.destination(target, attempt).push(image, target.repository, target.tag)
    summary = f"{pushed.reference}: {pushed.uploaded_blobs} blobs sent, {pushed.existing_blobs} were there"
    return Artifact(
        digest=pushed.digest,
        reference=pushed.reference,
        size_bytes=pushed.size_bytes,
        summary=summary,
        materials=tuple(attempt.materials),
    )
