"""Looks below a folder whose content is hostile: each is relative to a directory descriptor and enters no link.

A build step owns its folder: between two system calls it may replace any part of a path by a link. So no path of more
than one part is ever passed to the kernel, and a link counts as its text, which is resolved here, inside of the root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a pipe must not wait for its writer
NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
HOPS = 40  # as Linux (path_resolution(7), ELOOP)
MOST_DEPTH = 256
"""Folders inside of each other; each costs a descriptor while it is walked. A source has 32 at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Walked:
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


def walk(root: Path | int, skip: frozenset[str] = frozenset()) -> Iterator[Walked]:
    """Every file, link, pipe and socket below `root`, and its empty folders, in no order. `skip`: folders by name.

    `root` is a path or a descriptor.

    `root` itself may be no link. Raises OSError where a folder cannot be read, and for more than 256 of them inside of
    each other.
    """
    levels = [_Level(folder=_opened(root), path="")]
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


def _listed(level: _Level, inner: list[str], skip: frozenset[str]) -> Iterator[Walked]:
    empty = bool(level.path)
    with os.scandir(level.folder) as entries:
        for entry in entries:
            empty = False
            mode = entry.stat(follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                yield Walked(path=level.path + entry.name, mode=mode, folder=level.folder, name=entry.name)
            elif entry.name not in skip:
                inner.append(entry.name)
    if empty:
        yield Walked(path=level.path[:-1], mode=stat.S_IFDIR, folder=level.folder, name="")


@contextmanager
def folder(root: Path | int, path: str = "", made: Callable[[str, int], None] | None = None) -> Iterator[int]:
    """A descriptor of the folder at `path` below `root` (a path or a descriptor), or of `root`; no part is a link.

    With `made`, what is missing is made, and `made` gets its name and the descriptor of the folder that holds it.
    Raises OSError: where there is no folder, where the path leads out by its own text.
    """
    here = _opened(root)
    try:
        for part in path.split("/"):
            if part in ("", "."):
                continue
            if part == "..":
                raise OSError(errno.EXDEV, "it leads out of its folder")
            try:
                inner = os.open(part, FOLDER, dir_fd=here)
            except FileNotFoundError:
                if made is None:
                    raise
                os.mkdir(part, dir_fd=here)
                made(part, here)
                inner = os.open(part, FOLDER, dir_fd=here)
            os.close(here)
            here = inner
        yield here
    finally:
        os.close(here)


def write_file(folder: int, name: str, data: bytes) -> None:
    """A new file, mode 0644 whatever the umask, in the place of any file or link of this name, whose twins stay as they
    are. Raises OSError, also for a folder of this name."""
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    with open(os.open(name, NEW, 0o644, dir_fd=folder), "wb") as out:
        os.fchmod(out.fileno(), 0o644)
        out.write(data)


def _opened(root: Path | int) -> int:
    return os.open(root, FOLDER) if isinstance(root, Path) else os.dup(root)


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
                return regular_file(folders[-1], part)
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


def regular_file(folder: int, name: str) -> int:
    """A descriptor of a regular file. Raises OSError for anything else, a link too."""
    descriptor = os.open(name, FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return descriptor
