"""The read-only view through which every pipeline sees a source. Hostile links and sizes are handled here."""

from __future__ import annotations

import codecs
import hashlib
import os
import posixpath
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from builder.errors import BuildError
from builder.globs import path_glob
from builder.source import below

READ_LIMIT = 1024 * 1024
_SKIPPED = frozenset((".git",))


class Tree(Protocol):
    """A tree of files; paths are relative, with `/`."""

    def files(self) -> tuple[str, ...]:
        """All regular files, sorted."""
        ...

    def has(self, path: str) -> bool:
        """Whether there is a regular file at this path."""
        ...

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        """All of it, by its byte order mark or else as UTF-8 (bad bytes replaced).

        Raises `BuildError` ManifestInvalid above `limit` bytes, FileNotFoundError for what `has` denies.
        """
        ...

    def has_mark(self, path: str) -> bool:
        """Whether a file that `has` knows begins with a byte order mark, which its own tool may not read."""
        ...

    def glob(self, pattern: str) -> tuple[str, ...]:
        """The files whose whole path matches; `*` and `?` do not cross `/`, `**/` is any number of folders."""
        ...


def match(files: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """The paths that match a glob pattern; `**/` is any number of folders, also none."""
    glob = path_glob(pattern)
    return tuple(path for path in files if glob.matches(path))


def relative(path: str, folder: str) -> str:
    """`path` as it is written in `folder`; both are relative to one root. `.` is the folder itself.

    `posixpath.relpath` asks for the current folder, which may be gone, though it is of no account.
    """
    there, here = _steps(path), _steps(folder)
    shared = len(posixpath.commonprefix([there, here]))
    return "/".join((*[".."] * (len(here) - shared), *there[shared:])) or "."


def _steps(path: str) -> list[str]:
    return [step for step in posixpath.normpath(path).split("/") if step != "."]


class DictTree:
    """A tree in memory, for tests and single files."""

    def __init__(self, contents: Mapping[str, str | bytes]) -> None:
        self._contents = dict(contents)

    def files(self) -> tuple[str, ...]:
        return tuple(sorted(self._contents))

    def has(self, path: str) -> bool:
        return path in self._contents

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        if path not in self._contents:
            raise FileNotFoundError(path)
        return _decode(path, self._data(path), limit)

    def has_mark(self, path: str) -> bool:
        return _is_marked(self._data(path))

    def _data(self, path: str) -> bytes:
        value = self._contents[path]
        return value.encode() if isinstance(value, str) else value

    def glob(self, pattern: str) -> tuple[str, ...]:
        return match(self.files(), pattern)


class DirTree:
    """A tree on disk. A link to a file inside of `root` is that file; other links and what is no file are not here.

    No look follows a link that a build step may have made (`below.py`). `root` itself may be no link, and is read when
    it is first asked for: OSError where that cannot be.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files: tuple[str, ...] | None = None
        self._names: frozenset[str] = frozenset()

    def files(self) -> tuple[str, ...]:
        if self._files is None:
            found = below.walk(self._root, skip=_SKIPPED)
            self._files = tuple(sorted(one.path for one in found if self._is_file(one)))
            self._names = frozenset(self._files)
        return self._files

    def has(self, path: str) -> bool:
        self.files()
        return path in self._names

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        if not self.has(path):
            raise FileNotFoundError(path)
        with open(below.open_file(self._root, path), "rb") as file:
            return _decode(path, file.read(limit + 1), limit)

    def has_mark(self, path: str) -> bool:
        with open(below.open_file(self._root, path), "rb") as file:
            return _is_marked(file.read(_LONGEST_MARK))

    def copy(self, path: str, dest: Path | str, folder: int | None = None) -> None:
        """Copy the bytes of a file that `has` knows, and whether it is executable, to `dest`, which is none yet.

        `folder`: the descriptor of the folder that `dest` names a file of.
        """
        with (
            open(below.open_file(self._root, path), "rb") as file,
            open(os.open(dest, below.NEW, 0o666, dir_fd=folder), "wb") as out,
        ):
            shutil.copyfileobj(file, out)
            if os.fstat(file.fileno()).st_mode & stat.S_IXUSR:
                os.fchmod(out.fileno(), 0o755)

    def sha256(self, path: str) -> str:
        """The digest of a file that `has` knows, "sha256:<hex>", whatever its size."""
        with open(below.open_file(self._root, path), "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()

    def glob(self, pattern: str) -> tuple[str, ...]:
        return match(self.files(), pattern)

    def _is_file(self, one: below.Walked) -> bool:
        """Whether it is a regular file, or a link that leads to one below the root."""
        if not stat.S_ISLNK(one.mode):
            return stat.S_ISREG(one.mode)
        try:
            os.close(below.open_file(self._root, one.path))
        except OSError:  # it dangles, turns in a circle or leads out
            return False
        return True


class SubTree:
    """A folder of a tree, as a tree."""

    def __init__(self, tree: Tree, folder: str) -> None:
        self._tree = tree
        self._below = folder.rstrip("/") + "/"

    def files(self) -> tuple[str, ...]:
        return tuple(path.removeprefix(self._below) for path in self._tree.files() if path.startswith(self._below))

    def has(self, path: str) -> bool:
        return self._tree.has(self._below + path)

    def read_text(self, path: str, limit: int = READ_LIMIT) -> str:
        return self._tree.read_text(self._below + path, limit)

    def has_mark(self, path: str) -> bool:
        return self._tree.has_mark(self._below + path)

    def glob(self, pattern: str) -> tuple[str, ...]:
        return match(self.files(), pattern)


def _decode(path: str, data: bytes, limit: int) -> str:
    if len(data) > limit:
        raise BuildError("ManifestInvalid", f"{path} is larger than {limit} bytes", where=path)
    mark, encoding = next((pair for pair in _MARKS if data.startswith(pair[0])), (b"", "utf-8"))
    return data[len(mark) :].decode(encoding, "replace")


def _is_marked(data: bytes) -> bool:
    return data.startswith(tuple(mark for mark, _ in _MARKS))


_LONGEST_MARK = 4
# Windows' tools write them: PowerShell's `>` UTF-16, Notepad UTF-8. That of UTF-32 starts as that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
