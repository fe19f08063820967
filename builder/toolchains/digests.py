"""Digests of what compiles, over names and contents. A file is hashed again only when its size or time has changed.

A process that lives for one build finds the digests of earlier ones in a file (`remember_in`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

File = tuple[str, int, int]
"""Path below the root, size, time of the last change in ns."""

_known: dict[tuple[str, tuple[str, ...] | None], tuple[tuple[File, ...], str]] = {}
_memory: list[Path] = []


def remember_in(file: Path) -> None:
    """From here on look for digests in this file too, and write those there that it lacks. It is as trusted as the
    node's folder, where it lies."""
    _memory[:] = [file]


def digest_of(root: Path, names: tuple[str, ...] | None = None) -> str:
    """SHA-256 over the files `names` below `root` that are there; without names over all of them but bytecode."""
    files = tuple(sorted(_below(str(root)))) if names is None else tuple(_named(str(root), names))
    known = _known.get((str(root), names))
    if known is None or known[0] != files:
        known = _known[str(root), names] = (files, _remembered(root, names, files))
    return known[1]


def _remembered(root: Path, names: tuple[str, ...] | None, files: tuple[File, ...]) -> str:
    if not _memory:
        return _hash(root, files)
    (memory,) = _memory
    name = f"{root} {names}"
    inodes = [(info.st_ino, info.st_ctime_ns) for info in (os.stat(root / name) for name, *_ in files)]
    stamp = hashlib.sha256(repr((files, inodes)).encode()).hexdigest()  # ctime: nobody can set it back
    kept: dict[str, list[str]] = {}
    with suppress(OSError, ValueError):
        kept = json.loads(memory.read_text(encoding="utf-8"))
    found = kept.get(name)
    if found is not None and found[0] == stamp:
        return found[1]
    digest = _hash(root, files)
    with suppress(OSError):  # a folder that cannot be written costs time only
        memory.parent.mkdir(parents=True, exist_ok=True)
        fresh = memory.with_name(f"{memory.name}.{os.getpid()}")
        fresh.write_text(json.dumps(kept | {name: [stamp, digest]}), encoding="utf-8")
        fresh.replace(memory)
    return digest


def _hash(root: Path, files: tuple[File, ...]) -> str:
    hasher = hashlib.sha256()
    for name, *_ in files:
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
