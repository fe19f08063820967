"""Digests of what compiles, over names and contents. A file is hashed again only when its size or time has changed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

File = tuple[str, int, int]
"""Path below the root, size, time of the last change in ns."""

_known: dict[tuple[str, tuple[str, ...] | None], tuple[tuple[File, ...], str]] = {}


def digest_of(root: Path, names: tuple[str, ...] | None = None) -> str:
    """SHA-256 over the files `names` below `root` that are there; without names over all of them but bytecode."""
    files = tuple(sorted(_below(str(root)))) if names is None else tuple(_named(str(root), names))
    known = _known.get((str(root), names))
    if known is None or known[0] != files:
        known = _known[str(root), names] = (files, _hash(root, files))
    return known[1]


def _hash(root: Path, files: tuple[File, ...]) -> str:
    hasher = hashlib.sha256()
    for name, _, _ in files:
        data = (root / name).read_bytes()
        hasher.update(f"{len(name)}:{name}:{len(data)}:".encode() + data)
    return "sha256:" + hasher.hexdigest()


def _named(root: str, names: tuple[str, ...]) -> Iterator[File]:
    for name in names:
        path = os.path.join(root, name)
        if os.path.isfile(path):
            info = os.stat(path)
            yield name, info.st_size, info.st_mtime_ns


def _below(root: str, inside: str = "") -> Iterator[File]:
    """Links to files count as files, links to folders are not entered."""
    with os.scandir(os.path.join(root, inside)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _below(root, f"{inside}{entry.name}/")
            elif entry.is_file():
                info = entry.stat()
                yield inside + entry.name, info.st_size, info.st_mtime_ns
