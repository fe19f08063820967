"""WebAssembly components as OCI artifacts: the layout of CNCF's TAG Runtime ("Wasm OCI Artifact"), that `wkg`, Spin and
wasmCloud read as well. One layer, the component itself; a config that names what it imports and exports; no base image.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from builder.errors import BuildError, PlatformError
from builder.images.component import Component
from builder.images.gather import open_source
from builder.images.image import CREATED, MANIFEST_TYPE, Image, canonical, descriptor, digest_of
from builder.images.layer import Layer

CONFIG_TYPE = "application/vnd.wasm.config.v0+json"
LAYER_TYPE = "application/wasm"
PLATFORM = "wasip2/wasm"
OS, ARCHITECTURE = PLATFORM.split("/")
BLOCK = 1024 * 1024


def component_layer(
    source: Path,
    out: Path,
    *,
    below: Path | None = None,
    limit: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> Layer:
    """Copy a component to `out` as it is, which makes it the layer. `below` is as of `write_layer`.

    Raises `BuildError` StepFailed where the build left none or a link, ArtifactTooLarge, `PlatformError` NodeDiskFull.
    """
    try:
        fd = open_source(source, below)
    except OSError:
        raise BuildError("StepFailed", f"the build left no component {source.name}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BuildError("StepFailed", f"the build left no file {source.name}")
    hasher, size = hashlib.sha256(), 0
    with open(fd, "rb", buffering=0) as file:
        with suppress(FileNotFoundError):
            out.unlink()
        try:
            with out.open("xb") as copy:
                while data := file.read(BLOCK):
                    check()
                    size += len(data)
                    if limit is not None and size > limit:
                        raise BuildError("ArtifactTooLarge", f"the artifact has more than {limit} bytes")
                    hasher.update(data)
                    copy.write(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise PlatformError(
                    "NodeDiskFull", "the component cannot be copied: the node's disk is full"
                ) from error
            raise
    digest = f"sha256:{hasher.hexdigest()}"
    return Layer(path=out, digest=digest, diff_id=digest, size=size, media_type=LAYER_TYPE, unpacked=size)


def component_image(layer: Layer, found: Component) -> Image:
    """The artifact of a component. The same arguments give the same bytes."""
    config = canonical(
        {
            "created": CREATED,
            "architecture": ARCHITECTURE,
            "os": OS,
            "layerDigests": [layer.digest],
            "component": {"imports": list(found.imports), "exports": list(found.exports)},
        }
    )
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, config),
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}],
    }
    body = canonical(manifest)
    return Image(manifest=body, config=config, digest=digest_of(body), layers=(layer,))
