"""PACKAGE and PUSH: one image of layers over the base, or a component, by digest to this attempt's tag."""

from __future__ import annotations

from dataclasses import dataclass

from builder.attempt.attempt import Attempt
from builder.attempt.planned import Bound
from builder.attempt.programs import host_path, require_program
from builder.claims.outcome import Artifact, Material
from builder.errors import BuildError
from builder.images.image import BaseImage, Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer
from builder.images.wasm import component_image, component_layer
from builder.plan import ComponentOutput, LayerSource, Output
from builder.toolchains.provider import Provided


@dataclass(frozen=True, kw_only=True)
class Packaged:
    """An image ready to push, and everything that went into it."""

    image: Image
    materials: tuple[Material, ...]


def package(attempt: Attempt, bound: Bound, fetched: tuple[Material, ...] = ()) -> Packaged:
    """The artifact of a plan over the base that PLAN bound. `fetched` is what its steps downloaded."""
    output, base = bound.plan.output, bound.toolchain.base
    if isinstance(output, ComponentOutput):
        image = _component(attempt, output)
    elif base is None:
        raise BuildError("Internal", f"{bound.plan.toolchain.name} has no base image to build on")
    else:
        image = _image(attempt, bound.toolchain, output, base)
    return Packaged(image=image, materials=(*bound.materials, *fetched))


def _image(attempt: Attempt, toolchain: Provided, output: Output, base: BaseImage) -> Image:
    _require_layers(base)
    require_program(attempt, toolchain, output)
    layers: list[Layer] = []
    left = attempt.node.settings.artifact_bytes
    for index, source in enumerate(output.layers):
        layers.append(_layer(attempt, toolchain, index, source, left))
        left = max(0, left - layers[-1].unpacked)
    config = ImageConfig(
        entrypoint=output.entrypoint, env=output.env, workdir=output.workdir, user=output.user, labels=()
    )
    return build_image(base, tuple(layers), config)


def _component(attempt: Attempt, output: ComponentOutput) -> Image:
    """A component as it is, once it is known to be one that any host of WASI 0.2 can serve."""
    with attempt.reading() as reading:
        found = reading.component(output.component.removeprefix("/work/"))
    layer = component_layer(
        attempt.work / output.component.removeprefix("/work/"),
        attempt.private / "component.wasm",
        below=attempt.work,
        limit=attempt.node.settings.artifact_bytes,
        check=attempt.check,
    )
    return component_image(layer, found)


def _require_layers(base: BaseImage) -> None:
    """A base that is built anew leaves the layers of the old one; one that was removed does not."""
    if gone := [layer.digest for layer in base.layers if not layer.path.is_file()]:
        message = f"base image {base.name} ({base.digest}) was removed from this node during the build: no {gone[0]}"
        next_step = f"An operator runs: ignite-builder bases build {base.name}. Then build again."
        raise BuildError("ToolchainUnavailable", message, next=next_step)


def _layer(attempt: Attempt, toolchain: Provided, index: int, source: LayerSource, limit: int) -> Layer:
    """One layer; what lies below the work folder may be hostile and is walked without following a link."""
    host = host_path(attempt, toolchain, source.source)
    out = attempt.private / f"layer-{index}.tar.gz"
    below = attempt.work if host.is_relative_to(attempt.work) else None
    layer = write_layer(
        [(host, source.dest)], out, created_by=source.created_by, limit=limit, below=below, check=attempt.check
    )
    for warning in layer.warnings:
        attempt.log.system(f"warning: {warning}")
    return layer


def push(attempt: Attempt, packaged: Packaged) -> Artifact:
    """By digest, and to this attempt's tag."""
    target = attempt.grant.destination
    pushed = attempt.node.destination(attempt).push(packaged.image, target.repository, target.tag)
    summary = f"{pushed.reference}: {pushed.uploaded_blobs} blobs sent, {pushed.existing_blobs} were there"
    return Artifact(
        digest=pushed.digest,
        summary=summary,
        materials=packaged.materials,
    )
