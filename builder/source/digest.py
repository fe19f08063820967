"""`code_hash`: the digest of the canonical tree, independent of the archive's kind, order, times and owners."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def code_hash(root: Path) -> str:
    """`sha256:<hex>` over sorted paths, executable bit, link targets and contents, each of known length.

    Each record is kind (`f`, `x` executable, `l` link, `d` empty folder), the path's length in 8 bytes, the path
    relative with `/`, and the sha256 of the content, the link target or nothing. A folder counts by what it holds,
    whether or not the archive names it; one that holds nothing counts itself, because it is packaged with the source.
    Raises OSError where one is unreadable.
    """
    hasher = hashlib.sha256(b"ignite-code-1")
    for path, mode, file in sorted(_walk(os.fsencode(root), b"")):
        if stat.S_ISLNK(mode):
            kind, content = b"l", hashlib.sha256(os.readlink(file)).digest()
        elif stat.S_ISDIR(mode):
            kind, content = b"d", hashlib.sha256().digest()
        else:
            kind, content = b"x" if mode & stat.S_IXUSR else b"f", _content(file)
        hasher.update(kind + len(path).to_bytes(8, "big") + path + content)
    return f"sha256:{hasher.hexdigest()}"


def _walk(folder: bytes, below: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    """(path below the root, mode, path to open) of every file, link and empty folder; a pipe or socket is no source."""
    with os.scandir(folder) as found:
        empty = bool(below)
        for one in found:
            empty = False
            mode = one.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                yield from _walk(one.path, below + one.name + b"/")
            elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                yield below + one.name, mode, one.path
        if empty:
            yield below[:-1], stat.S_IFDIR, folder


def _content(path: bytes) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").digest()
