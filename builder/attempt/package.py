"""PACKAGE and PUSH: one image of layers over the base, or a component, by digest to this attempt's tag."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from builder.attempt.attempt import Attempt
from builder.attempt.planned import Bound
from builder.attempt.programs import host_path, require_program
from builder.attempt.results import require_shown
from builder.attempt.verdict import broken_cache, discard_caches
from builder.claims.outcome import Artifact, Material
from builder.errors import BuildError
from builder.images.image import BaseImage, Image, ImageConfig, build_image
from builder.images.layer import Layer, write_layer
from builder.images.wasm import component_image, component_layer
from builder.key import digest_of
from builder.plan import ComponentOutput, LayerSource, Output
from builder.toolchains.provider import Provided

FORMAT = 1
"""Changes when the bytes of a layer of the same file do."""


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
        image = _image(attempt, bound, output, base)
    return Packaged(image=image, materials=(*bound.materials, *fetched))


def _image(attempt: Attempt, bound: Bound, output: Output, base: BaseImage) -> Image:
    toolchain = bound.toolchain
    _require_layers(base)
    require_shown(attempt)
    require_program(attempt, toolchain, output, bound.plan.detection.runtime)
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
    if below is None and (name := _name_of(toolchain, source)):
        attempt.use(f"toolchains/{name}")  # until it is pushed
        return _stored(attempt, host, source, limit, attempt.node.folder / "toolchains" / name)
    if (place := attempt.shown.get(source.source)) is not None:
        folder = place.with_name(f"{place.name}.{_name(source)}")
        attempt.use(str(folder.relative_to(attempt.node.folder)))
        try:
            return _stored(attempt, host, source, limit, folder)
        except BuildError as error:
            if error.reason != "StepFailed":
                raise
            discard_caches(attempt)
            raise broken_cache(f"what a step had in a cache of this node: {error.message}") from error
    return _logged(
        attempt,
        write_layer(
            [(host, source.dest)], out, created_by=source.created_by, limit=limit, below=below, check=attempt.check
        ),
    )


def _logged(attempt: Attempt, layer: Layer) -> Layer:
    """The layer, its warnings in the log."""
    for warning in layer.warnings:
        attempt.log.system(f"warning: {warning}")
    return layer


def _name_of(toolchain: Provided, source: LayerSource) -> str:
    """The name of a layer that is one file of a toolchain, from all that decides its bytes; "" for others."""
    digest = toolchain.files.get(source.source, "")
    return digest and _name(source, digest)


def _name(source: LayerSource, file: str = "") -> str:
    """What a stored layer is named by, beside what it was made of."""
    parts = {"format": FORMAT, "file": file, "dest": source.dest, "by": source.created_by}
    return "layer-" + digest_of(parts)[7:39]


def _stored(attempt: Attempt, host: Path, source: LayerSource, limit: int, folder: Path) -> Layer:
    """A runtime's own file, or the stored result of a step, as a layer. It is large and the same for many artifacts,
    so a node compresses it once."""
    about, blob = folder / "layer.json", folder / "layer.tar.gz"
    with suppress(OSError, ValueError, TypeError):
        layer = Layer(path=blob, created_by=source.created_by, **json.loads(about.read_text(encoding="utf-8")))
        if blob.stat().st_size == layer.size:
            return _within(layer, limit)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".partial-") as partial:
        out = Path(partial, blob.name)
        made = write_layer([(host, source.dest)], out, created_by=source.created_by, limit=limit, check=attempt.check)
        _logged(attempt, made)
        facts = {name: getattr(made, name) for name in ("digest", "diff_id", "size", "unpacked")}
        Path(partial, about.name).write_text(json.dumps(facts), encoding="utf-8")
        with out.open("rb") as file:
            os.fsync(file.fileno())  # its size alone is looked at later, which a file has before its bytes
        folder.mkdir(exist_ok=True)
        out.rename(blob)
        Path(partial, about.name).rename(about)  # last: it marks the other as whole
    return _within(replace(made, path=blob), limit)


def _within(layer: Layer, limit: int) -> Layer:
    if layer.unpacked > limit:
        message = f"the artifact is larger than the limit, by {layer.unpacked} bytes of {layer.created_by}"
        raise BuildError("ArtifactTooLarge", message, limit=limit, peak=layer.unpacked)
    return layer


def push(attempt: Attempt, packaged: Packaged) -> Artifact:
    """By digest, and to this attempt's tag."""
    target = attempt.grant.destination
    pushed = attempt.node.destination(attempt).push(packaged.image, target.repository, target.tag)
    summary = f"{pushed.reference}: {pushed.uploaded_blobs} blobs sent, {pushed.existing_blobs} were there"
    return Artifact(
        digest=pushed.digest,
        summary=summary,
        config=packaged.image.config,
        materials=packaged.materials,
    )
