"""The canonical archive of an unpacked, checked source: the same tree gives the same bytes on every node.

A plain tar of folders, files and links by path: owner 0:0, modes 0755 or 0644, one time. A Job gets the source as this
archive, and nothing else of what a user sent.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.errors import BuildError, PlatformError
from builder.images.gather import EntryKind, LayerEntry
from builder.images.layer import tar_header
from builder.source.below import open_file, walk
from builder.source.digest import code_hash
from builder.source.write import from_disk

BLOCK, RECORD = 1024 * 1024, 512
PAGE = 4096
"""What a file system gives out at once: a byte takes so much of a disk, and so do a name and what is known of it."""

MTIME = 315_619_200
"""1980-01-02: no ZIP has an earlier time, so that tools which pack the source work in every time zone."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """An archive on this node: hex digest and bytes of the file, and the most bytes of a disk that what is in it takes
    once it is unpacked."""

    path: Path
    sha256: str
    size: int
    unpacked: int


def write_archive(
    root: Path,
    out: Path,
    *,
    limit: int,
    check: Callable[[], None] = lambda: None,
    folder: str = "",
    part: Callable[[str], bool] | None = None,
) -> Archive:
    """Write the tree below `root` to `out`, which is made anew. `check` is asked before each file and each MiB.

    `folder`: what lies below it alone, by its path from `root`; empty for all of it. `part`: whether a file or link, by
    its path, is part of it; of the folders only those above one are then. None for the whole tree.

    Raises `BuildError` ArchiveTooLarge over `limit` bytes, `PlatformError` NodeDiskFull, Internal.
    """
    hasher, size = hashlib.sha256(), 0
    try:
        with out.open("xb") as file:
            entries = _entries(root, f"{folder}/" if folder else "", part)
            for data in _pieces(root, entries, check):
                size += len(data)
                if size > limit:
                    raise BuildError("ArchiveTooLarge", f"the source has more than {limit} bytes as an archive")
                hasher.update(data)
                file.write(data)
    except OSError as error:
        raise from_disk(error) from error
    return Archive(path=out, sha256=hasher.hexdigest(), size=size, unpacked=sum(map(_on_disk, entries)))


def _on_disk(entry: LayerEntry) -> int:
    """The most bytes of a disk that an entry takes: its content in whole pages, and one for its inode, the blocks that
    its content is found by, and its name in its folder; a folder's or a link's own page is that one."""
    return -(-entry.size // PAGE) * PAGE + PAGE


def context_hash(root: Path) -> str:
    """The digest of the folder that becomes an image: what changes elsewhere in the source changes no image.

    Raises `PlatformError` for a disk that fails.
    """
    try:
        return code_hash(root)
    except OSError as error:
        raise from_disk(error) from error


def _pieces(root: Path, entries: Iterable[LayerEntry], check: Callable[[], None]) -> Iterator[bytes]:
    for entry in entries:
        check()
        yield tar_header(entry, MTIME)
        if entry.kind is EntryKind.FILE:
            yield from _content(root, entry, check)
    yield bytes(2 * RECORD)


def _content(root: Path, entry: LayerEntry, check: Callable[[], None]) -> Iterator[bytes]:
    left = entry.size
    with open(open_file(root, os.fsdecode(entry.name)), "rb", buffering=0) as file:
        while left:
            check()
            data = file.read(min(left, BLOCK))
            if not data:
                raise PlatformError("Internal", "the source changed while it was packed")
            left -= len(data)
            yield data
    yield bytes(-entry.size % RECORD)


def _entries(root: Path, below: str, part: Callable[[str], bool] | None) -> list[LayerEntry]:
    """By the parts of their paths, so that a folder comes before what is in it."""
    found: dict[bytes, LayerEntry] = {}
    for one in walk(root):
        if not one.path.startswith(below):
            continue
        if part is not None and (stat.S_ISDIR(one.mode) or not part(one.path)):
            continue
        name = os.fsencode(one.path)
        for above in PurePosixPath(one.path).parents:
            if (folder := os.fsencode(above)) != b".":
                found.setdefault(folder, LayerEntry(name=folder, kind=EntryKind.FOLDER, mode=0o755))
        if stat.S_ISDIR(one.mode):
            found[name] = LayerEntry(name=name, kind=EntryKind.FOLDER, mode=0o755)
        elif stat.S_ISLNK(one.mode):
            target = os.fsencode(os.readlink(one.name, dir_fd=one.folder))
            found[name] = LayerEntry(name=name, kind=EntryKind.LINK, mode=0o777, target=target)
        elif stat.S_ISREG(one.mode):
            size = os.stat(one.name, dir_fd=one.folder, follow_symlinks=False).st_size
            mode = 0o755 if one.mode & stat.S_IXUSR else 0o644
            found[name] = LayerEntry(name=name, kind=EntryKind.FILE, mode=mode, size=size)
    return sorted(found.values(), key=lambda entry: entry.name.split(b"/"))
