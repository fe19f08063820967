"""Images: config and manifest as canonical bytes (OCI image-spec v1.1, config.md and manifest.md). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError
from builder.images.layer import Layer
from builder.text import canonical_json

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
CONFIG_BYTES = 1024 * 1024
"""The most bytes of the config of an artifact, which is parsed in memory."""
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CREATED = "1970-01-01T00:00:00Z"


@dataclass(frozen=True, kw_only=True)
class Platform:
    os: str = "linux"
    architecture: str = "amd64"


@dataclass(frozen=True, kw_only=True)
class BaseImage:
    """An image to put layers on: `digest` of its manifest, layers lowest first with their blobs on disk."""

    name: str
    digest: str
    layers: tuple[Layer, ...]
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    platform: Platform = Platform()


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How the app is started. `env` comes after the base's and replaces what has the same name."""

    entrypoint: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str = "65532:65532"
    labels: tuple[tuple[str, str], ...] = ()
    ports: tuple[int, ...] = (80,)


@dataclass(frozen=True, kw_only=True)
class Image:
    """Ready to push: manifest and config as bytes, all layers (the base's first)."""

    manifest: bytes
    config: bytes
    digest: str
    layers: tuple[Layer, ...]
    media_type: str = MANIFEST_TYPE

    @property
    def config_digest(self) -> str:
        return digest_of(self.config)

    @property
    def size_bytes(self) -> int:
        """Everything a puller transfers: manifest, config and compressed layers."""
        return len(self.manifest) + len(self.config) + sum(layer.size for layer in self.layers)


def canonical(value: object) -> bytes:
    """JSON with sorted keys, no whitespace, UTF-8. Raises `BuildError` InvalidRequest for text that is no Unicode."""
    try:
        return canonical_json(value)
    except UnicodeEncodeError:
        raise BuildError("InvalidRequest", "an image setting holds text that is not Unicode") from None


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    """A descriptor (image-spec, descriptor.md) of `data`."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def build_image(
    base: BaseImage | None, layers: tuple[Layer, ...], config: ImageConfig, platform: Platform | None = None
) -> Image:
    """Put `layers` (lowest first) on `base`. The same arguments give the same bytes.

    Raises `BuildError` Internal when the base is for another platform.
    """
    platform = platform or (base.platform if base else Platform())
    if base is not None and base.platform != platform:
        raise BuildError(
            "Internal", f"base {base.name} is for {base.platform.architecture}, not {platform.architecture}"
        )
    all_layers = (*(base.layers if base else ()), *layers)
    annotations: dict[str, str] = {}
    if base is not None:
        annotations = {
            "org.opencontainers.image.base.digest": base.digest,
            "org.opencontainers.image.base.name": base.name,
        }
    return image_of(canonical(_config(base, all_layers, config, platform)), all_layers, annotations)


def image_of(config: bytes, layers: tuple[Layer, ...], annotations: Mapping[str, str] | None = None) -> Image:
    """The image of a config and its layers, lowest first."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    body = canonical(manifest)
    return Image(manifest=body, config=config, digest=digest_of(body), layers=layers)


def _config(
    base: BaseImage | None, layers: tuple[Layer, ...], config: ImageConfig, platform: Platform
) -> Mapping[str, Any]:
    env = dict(base.env if base else ()) | dict(config.env)
    run: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in env.items()],
        "WorkingDir": config.workdir,
        "User": config.user,
    }
    if config.entrypoint:
        run["Entrypoint"] = list(config.entrypoint)
    labels = dict(base.labels if base else ()) | dict(config.labels)
    if labels:
        run["Labels"] = labels
    if config.ports:
        run["ExposedPorts"] = {f"{port}/tcp": {} for port in config.ports}
    return {
        "created": CREATED,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": CREATED, "created_by": layer.created_by} for layer in layers],
    }
