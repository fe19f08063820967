"""Looks below a folder whose content is hostile: each is relative to a directory descriptor and enters no link.

A build step owns its folder: between two system calls it may replace any part of a path by a link. So no path of more
than one part is ever passed to the kernel, and a link counts as its text, which is resolved here, inside of the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe must not wait for its writer
HOPS = 40  # as Linux (path_resolution(7), ELOOP)
MOST_DEPTH = 256
"""Folders inside of each other; each costs a descriptor while it is walked. A source has 32 at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a walk met: `folder` is the descriptor of the folder that holds `name`, open until the walk goes on.

    An empty folder is one too, with an empty `name`.
    """

    path: str
    mode: int
    folder: int
    name: str


@dataclass(kw_only=True, slots=True)
class _Level:
    folder: int
    path: str
    """Below the root, with a `/` at its end; empty for the root."""
    inner: list[str] | None = field(default=None)
    """The folders still to enter; None: it was not listed yet."""


def walk(root: Path, skip: frozenset[str] = frozenset()) -> Iterator[Found]:
    """Every file, link, pipe and socket below `root`, and its empty folders, in no order. `skip`: folders by name.

    `root` itself may be no link. Raises OSError where a folder cannot be read, and for more than 256 of them inside of
    each other.
    """
    levels = [_Level(folder=os.open(root, FOLDER), path="")]
    try:
        while levels:
            level = levels[-1]
            if level.inner is None:
                level.inner = []
                yield from _listed(level, level.inner, skip)
            elif not level.inner:
                os.close(levels.pop().folder)
            elif len(levels) > MOST_DEPTH:
                raise OSError(errno.ENAMETOOLONG, f"more than {MOST_DEPTH} folders are inside of each other")
            else:
                name = level.inner.pop()
                folder = os.open(name, FOLDER, dir_fd=level.folder)
                levels.append(_Level(folder=folder, path=f"{level.path}{name}/"))
    finally:
        for level in levels:
            os.close(level.folder)


def _listed(level: _Level, inner: list[str], skip: frozenset[str]) -> Iterator[Found]:
    empty = bool(level.path)
    with os.scandir(level.folder) as entries:
        for entry in entries:
            empty = False
            mode = entry.stat(follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                yield Found(path=level.path + entry.name, mode=mode, folder=level.folder, name=entry.name)
            elif entry.name not in skip:
                inner.append(entry.name)
    if empty:
        yield Found(path=level.path[:-1], mode=stat.S_IFDIR, folder=level.folder, name="")


def is_folder(root: Path, path: str) -> bool:
    """Whether `path` names a folder below `root`, or `root` itself, and no part of it is a link."""
    with _folders(os.open(root, FOLDER)) as folders:
        try:
            for part in path.split("/") if path else ():
                folders.append(os.open(part, FOLDER, dir_fd=folders[-1]))
        except OSError:
            return False
    return True


def open_file(root: Path, path: str) -> int:
    """A descriptor of the regular file at `path` below `root`, through links that stay inside.

    Raises OSError: where there is none, where a link leads out or in a circle, where it may not be read.
    """
    with _folders(os.open(root, FOLDER)) as folders:
        todo, hops = path.split("/")[::-1], 0
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if len(folders) == 1:
                    raise OSError(errno.EXDEV, "it leads out of the source")
                os.close(folders.pop())
                continue
            mode = os.stat(part, dir_fd=folders[-1], follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                target = os.readlink(part, dir_fd=folders[-1])
                hops += 1
                if target.startswith("/") or hops > HOPS:
                    raise OSError(errno.EXDEV, "it leads out of the source, or in a circle")
                todo += target.split("/")[::-1]
            elif stat.S_ISDIR(mode):
                if len(folders) > MOST_DEPTH:
                    raise OSError(errno.ENAMETOOLONG, f"more than {MOST_DEPTH} folders are inside of each other")
                folders.append(os.open(part, FOLDER, dir_fd=folders[-1]))
            elif any(one not in ("", ".") for one in todo):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            else:
                return _regular(part, folders[-1])
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


@contextmanager
def _folders(root: int) -> Iterator[list[int]]:
    """Descriptors from the root to a folder; those that are left are closed."""
    folders = [root]
    try:
        yield folders
    finally:
        for folder in folders:
            os.close(folder)


def _regular(name: str, folder: int) -> int:
    descriptor = os.open(name, FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor
