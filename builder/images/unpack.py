"""Layers → a folder: for `run` and as a sandbox root. The only place that extracts an image.

A layer is read within bounds and hashed as it is read; `rootfs.py` places each of its entries.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import shutil
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from builder.errors import BuildError, PlatformError
from builder.images.layer import MEDIA_TYPE, PLAIN_TYPE, Layer
from builder.images.rootfs import Rootfs
from builder.images.tar import ByteReader, Damaged, Tar
from builder.text import visible

CHUNK = 1024 * 1024
MOST_UNPACKED = 16 * 1024 * CHUNK
"""Bytes that an image may unpack into where nobody says another number."""
BESIDE = 16 * CHUNK
"""Bytes of tar beside those of entries, where there is hardly one: padding up to a block of ten KiB or one MiB."""
IS_PACKED = {MEDIA_TYPE: True, PLAIN_TYPE: False}
"""The kinds of layers that can be unpacked, and whether gzip is around the tar."""
_isal_error = cast(type[Exception], isal_zlib.IsalError)
_gunzip = cast(Callable[[IO[bytes]], IO[bytes]], igzip.open)
DAMAGED = (Damaged, EOFError, zlib.error, gzip.BadGzipFile, _isal_error)


class LayerDamaged(PlatformError):
    """A layer is no tar, or not what its `diff_id` says. Whose fault that is knows who has the image from whom."""


def require_kinds(layers: Iterable[Layer], image: str) -> None:
    """Raise `BuildError` ImageContractViolated for a layer that is compressed in another way than by gzip."""
    for layer in layers:
        if layer.media_type not in IS_PACKED:
            kind = visible(str(layer.media_type), limit=100)
            raise BuildError(
                "ImageContractViolated",
                f"{image} has a layer of the kind {kind}; tar and tar+gzip are taken",
                where=f"layer {layer.digest}",
                next="Push it again with layers of gzip. With buildx: --output type=image,compression=gzip,"
                "force-compression=true,push=true",
            )


def unpack_image(
    layers: Iterable[Layer], root: Path, *, limit: int = MOST_UNPACKED, reader: tuple[int, int] | None = None
) -> None:
    """Extract `layers` (lowest first) into `root`, which is made and must not exist. `limit` in bytes of all layers:
    what one writes counts, also where a later one removes it, and each entry `ENTRY_BYTES` more.

    `reader`: the uid and gid that the root is for. Since no owner is restored, whoever reads it is nobody's owner:
    what this user may read and enter in the image, all others may in the root.

    Raises `BuildError` ArchiveUnsafe (an entry that cannot be placed), ArtifactTooLarge, ImageContractViolated (as
    `require_kinds`), `PlatformError` NodeDiskFull, `LayerDamaged` (also for another `diff_id`), Internal. What was
    extracted so far is removed then.
    """
    layers = tuple(layers)
    require_kinds(layers, "the image")
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    room = _Room(left=limit, unread=3 * limit + BESIDE)
    try:
        for layer in layers:
            with layer.path.open("rb") as blob:
                packed = IS_PACKED[layer.media_type]
                _unpack(blob, root, room, packed=packed, diff_id=layer.diff_id, reader=reader)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def unpack_tar(blob: IO[bytes], root: Path, *, packed: bool, keep_links: bool = False) -> None:
    """Extract one tar (gzip when `packed`) over `root`; whiteouts remove what lower layers left.

    `keep_links`: a folder entry leaves a link to a folder as it is (Debian packages on a merged /usr), where an image's
    layer replaces it. Raises as `unpack_image`.
    """
    _unpack(blob, root, _Room(left=None, unread=None), packed=packed, keep_links=keep_links)


def _unpack(
    blob: IO[bytes],
    root: Path,
    room: _Room,
    *,
    packed: bool,
    diff_id: str = "",
    keep_links: bool = False,
    reader: tuple[int, int] | None = None,
) -> None:
    place = Rootfs(root, room.spend, keep_links=keep_links, reader=reader)
    hashed = _Hashed(_gunzip(blob) if packed else blob, room)
    try:
        tar = Tar(hashed)
        for entry in tar:
            place.put(entry, tar.data())
        while hashed.read(CHUNK):
            pass
    except DAMAGED as error:
        raise LayerDamaged("Internal", f"a layer is damaged: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError("NodeDiskFull", "an image could not be unpacked: the disk is full") from error
        raise PlatformError("Internal", f"an image could not be unpacked: {error.strerror}") from error
    finally:
        place.close()
    if diff_id and diff_id != "sha256:" + hashed.hasher.hexdigest():
        raise LayerDamaged("Internal", f"a layer is damaged: its content is not {visible(str(diff_id), limit=100)}")


@dataclass
class _Room:
    """What the layers of one image may still write, and may still be read of them, in bytes; None for any.

    What is read of them is an entry's header and its data, padded to a block: at most twice of what it counts. As much
    again may be headers that describe entries, and entries that are left out.
    """

    left: int | None
    unread: int | None

    def spend(self, size: int) -> None:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise BuildError("ArtifactTooLarge", "the image takes more room unpacked than it may")

    def read(self, size: int) -> None:
        if self.unread is not None:
            self.unread -= size
            if self.unread < 0:
                raise BuildError("ArtifactTooLarge", "the image has more bytes of tar than its files may")


class _Hashed:
    """A stream that is hashed and counted as it is read."""

    def __init__(self, inner: ByteReader, room: _Room) -> None:
        self.inner = inner
        self.room = room
        self.hasher = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self.inner.read(size)
        self.hasher.update(data)
        self.room.read(len(data))
        return data
