"""Unpack a hostile archive into a folder. Nothing here trusts a name, a link, a size or a header.

`sniff` names its kind, the readers (`tar.py`, `zip.py`) turn bytes into `ArchiveEntry`s and refuse what two tools would
read in two ways, `limits.py` counts, `write.py` alone writes. `tarfile` and `zipfile` are not used (CVE-2025-4517,
CVE-2024-0450).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from builder.errors import BuildError
from builder.source.entry import ArchiveEntry
from builder.source.limits import ArchiveLimits, Meter
from builder.source.sniff import HEAD_BYTES, NEEDED, SourceKind, describe, is_tar, sniff
from builder.source.tar import read_tar
from builder.source.write import FolderWriter, Unpacked, from_disk
from builder.source.zip import read_zip

__all__ = ["ArchiveLimits", "Unpacked", "unpack", "unpack_file", "write_single"]


def unpack(path: Path, dest: Path, limits: ArchiveLimits) -> Unpacked:
    """Unpack the archive `path`, as `unpack_file` does."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise from_disk(error) from error
    with file:
        return unpack_file(file, dest, limits)


def unpack_file(file: FileIO, dest: Path, limits: ArchiveLimits, *, lift: bool = True) -> Unpacked:
    """Unpack the archive `file` into `dest`, which is made or is an empty folder.

    With `lift` a single folder that has everything becomes the root, and a warning names it. Files are 0755 or 0644,
    times are those of now. Raises `BuildError` NotAnArchive, ArchiveUnreadable, ArchiveUnsafe, ArchiveTooLarge,
    SourceEmpty, or `PlatformError` NodeDiskFull, Internal. `dest` may then have a part; nothing is written elsewhere.
    """
    head = file.read(HEAD_BYTES) or b""
    file.seek(0)
    meter = Meter(limits, os.fstat(file.fileno()).st_size)
    return FolderWriter(dest, meter, lift=lift).write(_entries(file, head, meter))


def _entries(file: BinaryIO, head: bytes, meter: Meter) -> Iterator[ArchiveEntry]:
    kind = sniff(head)
    if kind is SourceKind.EMPTY:
        raise BuildError("SourceEmpty", "the source has no bytes")
    if kind is SourceKind.TEXT:
        raise BuildError("NotAnArchive", "archive holds plain text; send a single file as sourceCode")
    if kind is SourceKind.OTHER:
        raise BuildError("NotAnArchive", f"this is {describe(head)}; {NEEDED}")
    if kind is not SourceKind.TAR and is_tar(head):
        message = f"this is a {kind.value} and a plain tar at once; it can be read in two ways"
        raise BuildError("ArchiveUnsafe", message)
    if kind is SourceKind.ZIP:
        return read_zip(file.fileno(), meter)
    return read_tar(file, kind)


def write_single(path_name: str, data: bytes, dest: Path) -> Unpacked:
    """A source that is one text file, written as `path_name` (relative, `/`) into `dest`, as `unpack` does.

    Raises `BuildError` SourceEmpty, NotAnArchive (it is not UTF-8 text), ArchiveTooLarge.
    """
    kind = sniff(data)
    if kind is SourceKind.EMPTY or (kind is SourceKind.TEXT and not data.strip()):
        raise BuildError("SourceEmpty", "sourceCode is empty", where="code.compile.sourceCode")
    if kind is not SourceKind.TEXT:
        raise BuildError("NotAnArchive", f"sourceCode is {_no_text(kind, data)}", where="code.compile.sourceCode")
    entry = ArchiveEntry(number=1, name=path_name, kind="file", size=len(data), data=iter((data,)))
    return FolderWriter(dest, Meter(ArchiveLimits(), len(data)), lift=False).write([entry])


def _no_text(kind: SourceKind, data: bytes) -> str:
    if kind is not SourceKind.OTHER:
        return f"a {kind.value}; send it as archive"
    if sniff(data[:HEAD_BYTES]) is SourceKind.OTHER:
        return describe(data[:HEAD_BYTES])
    return "text only at its start: it goes on with NUL or what is no UTF-8"
