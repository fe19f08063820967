"""Digests of what compiles, over names and contents. A file is hashed again only when its state has changed.

A process that lives for one build finds the digests of earlier ones in a file (`remember_in`).
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from builder.toolchains.states import State, is_settled, state_in

File = tuple[str, State]
"""Path below the root, and the state of the file there."""

_known: dict[tuple[str, tuple[str, ...] | None], tuple[tuple[File, ...], str]] = {}
_memory: list[Path] = []


def remember_in(file: Path) -> None:
    """From here on look for digests in this file too, and write those there that it lacks. It is as trusted as the
    node's folder, where it lies."""
    _memory[:] = [file]


def digest_of(root: Path, names: tuple[str, ...] | None = None) -> str:
    """SHA-256 over the files `names` below `root` that are there; without names over all of them but bytecode.

    Files of which one changed a moment ago are hashed at each call.
    """
    at = time.time_ns()
    files = tuple(sorted(_below(str(root)))) if names is None else tuple(_named(str(root), names))
    known = _known.get((str(root), names))
    if known is not None and known[0] == files:
        return known[1]
    if not all(is_settled(state, at) for _, state in files):
        return _hash(root, files)
    digest = _remembered(root, names, files)
    _known[str(root), names] = files, digest
    return digest


def _remembered(root: Path, names: tuple[str, ...] | None, files: tuple[File, ...]) -> str:
    if not _memory:
        return _hash(root, files)
    (memory,) = _memory
    name = f"{root} {names}"
    stamp = hashlib.sha256(repr(files).encode()).hexdigest()
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
    for name, _ in files:
        data = (root / name).read_bytes()
        hasher.update(f"{len(name)}:{name}:{len(data)}:".encode() + data)
    return "sha256:" + hasher.hexdigest()


def _named(root: str, names: tuple[str, ...]) -> Iterator[File]:
    for name in names:
        try:
            info = os.stat(os.path.join(root, name))
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(info.st_mode):
            yield name, state_in(info)


def _below(root: str, inside: str = "") -> Iterator[File]:
    """Links to files count as files, links to folders are not entered."""
    with os.scandir(os.path.join(root, inside)) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name != "__pycache__":
                    yield from _below(root, f"{inside}{entry.name}/")
            elif entry.is_file():
                yield inside + entry.name, state_in(entry.stat())
