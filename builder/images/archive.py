"""An image as `docker save` writes it, into one of ours: its config stays byte for byte, its layers the same tars.

The archive names its parts in `manifest.json`. Layers are tars, of some engines compressed; equal ones may be links.
Nothing of a layer is unpacked here.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from builder.errors import BuildError, PlatformError
from builder.images.image import CONFIG_BYTES, Image, image_of
from builder.images.layer import Layer, press_layer
from builder.text import strangers_json

MOST_LAYERS = 1000
_GZIP = b"\x1f\x8b"


def read_archive(path: Path, folder: Path, *, limit: int, check: Callable[[], None] = lambda: None) -> Image:
    """The one image of an archive, its layers compressed into `folder`. `limit` is in bytes of all layers' tars.

    Raises `BuildError` ArtifactTooLarge, `PlatformError` NodeDiskFull, and Internal for what is no such archive, or has
    other layers than its config names.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            (row,) = strangers_json(_small(archive, "manifest.json"))
            config = _small(archive, row["Config"])
            named = [str(one) for one in strangers_json(config)["rootfs"].get("diff_ids") or ()]
            names = [str(one) for one in row["Layers"] or ()]
            if len(names) != len(named) or len(names) > MOST_LAYERS:
                raise PlatformError("Internal", f"{_WHAT} has {len(names)} layers, its config {len(named)}")
            made: dict[str, Layer] = {}
            for name, diff_id in zip(names, named, strict=True):
                if diff_id not in made:
                    left = limit - sum(one.unpacked for one in made.values())
                    made[diff_id] = _layer(archive, name, folder / f"layer-{len(made)}", left, check)
                if made[diff_id].diff_id != diff_id:
                    raise PlatformError("Internal", f"{_WHAT} has {made[diff_id].diff_id} in the place of {diff_id}")
    except (tarfile.TarError, ValueError, KeyError, TypeError, AttributeError, EOFError, zlib.error) as error:
        raise PlatformError("Internal", f"{_WHAT} cannot be read: {error!r}"[:400]) from error
    return image_of(config, tuple(made[diff_id] for diff_id in named))


_WHAT = "the archive of the image that the engine made"


def _layer(archive: tarfile.TarFile, name: str, out: Path, limit: int, check: Callable[[], None]) -> Layer:
    with _opened(archive, name) as file:
        is_pressed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        if not is_pressed:
            return press_layer(cast(Any, file), out, limit=limit, check=check)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return press_layer(cast(Any, unpacked), out, limit=limit, check=check)


def _small(archive: tarfile.TarFile, name: str) -> bytes:
    with _opened(archive, name) as file:
        data = file.read(CONFIG_BYTES + 1)
    if len(data) > CONFIG_BYTES:
        message = f"the image's config has more than {CONFIG_BYTES} bytes"
        raise BuildError("ArtifactTooLarge", message, limit=CONFIG_BYTES)
    return data


def _opened(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    """A file of the archive, also behind a link in it. Raises `ValueError` where there is none."""
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file
