"""What the control side itself finds out about an artifact before it attests: the node's message in its form, then the
manifest that the attempt's tag points at. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.contract import materials
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.images import wasm
from builder.images.component import MOST_NAMES, Component, require_servable
from builder.images.destination import DIGEST, Manifest
from builder.images.image import CONFIG_BYTES, CONFIG_TYPE, MANIFEST_TYPE
from builder.plan import PLATFORM
from builder.text import strangers_json, visible

MOST_LAYERS = 1000
_MANIFEST_TYPES = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
_CONFIG_TYPES = (CONFIG_TYPE, "application/vnd.docker.container.image.v1+json", wasm.CONFIG_TYPE)
_SHOWN = 100


class ArtifactRefused(Exception):
    """An artifact is not what it has to be; the text names how."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a manifest lists: its config, and the bytes that a puller transfers."""

    config_digest: str
    config_size: int
    size_bytes: int
    component: str = ""
    """The digest of the component, where the artifact is one."""


def reported(success: pb.BuiltArtifact) -> pb.BuiltArtifact:
    """What is stored of a node's message: digest, config, materials, the start check.

    A config that is too long is left to be read. Reference and size are the control side's to find. Raises
    `ArtifactRefused`.
    """
    if not DIGEST.fullmatch(success.digest):
        raise ArtifactRefused(f"the digest {_shown(success.digest)} is no sha256 digest")
    if len(success.materials) > materials.MOST:
        raise ArtifactRefused(f"{len(success.materials)} materials are more than {materials.MOST}")
    kept = pb.BuiltArtifact(digest=success.digest)
    if len(success.config) <= materials.CONFIG_BYTES:
        kept.config = success.config
    for one in success.materials:
        if not one.name or len(one.name) > materials.NAME_CHARACTERS or visible(one.name) != one.name:
            raise ArtifactRefused(f"the material name {_shown(one.name)} is empty, too long or not printable")
        if not materials.DIGEST.fullmatch(one.digest):
            raise ArtifactRefused(f"the material {_shown(one.name)} has the digest {_shown(one.digest)}")
        kept.materials.add(name=one.name, digest=one.digest)
    if success.HasField("start_check"):
        kept.start_check.CopyFrom(_start(success.start_check))
    return kept


def _start(found: pb.StartCheck) -> pb.StartCheck:
    """What a node saw of the start, in its form. Raises `ArtifactRefused`."""
    message = found.message
    if found.status not in pb.StartStatus.values() or found.status == pb.START_STATUS_UNSPECIFIED:
        raise ArtifactRefused(f"the start check has the status {found.status}")
    if len(message) > materials.START_CHARACTERS or visible(message) != message:
        raise ArtifactRefused(f"the start check says {_shown(message)}, which is too long or not printable")
    if not (0 <= found.cold_start_ms <= materials.START_MS and 0 <= found.memory_bytes <= materials.START_BYTES):
        raise ArtifactRefused(f"the start check measured {found.cold_start_ms} ms and {found.memory_bytes} bytes")
    return pb.StartCheck(
        status=found.status, message=message, cold_start_ms=found.cold_start_ms, memory_bytes=found.memory_bytes
    )


def described(manifest: Manifest) -> Described:
    """The manifest of one image, read. Raises `ArtifactRefused`."""
    value = _object(manifest.body, "manifest")
    media_type = value.get("mediaType", manifest.media_type)
    if media_type not in _MANIFEST_TYPES:
        raise ArtifactRefused(f"{manifest.digest} is no image manifest but {_shown(media_type)}")
    config, layers = value.get("config"), value.get("layers")
    if not isinstance(config, dict) or config.get("mediaType") not in _CONFIG_TYPES:
        raise ArtifactRefused(f"the manifest {manifest.digest} names no image config")
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise ArtifactRefused(f"the manifest {manifest.digest} has no list of at most {MOST_LAYERS} layers")
    sizes = [_size(part, manifest.digest) for part in (config, *layers)]
    if sizes[0] > CONFIG_BYTES:
        raise ArtifactRefused(f"the config of {manifest.digest} has {sizes[0]} bytes, limit {CONFIG_BYTES}")
    component = _component_of(layers, manifest.digest) if config["mediaType"] == wasm.CONFIG_TYPE else ""
    return Described(
        config_digest=config["digest"],
        config_size=sizes[0],
        size_bytes=len(manifest.body) + sum(sizes),
        component=component,
    )


def _component_of(layers: list[Any], digest: str) -> str:
    """The one layer of a component's artifact."""
    if len(layers) != 1 or layers[0].get("mediaType") != wasm.LAYER_TYPE:
        raise ArtifactRefused(f"the manifest {digest} of a component has not one layer of the type {wasm.LAYER_TYPE}")
    return str(layers[0]["digest"])


def check_config(config: bytes, found: Described, digest: str) -> None:
    """Raises `ArtifactRefused` for the config of an image that is for another platform, or of a component that no host
    of WASI 0.2 can serve."""
    value = _object(config, "config")
    if found.component:
        return _check_component(value, found.component, digest)
    platform = f"{value.get('os')}/{value.get('architecture')}"
    if platform != PLATFORM:
        raise ArtifactRefused(f"the image {digest} is for {_shown(platform)}, not {PLATFORM}")


def _check_component(value: Mapping[str, Any], layer: str, digest: str) -> None:
    platform = f"{value.get('os')}/{value.get('architecture')}"
    if platform != wasm.PLATFORM:
        raise ArtifactRefused(f"the component {digest} is for {_shown(platform)}, not {wasm.PLATFORM}")
    if value.get("layerDigests") != [layer]:
        raise ArtifactRefused(f"the config of {digest} names other layers than its manifest")
    shape = value.get("component")
    names = [shape.get(kind) if isinstance(shape, dict) else None for kind in ("imports", "exports")]
    imports, exports = (
        tuple(each)
        if isinstance(each, list) and len(each) <= MOST_NAMES and all(isinstance(x, str) for x in each)
        else None
        for each in names
    )
    if imports is None or exports is None:
        raise ArtifactRefused(f"the config of {digest} does not say what the component imports and exports")
    try:
        require_servable(Component(imports=imports, exports=exports), digest)
    except BuildError as error:
        raise ArtifactRefused(f"{digest}: {error.message}") from None


def _size(descriptor: Any, where: str) -> int:
    """The size in a descriptor (image-spec, descriptor.md)."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    size = descriptor.get("size") if isinstance(descriptor, dict) else None
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest) or type(size) is not int or size < 0:
        raise ArtifactRefused(f"the manifest {where} has a descriptor without digest or size")
    return size


def _object(body: bytes, what: str) -> Mapping[str, Any]:
    try:
        value = strangers_json(body)
    except (ValueError, RecursionError):
        raise ArtifactRefused(f"the {what} is no JSON") from None
    if not isinstance(value, dict):
        raise ArtifactRefused(f"the {what} is no JSON object")
    return value


def _shown(text: object) -> str:
    return f'"{visible(str(text), limit=_SHOWN)}"'
