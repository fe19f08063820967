"""What goes into a layer: a sorted list of entries read from trees that a hostile build may have written.

Links are never followed, inside the tree or on the way into it: every folder is opened by a descriptor with
O_NOFOLLOW. Nothing is written here; `builder/images/layer.py` turns the entries into a tar.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.errors import BuildError
from builder.text import visible

MAX_DEPTH = 200
MAX_WARNINGS = 20
TAR_BLOCK = 512
FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
WHITEOUT = b".wh."


class EntryKind(enum.Enum):
    FOLDER = b"5"
    FILE = b"0"
    LINK = b"2"


@dataclass(frozen=True, kw_only=True)
class LayerEntry:
    """One path of the layer. `name` is relative to the image's root; `origin` is (source index, path in the source)."""

    name: bytes
    kind: EntryKind
    mode: int
    size: int = 0
    target: bytes = b""
    origin: tuple[int, tuple[bytes, ...]] = (-1, ())


@dataclass
class Gathered:
    """Entries by name, and the open roots they are read from."""

    limit: int | None
    roots: list[int] = field(default_factory=list)
    entries: dict[bytes, LayerEntry] = field(default_factory=dict)
    tar_bytes: int = 0
    skipped: int = 0
    warnings: list[str] = field(default_factory=list)

    def sorted(self) -> list[LayerEntry]:
        """By the bytes of each component, so that a folder is followed by what is in it. The same on every machine."""
        return sorted(self.entries.values(), key=lambda entry: entry.name.split(b"/"))

    def add(self, entry: LayerEntry) -> None:
        """A later source replaces a file of an earlier one; a folder stays a folder."""
        known = self.entries.get(entry.name)
        if known is not None and known.kind is not entry.kind and EntryKind.FOLDER in (known.kind, entry.kind):
            raise BuildError("Internal", f"{shown(entry.name)} is a folder in one source and not in another")
        if known is None or entry.kind is not EntryKind.FOLDER:
            self.entries[entry.name] = entry
        self.tar_bytes += TAR_BLOCK + entry.size
        if self.limit is not None and self.tar_bytes > self.limit:
            raise BuildError(
                "ArtifactTooLarge", f"the artifact has more than {self.limit} bytes (at {shown(entry.name)})"
            )

    def skip(self, name: bytes, why: str) -> None:
        self.skipped += 1
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(f"{shown(name)} was left out: {why}")

    def all_warnings(self) -> tuple[str, ...]:
        more = self.skipped - len(self.warnings)
        return (*self.warnings, *((f"{more} more entries were left out",) if more else ()))

    @contextmanager
    def reading(self) -> Iterator[Folders]:
        folders = Folders(self.roots)
        try:
            yield folders
        finally:
            folders.close()


@dataclass
class Folders:
    """Opens files below the roots. Entries come sorted, so the descriptors down to the current folder stay open."""

    roots: Sequence[int]
    source: int = -1
    path: list[bytes] = field(default_factory=list)
    open_fds: list[int] = field(default_factory=list)

    def open(self, entry: LayerEntry) -> int:
        """A descriptor of a regular file. Raises `OSError` when it is not there any more or is no regular file."""
        source, parts = entry.origin
        if not parts:
            return os.dup(self.roots[source])
        parents = list(parts[:-1])
        if source != self.source:
            self.close()
            self.source = source
        same = 0
        while same < min(len(self.path), len(parents)) and self.path[same] == parents[same]:
            same += 1
        while len(self.path) > same:
            self.path.pop()
            os.close(self.open_fds.pop())
        for name in parents[same:]:
            self.open_fds.append(os.open(name, FOLDER_FLAGS, dir_fd=self._current()))
            self.path.append(name)
        return os.open(parts[-1], FILE_FLAGS, dir_fd=self._current())

    def _current(self) -> int:
        return self.open_fds[-1] if self.open_fds else self.roots[self.source]

    def close(self) -> None:
        while self.open_fds:
            os.close(self.open_fds.pop())
        self.path.clear()


@contextmanager
def gather(
    sources: Iterable[tuple[Path, str]], folders: Mapping[str, int], *, below: Path | None, limit: int | None
) -> Iterator[Gathered]:
    """Read `sources` (tree or single file, place in the image) and `folders` (place, mode).

    The path of a source after `below` is walked without following links either; the path of `below` itself is
    trusted. Raises `BuildError` StepFailed when a source is absent, a link or unreadable, ArtifactTooLarge above
    `limit` bytes of tar or MAX_DEPTH folders.
    """
    gathered = Gathered(limit=limit)
    try:
        for place, mode in folders.items():
            parts = place_parts(place)
            _add_parents(gathered, parts[:-1])
            gathered.entries.pop(b"/".join(parts), None)
            gathered.add(LayerEntry(name=b"/".join(parts), kind=EntryKind.FOLDER, mode=mode))
        for index, (path, place) in enumerate(sources):
            _add_source(gathered, index, path, place_parts(place), below)
        yield gathered
    finally:
        for fd in gathered.roots:
            os.close(fd)


def place_parts(place: str) -> tuple[bytes, ...]:
    """`/app/site` → (b"app", b"site"). Raises `BuildError` Internal for a place that is not absolute and plain."""
    parts = tuple(part for part in place.split("/") if part)
    if not place.startswith("/") or any(part in (".", "..") or "\0" in part for part in parts):
        raise BuildError("Internal", f"{place!r} is no absolute, normalized path in an image")
    return tuple(os.fsencode(part) for part in parts)


def shown(name: bytes) -> str:
    """A hostile name for people; "/" for the root."""
    return visible(name) or "/"


def _add_parents(gathered: Gathered, parts: tuple[bytes, ...]) -> None:
    for end in range(1, len(parts) + 1):
        name = b"/".join(parts[:end])
        if name not in gathered.entries:
            gathered.add(LayerEntry(name=name, kind=EntryKind.FOLDER, mode=0o755))


def _add_source(gathered: Gathered, index: int, path: Path, place: tuple[bytes, ...], below: Path | None) -> None:
    where = "/" + shown(b"/".join(place)).lstrip("/")
    try:
        root = open_source(path, below)
    except OSError as error:
        raise _unreadable(where, error) from None
    gathered.roots.append(root)
    info = os.fstat(root)
    if stat.S_ISREG(info.st_mode):
        if not place:
            raise BuildError("Internal", f"{path.name} is a file and needs a name in the image")
        _add_parents(gathered, place[:-1])
        gathered.add(_file_entry(b"/".join(place), info, (index, ())))
    elif stat.S_ISDIR(info.st_mode):
        _add_parents(gathered, place)
        _walk(gathered, root, _At(index, place))
    else:
        raise BuildError("StepFailed", f"the build left neither a file nor a folder for {where}")


def open_source(path: Path, below: Path | None) -> int:
    """A descriptor of a source; no link is followed below the folder `below`, which is trusted. Raises OSError."""
    if below is None:
        return os.open(path, FILE_FLAGS)
    parts = path.relative_to(below).parts
    if not parts:
        return os.open(below, FOLDER_FLAGS)
    folder = os.open(below, FOLDER_FLAGS)
    try:
        for part in parts[:-1]:
            inner = os.open(part, FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = inner
        return os.open(parts[-1], FILE_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


@dataclass(frozen=True)
class _At:
    """Where the walk is: which source, its place in the image, and the path inside the source."""

    index: int
    place: tuple[bytes, ...]
    inside: tuple[bytes, ...] = ()

    def __truediv__(self, part: bytes) -> _At:
        return _At(self.index, self.place, (*self.inside, part))

    @property
    def name(self) -> bytes:
        return b"/".join((*self.place, *self.inside))


def _walk(gathered: Gathered, fd: int, at: _At) -> None:
    if len(at.inside) > MAX_DEPTH:
        raise BuildError("ArtifactTooLarge", f"the artifact is nested deeper than {MAX_DEPTH} folders")
    for text in os.listdir(fd):
        part = os.fsencode(text)
        if part.startswith(WHITEOUT):
            gathered.skip((at / part).name, "names that start with .wh. mean a deletion in an image")
            continue
        try:
            _add_found(gathered, fd, part, at / part)
        except OSError as error:
            raise _unreadable("/" + shown((at / part).name), error) from None


def _add_found(gathered: Gathered, fd: int, part: bytes, at: _At) -> None:
    info = os.stat(part, dir_fd=fd, follow_symlinks=False)
    if stat.S_ISDIR(info.st_mode):
        gathered.add(LayerEntry(name=at.name, kind=EntryKind.FOLDER, mode=0o755))
        folder = os.open(part, FOLDER_FLAGS, dir_fd=fd)
        try:
            _walk(gathered, folder, at)
        finally:
            os.close(folder)
    elif stat.S_ISREG(info.st_mode):
        gathered.add(_file_entry(at.name, info, (at.index, at.inside)))
    elif stat.S_ISLNK(info.st_mode):
        target = os.readlink(part, dir_fd=fd)
        gathered.add(LayerEntry(name=at.name, kind=EntryKind.LINK, mode=0o777, target=target))
    else:
        gathered.skip(at.name, "neither a file, a folder nor a link")


def _file_entry(name: bytes, info: os.stat_result, origin: tuple[int, tuple[bytes, ...]]) -> LayerEntry:
    mode = 0o755 if info.st_mode & 0o111 else 0o644
    return LayerEntry(name=name, kind=EntryKind.FILE, mode=mode, size=info.st_size, origin=origin)


def _unreadable(where: str, error: OSError) -> BuildError:
    if error.errno == errno.ENOENT:
        return BuildError("StepFailed", f"the build left nothing for {where}")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return BuildError("StepFailed", f"the build left a link where {where} is taken from; links are not followed")
    if error.errno in (errno.EACCES, errno.EPERM):
        return BuildError("StepFailed", f"the build left something unreadable for {where}")
    return BuildError("Internal", f"{where} cannot be read: {os.strerror(error.errno or 0)}")
