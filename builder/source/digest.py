"""`code_hash`: the digest of the canonical tree, independent of the archive's kind, order, times and owners."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from builder.source.below import FILE, Walked, walk


def code_hash(root: Path) -> str:
    """`sha256:<hex>` over sorted paths, executable bit, link targets and contents, each of known length.

    Each record is kind (`f`, `x` executable, `l` link, `d` empty folder), the path's length in 8 bytes, the path
    relative with `/`, and the sha256 of the content, the link target or nothing. A folder counts by what it holds,
    whether or not the archive names it; one that holds nothing counts itself, because it is packaged with the source.
    Raises OSError where one is unreadable.
    """
    records = [record for one in walk(root) if (record := _record(one))]
    hasher = hashlib.sha256(b"ignite-code-1")
    for path, kind, content in sorted(records):
        hasher.update(kind + len(path).to_bytes(8, "big") + path + content)
    return f"sha256:{hasher.hexdigest()}"


def _record(one: Walked) -> tuple[bytes, bytes, bytes] | None:
    """(path, kind, digest of the content); None for a pipe or socket, which is no source."""
    path = os.fsencode(one.path)
    if stat.S_ISLNK(one.mode):
        target = os.fsencode(os.readlink(one.name, dir_fd=one.folder))
        return path, b"l", hashlib.sha256(target).digest()
    if stat.S_ISDIR(one.mode):
        return path, b"d", hashlib.sha256().digest()
    if not stat.S_ISREG(one.mode):
        return None
    with open(os.open(one.name, FILE, dir_fd=one.folder), "rb", buffering=0) as file:
        content = hashlib.file_digest(file, "sha256").digest()
    return path, b"x" if one.mode & stat.S_IXUSR else b"f", content
