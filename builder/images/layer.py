"""Layers: a reproducible tar.gz (OCI image-spec, layer.md) of trees that a build left, and its two digests in one pass.

The same trees give the same bytes whatever the machine's umask, times, owners, zone or directory order: entries are
sorted, times are `mtime`, owner is 0:0, modes are 0755 or 0644, extended attributes are left out, hard links become
files.

The compressor is part of the digest. It is ISA-L level 1 (package `isal`, pinned in uv.lock, its C code inside the
wheel) fed in blocks of 1 MiB: six times faster than zlib level 1 for 4 % more bytes, and it does not depend on which
zlib the worker's Python was linked with. Its output was compared across CPU models from SSE4.2 to AVX-512 (level 1 and
2 agree, level 3 does not) and differs on CPUs without SSE4.2: `compressor_is_the_known_one` compares.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from isal import isal_zlib

from builder.errors import BuildError, PlatformError
from builder.images.gather import EntryKind, Folders, LayerEntry, gather, shown

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

MEDIA_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
PLAIN_TYPE = "application/vnd.oci.image.layer.v1.tar"
BLOCK = 1024 * 1024
# RFC 1952: deflate, no name, no time, no flags, unknown system.
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
LEVEL = 1
MAX_OCTAL = 0o77777777777
ASCII = bytes(byte if byte < 128 else ord("?") for byte in range(256))
KNOWN_DIGEST = "2d5f334b8176e5ca63844b4ba8b5190bca69b334f2705f61b698b6c7c8b9b1e0"


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer on disk. `digest` and `size` (bytes) are of the compressed file, `diff_id` and `unpacked` of the tar.

    `base` names the base image that the layer is of; a registry may mount its blob from another repository.
    """

    path: Path
    digest: str
    diff_id: str
    size: int
    media_type: str = MEDIA_TYPE
    created_by: str = ""
    unpacked: int = 0
    warnings: tuple[str, ...] = ()
    base: str = ""


def write_layer(
    sources: Iterable[tuple[Path, str]],
    out: Path,
    *,
    created_by: str = "",
    limit: int | None = None,
    mtime: int = 0,
    folders: Mapping[str, int] | None = None,
    below: Path | None = None,
    check: Callable[[], None] = lambda: None,
) -> Layer:
    """Write the trees or files `sources` (host path, place in the image) as one layer to `out`.

    `folders` (place → mode) are added empty; parent folders are included once, mode 0755. `limit` is in bytes of tar.
    `mtime` in seconds since the epoch. `below`: host folder that is trusted; the rest of each source's path may be
    hostile and is walked without following links. `out` is made anew and never written through a link. `check` is asked
    before each file and each MiB of it, and may raise to end it all.

    Raises `BuildError` ArtifactTooLarge, StepFailed (a source is absent, a link, unreadable, or changed while it was
    read), `PlatformError` NodeDiskFull.
    """
    with gather(sources, folders or {}, below=below, limit=limit) as gathered, gathered.reading() as reading:
        with suppress(FileNotFoundError):
            out.unlink()
        fd = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with open(fd, "wb") as file, _Pressed(file) as pressed:
            try:
                for entry in gathered.sorted():
                    check()
                    _write_entry(pressed, entry, reading, mtime, check)
                pressed.write(bytes(1024))
                pressed.finish()
                file.flush()
            except OSError as error:
                raise _disk_trouble(error) from error
        return Layer(
            path=out,
            digest=f"sha256:{pressed.digest.hexdigest()}",
            diff_id=f"sha256:{pressed.diff_id.hexdigest()}",
            size=pressed.size,
            created_by=created_by,
            unpacked=pressed.unpacked,
            warnings=gathered.all_warnings(),
        )


def press_layer(tar: BinaryIO, out: Path, *, limit: int, check: Callable[[], None] = lambda: None) -> Layer:
    """Compress a layer that is a tar already to `out`, which is made anew. `limit` is in bytes of tar.

    Raises `BuildError` ArtifactTooLarge, `PlatformError` NodeDiskFull, and whatever reading `tar` raises but `OSError`.
    """
    with out.open("xb") as file, _Pressed(file) as pressed:
        try:
            left = limit
            while data := tar.read(BLOCK):
                check()
                if (left := left - len(data)) < 0:
                    message = f"the artifact has more than the {limit} bytes that were left for this layer"
                    raise BuildError("ArtifactTooLarge", message, limit=limit)
                pressed.write(data)
            pressed.finish()
            file.flush()
        except OSError as error:
            raise _disk_trouble(error) from error
    return Layer(
        path=out,
        digest=f"sha256:{pressed.digest.hexdigest()}",
        diff_id=f"sha256:{pressed.diff_id.hexdigest()}",
        size=pressed.size,
        unpacked=pressed.unpacked,
    )


def compressor_is_the_known_one() -> bool:
    """Whether this machine's compressor gives the bytes that other workers give; for `doctor` and a test."""
    sample = b"".join(b"%d ignite %d\n" % (number, number * number % 977) for number in range(20_000))
    compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -15)
    return hashlib.sha256(compressor.compress(sample) + compressor.flush()).hexdigest() == KNOWN_DIGEST


class _Pressed:
    """A gzip file written in fixed blocks (the compressor's output depends on them), hashed on both sides.

    While a block is compressed another thread hashes it, but the first: most layers of few files have no other.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.compressor = isal_zlib.compressobj(LEVEL, isal_zlib.DEFLATED, -15)
        self.digest = hashlib.sha256()
        self.diff_id = hashlib.sha256()
        self.buffer = bytearray()
        self.crc = 0
        self.size = 0
        self.unpacked = 0
        self._beside: ThreadPoolExecutor | None = None
        self._put(GZIP_HEADER)

    def __enter__(self) -> _Pressed:
        return self

    def __exit__(self, *_: object) -> None:
        if self._beside is not None:
            self._beside.shutdown()

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            room = BLOCK - len(self.buffer)
            self.buffer += rest[:room]
            rest = rest[room:]
            if len(self.buffer) == BLOCK:
                block, self.buffer = self.buffer, bytearray()
                self._block(block)

    def finish(self) -> None:
        self._block(self.buffer)
        self._put(self.compressor.flush())
        self._put(self.crc.to_bytes(4, "little") + (self.unpacked & 0xFFFFFFFF).to_bytes(4, "little"))

    def _block(self, data: bytearray) -> None:
        if not self.unpacked:
            self._hash(data)
            self._put(self.compressor.compress(data))
            return
        if self._beside is None:
            from concurrent.futures import (
                ThreadPoolExecutor,  # with logging, which whoever writes no layer does without
            )

            self._beside = ThreadPoolExecutor(1, thread_name_prefix="layer")
        hashed = self._beside.submit(self._hash, data)
        self._put(self.compressor.compress(data))
        hashed.result()

    def _hash(self, data: bytearray) -> None:
        self.diff_id.update(data)
        self.crc = isal_zlib.crc32(data, self.crc)
        self.unpacked += len(data)

    def _put(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        self.file.write(data)


def _write_entry(out: _Pressed, entry: LayerEntry, reading: Folders, mtime: int, check: Callable[[], None]) -> None:
    out.write(tar_header(entry, mtime))
    if entry.kind is not EntryKind.FILE:
        return
    left = entry.size
    try:
        fd = reading.open(entry)
    except OSError as error:
        raise _changed(entry) from error
    with open(fd, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise _changed(entry)
        while left:
            check()
            data = file.read(min(left, BLOCK))
            if not data:
                raise _changed(entry)
            out.write(data)
            left -= len(data)
    out.write(bytes(-entry.size % 512))


def tar_header(entry: LayerEntry, mtime: int) -> bytes:
    """A POSIX ustar header; what does not fit (long or non-ASCII names, 8 GiB) goes into a pax header before it."""
    name = entry.name + (b"/" if entry.kind is EntryKind.FOLDER else b"")
    records = b""
    if len(name) > 100 or not name.isascii():
        records += _pax(b"path", name)
    if len(entry.target) > 100 or not entry.target.isascii():
        records += _pax(b"linkpath", entry.target)
    if entry.size > MAX_OCTAL:
        records += _pax(b"size", b"%d" % entry.size)
    head = b""
    if records:
        head = (
            _ustar(b"pax/header", 0o644, len(records), 0, kind=b"x", target=b"") + records + bytes(-len(records) % 512)
        )
    return head + _ustar(
        name, entry.mode, min(entry.size, MAX_OCTAL), mtime, kind=entry.kind.value, target=entry.target
    )


def _ustar(name: bytes, mode: int, size: int, mtime: int, *, kind: bytes, target: bytes) -> bytes:
    fields = (
        _plain(name),
        b"%07o\0" % mode,
        b"0000000\0" * 2,  # uid, gid
        b"%011o\0" % size,
        b"%011o\0" % mtime,
        b" " * 8,  # the checksum counts as spaces
        kind,
        _plain(target),
        b"ustar\x0000",
        bytes(64),  # owner's and group's names
        b"0000000\0" * 2,  # device numbers
        bytes(167),
    )
    header = b"".join(fields)
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def _plain(name: bytes) -> bytes:
    return name[:100].translate(ASCII).ljust(100, b"\0")


def _pax(key: bytes, value: bytes) -> bytes:
    """`length key=value\\n`, where length counts its own digits."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) != len(str(rest)):
        length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _changed(entry: LayerEntry) -> BuildError:
    return BuildError("StepFailed", f"/{shown(entry.name)} changed or vanished while it was packaged")


def _disk_trouble(error: OSError) -> BuildError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return PlatformError("NodeDiskFull", "the layer could not be written: the node's disk is full")
    return PlatformError("Internal", f"the layer could not be written: {os.strerror(error.errno or 0)}")
