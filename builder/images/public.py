"""Images of public registries: a reference as people write it → an image whose blobs lie on this disk, verified.

A reference without a digest is resolved when it is fetched. What it is from then on is what the store has: the digest
joins the build key, and `runtimes fetch --refresh` alone moves it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from builder.errors import BuildError, PlatformError
from builder.images.destination import DIGEST, REPOSITORY, TAG, Destination
from builder.images.image import CONFIG_TYPE, INDEX_TYPE, MANIFEST_TYPE, Image, Platform
from builder.images.store import OCI_LAYER, layers_of
from builder.images.unpack import IS_PACKED
from builder.text import size, strangers_json, visible

DOCKER_HUB = "docker.io"
DOCKER_API = "registry-1.docker.io"
"""Where the registry's API of `docker.io` is."""
INDEXES = (INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFESTS = (MANIFEST_TYPE, "application/vnd.docker.distribution.manifest.v2+json")
CONFIGS = (CONFIG_TYPE, "application/vnd.docker.container.image.v1+json")
LAYERS = (*IS_PACKED, *OCI_LAYER)
HOST = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.-]*(?::[0-9]{1,5})?")
MOST_BYTES = 8 * 1024**3
MOST_LAYERS = 127
MOST_CONFIG = 8 * 1024**2
"""It is read into memory; one of an official image has a few kilobytes."""

Fetch = Callable[[str, Path, Callable[[str], None]], Image]
"""Gets a reference with its blobs below a folder, and emits what it is at."""


@dataclass(frozen=True, kw_only=True)
class PublicReference:
    """`host/repository:tag@digest`; an empty tag or digest is none."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def wanted(self) -> str:
        """What the registry is asked for."""
        return self.digest or self.tag

    def __str__(self) -> str:
        return f"{self.host}/{self.repository}" + (f":{self.tag}" if self.tag else "") + self._pinned

    @property
    def _pinned(self) -> str:
        return f"@{self.digest}" if self.digest else ""


class Connect(Protocol):
    """The registry at a host."""

    def __call__(self, host: str) -> Destination: ...


def parse(text: str) -> PublicReference:
    """Read `[host/]repository[:tag][@digest]` as Docker does. Raises `BuildError` InvalidRequest."""
    name, _, digest = text.partition("@")
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        host, name = first, rest
    else:
        host = DOCKER_HUB
    name, _, tag = name.partition(":")
    if host == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    tag = tag or ("" if digest else "latest")
    if (
        not HOST.fullmatch(host)
        or not REPOSITORY.fullmatch(name)
        or (tag and not TAG.fullmatch(tag))
        or (digest and not DIGEST.fullmatch(digest))
    ):
        raise BuildError("InvalidRequest", f"{text[:200]!r} is no reference of an image")
    return PublicReference(host=host, repository=name, tag=tag, digest=digest)


def fetch_public(
    text: str, work: Path, progress: Callable[[str], None] = lambda line: None, connect: Connect | None = None
) -> Image:
    """Fetch the image of a reference for linux/amd64, its layers' blobs below `work`.

    Raises `BuildError` ToolchainUnavailable (no such image, none for this platform, layers of another kind), and as a
    registry does.
    """
    reference = parse(text)
    source = (connect or _connect)(DOCKER_API if reference.host == DOCKER_HUB else reference.host)
    progress(f"resolving {reference}")
    manifest = source.get_manifest(reference.repository, reference.wanted)
    if manifest is None:
        raise _unusable(reference, "is not there", "Correct the reference in the recipe.")
    value = _json(reference, manifest.body)
    if manifest.media_type in INDEXES:
        digest = _of_platform(reference, value, Platform())
        manifest = source.get_manifest(reference.repository, digest)
        if manifest is None:
            raise _unusable(reference, f"names {digest}, which is not there")
        value = _json(reference, manifest.body)
    if manifest.media_type not in MANIFESTS:
        kind = visible(manifest.media_type, limit=200)
        raise _unusable(reference, f"is a {kind or 'thing without a type'}, no image")
    layers = _described(reference, value)
    config = _config(reference, source, value["config"])

    def blob(digest: str) -> Path:
        return work / digest.removeprefix("sha256:")

    for number, layer in enumerate(layers, 1):
        progress(f"layer {number} of {len(layers)}, {size(layer['size'])}")
        with blob(layer["digest"]).open("wb") as out:
            left = layer["size"]
            for chunk in source.open_blob(reference.repository, layer["digest"]):
                left -= len(chunk)
                if left < 0:
                    raise _unusable(reference, f"has a layer of more than the {layer['size']} bytes that it names")
                out.write(chunk)
    try:
        image = Image(
            manifest=manifest.body,
            config=config,
            digest=manifest.digest,
            layers=layers_of(value, _json(reference, config), blob),
            media_type=manifest.media_type,
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _unusable(reference, "has a config that does not fit its layers") from None
    progress(f"{reference} is {image.digest}")
    return image


def _described(reference: PublicReference, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The descriptors of a manifest's layers, and of its config, once they can be used."""
    try:
        layers: list[dict[str, Any]] = value["layers"]
        named = [value["config"], *layers]
        if not all(DIGEST.fullmatch(each["digest"]) and each["size"] >= 0 for each in named):
            raise _unusable(reference, "names a blob by no sha256 digest")
        kinds = {str(layer["mediaType"]) for layer in layers} - set(LAYERS)
        if kinds or value["config"]["mediaType"] not in CONFIGS:
            what = ", ".join(sorted(kinds)) or str(value["config"]["mediaType"])
            raise _unusable(
                reference, f"has a {visible(what, limit=200)}; layers of tar and tar+gzip can be unpacked here"
            )
        if len(layers) > MOST_LAYERS or sum(each["size"] for each in named) > MOST_BYTES:
            raise _unusable(reference, f"has more than {MOST_LAYERS} layers or {size(MOST_BYTES)}")
        if value["config"]["size"] > MOST_CONFIG:
            raise _unusable(reference, f"has a config of more than {size(MOST_CONFIG)}")
    except (KeyError, TypeError):
        raise _unusable(reference, "has a manifest that lacks a part") from None
    return layers


def _config(reference: PublicReference, source: Destination, named: Mapping[str, Any]) -> bytes:
    """The config of an image for this platform, in the shape in which the store reads it for each build."""
    body, left = bytearray(), int(named["size"])
    for chunk in source.open_blob(reference.repository, named["digest"]):
        left -= len(chunk)
        if left < 0:
            raise _unusable(reference, f"has a config of more than the {named['size']} bytes that it names")
        body += chunk
    value, wanted = _json(reference, bytes(body)), Platform()
    found = visible(f"{value.get('os')}/{value.get('architecture')}", limit=200)
    if found != f"{wanted.os}/{wanted.architecture}":
        raise _unusable(reference, f"is for {found}, not for {wanted.os}/{wanted.architecture}")
    run = value.get("config") or {}
    env, labels = (run.get("Env") or [], run.get("Labels") or {}) if isinstance(run, dict) else (None, None)
    if (
        not (isinstance(env, list) and all(isinstance(each, str) and each.partition("=")[0] for each in env))
        or "\0" in "".join(env)
        or not (isinstance(labels, dict) and all(isinstance(each, str) for each in labels.values()))
    ):  # fmt: skip
        raise _unusable(reference, "has a config with a variable or a label that is no text, or has no name")
    return bytes(body)


def _of_platform(reference: PublicReference, index: Mapping[str, Any], wanted: Platform) -> str:
    found: list[str] = []
    entries = index.get("manifests")
    for entry in entries if isinstance(entries, list) else ():
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict):
            continue
        found.append(f"{platform.get('os')}/{platform.get('architecture')}")
        if found[-1] == f"{wanted.os}/{wanted.architecture}" and DIGEST.fullmatch(str(entry.get("digest"))):
            return str(entry["digest"])
    there = visible(", ".join(sorted(set(found))), limit=200)
    raise _unusable(reference, f"is for {there or 'nothing'}, not for linux/amd64")


def _json(reference: PublicReference, body: bytes) -> dict[str, Any]:
    try:
        value = strangers_json(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PlatformError("RegistryUnavailable", f"{reference}: the registry answered with no JSON object")
    return value


def _unusable(reference: PublicReference, why: str, step: str = "") -> BuildError:
    return BuildError("ToolchainUnavailable", f"{reference} {why}", next=step)


def _connect(host: str) -> Destination:
    from builder.images import registry  # with the HTTP client

    return registry.connect(host, access="pull")
