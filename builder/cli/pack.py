"""What PATH means: a folder becomes a deterministic tar.gz, one text file is sent as it is, an archive too.

Packing reads the disk and nothing else. The same folder gives the same bytes: entries sorted, no times, no owners,
only the executable bit of the mode.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from builder import pipelines
from builder.cli import format as fmt
from builder.errors import BuildError
from builder.source.limits import Limits
from builder.source.sniff import HEAD_BYTES, Kind, sniff

CHUNK = 512 * 1024
LARGEST = 3
# Version control, and what tools rebuild anyway. `target` only where Cargo made it.
SKIPPED = frozenset({".git", "__pycache__", ".venv", "node_modules"})


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A source ready to send. `chunks` starts the stream; it can be started again unless it was stdin's."""

    kind: Literal["file", "archive"]
    name: str
    """The build's default name."""
    summary: str
    """For people: `folder, 14 files, 38.2 KiB`."""
    chunks: Callable[[], Iterator[bytes]]
    size: int
    """Bytes of the files, before a folder is compressed."""
    file_name: str = ""
    """A single file's own name, whose extension says which runtime is meant; empty for standard input."""
    parts: tuple[tuple[str, int], ...] = ()
    """What lies at a folder's root, with its bytes, the largest first; empty where the source is no folder."""

    def runtime(self, named: str) -> str:
        """The runtime that the user names, else the one of the file's extension. Raises as `runtime_of_file`."""
        return named or runtime_of_file(self.file_name)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of a folder: `path` relative with `/`, `link` the target of a symbolic link."""

    path: str
    size: int
    executable: bool = False
    link: str | None = None
    is_dir: bool = False


def pack(path: str, stdin: BinaryIO) -> Packed:
    """What to send for PATH (or `-`). Raises `BuildError` InvalidRequest, SourceEmpty or NotAnArchive."""
    if path == "-":
        return _bytes("stdin", "app", stdin.read())
    root = Path(path)
    if root.is_dir():
        return _folder(root)
    if not root.exists():
        raise BuildError("InvalidRequest", f"{path} does not exist", where="PATH", next="Name a folder, a file, or -")
    if not root.is_file():
        raise BuildError("InvalidRequest", f"{path} is neither a folder nor a file", where="PATH")
    with root.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if is_archive(head):
        size = root.stat().st_size
        return Packed(
            kind="archive",
            name=build_name(root.name),
            summary=f"archive, {fmt.size(size)}",
            size=size,
            chunks=lambda: _read(root),
        )
    return _bytes(path, root.name, root.read_bytes(), root.name)


def is_archive(head: bytes) -> bool:
    """Whether the first bytes are those of an archive; whether it can be read is judged where it is unpacked."""
    return sniff(head) in (Kind.ZIP, Kind.TAR, Kind.TAR_GZ)


def runtime_of_file(name: str) -> str:
    """The runtime that a single file's extension names, or "" for a name without one.

    The wire carries no file name, so the extension stands for the runtime. Raises `BuildError` UnsupportedTarget for an
    extension that no pipeline claims: as any other runtime's source the file would only fail later.
    """
    suffix = Path(name).suffix
    if suffix in ("", ".txt"):
        return ""
    if runtime := pipelines.runtime_of_file(name):
        return runtime
    taken = ", ".join(pipelines.extensions())
    message = f"{name[-80:]}: no runtime here builds {suffix[:20]} files; there is {taken}"
    raise BuildError("UnsupportedTarget", message, where="PATH", next="Name the runtime of the file: --runtime NAME")


def build_name(name: str) -> str:
    """A name for a build from a file's or folder's: without extension, only what a repository name may hold."""
    stem = name
    for suffix in (
        ".tar.gz",
        ".tgz",
        ".tar",
        ".zip",
        ".txt",
        *pipelines.extensions(),
    ):
        stem = stem.removesuffix(suffix)
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem.lower())
    parts = [part for part in plain.split("-") if part]
    return "-".join(parts)[:63] or "app"


def entries(root: Path) -> tuple[Entry, ...]:
    """Everything of a folder that is sent, sorted by path. Never follows a link; sockets and devices are left out."""
    found: list[Entry] = []
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(root / below) as listing:
            items = list(listing)
        has_cargo = any(item.name == "Cargo.toml" for item in items)
        for item in items:
            path = f"{below}/{item.name}" if below else item.name
            info = item.stat(follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                found.append(Entry(path=path, size=0, link=os.readlink(item.path)))
            elif stat.S_ISDIR(info.st_mode):
                if item.name in SKIPPED or (item.name == "target" and has_cargo):
                    continue
                found.append(Entry(path=path, size=0, is_dir=True))
                pending.append(path)
            elif stat.S_ISREG(info.st_mode):
                found.append(Entry(path=path, size=info.st_size, executable=bool(info.st_mode & stat.S_IXUSR)))
    return tuple(sorted(found, key=lambda entry: entry.path.encode("utf-8", "surrogateescape")))


def _folder(root: Path) -> Packed:
    found = entries(root)
    files = [entry for entry in found if not entry.is_dir]
    if not files:
        raise BuildError("SourceEmpty", f"{root} holds no file", where=str(root))
    total = sum(entry.size for entry in files)
    return Packed(
        kind="archive",
        name=build_name(root.resolve().name),
        summary=f"folder, {fmt.count(len(files), 'file')}, {fmt.size(total)}",
        size=total,
        parts=_parts(files),
        chunks=lambda: tar_gz(root, found),
    )


def _parts(files: list[Entry]) -> tuple[tuple[str, int], ...]:
    sizes: dict[str, int] = {}
    for file in files:
        first, slash, _ = file.path.partition("/")
        sizes[first + slash] = sizes.get(first + slash, 0) + file.size
    return tuple(sorted(sizes.items(), key=lambda part: (-part[1], part[0])))


def check_size(packed: Packed, upload_bytes: int) -> None:
    """Refuse, before anything is sent, what the server would refuse after it has received all of it.

    `upload_bytes` limits what is sent: a folder beyond it is compressed once to see whether it fits. Raises
    `BuildError` ArchiveTooLarge that names the largest parts.
    """
    unpacked = Limits().unpacked
    if packed.parts and packed.size > unpacked:
        raise _too_large(packed, unpacked)
    if packed.size > upload_bytes and (not packed.parts or _is_longer(packed.chunks(), upload_bytes)):
        raise _too_large(packed, upload_bytes)


def _is_longer(chunks: Iterator[bytes], limit: int) -> bool:
    size = 0
    return any((size := size + len(chunk)) > limit for chunk in chunks)


def _too_large(packed: Packed, limit: int) -> BuildError:
    named = ", ".join(f"{name} {fmt.size(size)}" for name, size in packed.parts[:LARGEST])
    largest = f"; largest: {named}" if named else ""
    return BuildError("ArchiveTooLarge", f"{packed.summary}; limit {fmt.size(limit)}{largest}", where="PATH")


def tar_gz(root: Path, found: tuple[Entry, ...]) -> Iterator[bytes]:
    """The folder as a tar.gz in chunks; the gzip header has no time and no name. Level 1: the network is near."""
    squeeze = zlib.compressobj(1, zlib.DEFLATED, 31)
    for part in _tar(root, found):
        if data := squeeze.compress(part):
            yield data
    yield squeeze.flush()


def _tar(root: Path, found: tuple[Entry, ...]) -> Iterator[bytes]:
    """PAX tar blocks. `tarfile` makes the headers only: its writer buffers, so a large file could not be streamed."""
    for entry in found:
        info = _info(entry)
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.isreg():
            yield from _content(root / entry.path, info)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(path: Path, info: tarfile.TarInfo) -> Iterator[bytes]:
    """A file's bytes, filled up to whole blocks; one that became shorter meanwhile ends the packing."""
    left = info.size
    with path.open("rb") as file:
        while left:
            part = file.read(min(CHUNK, left))
            if not part:
                raise BuildError("InvalidRequest", f"{info.name} became shorter while it was read", where=info.name)
            left -= len(part)
            yield part
    yield bytes(-info.size % tarfile.BLOCKSIZE)


def _info(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.size = entry.size
    info.mode = 0o755 if entry.executable or entry.is_dir else 0o644
    if entry.is_dir:
        info.type = tarfile.DIRTYPE
    elif entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    return info


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(CHUNK):
            yield part


def _bytes(label: str, name: str, data: bytes, file_name: str = "") -> Packed:
    """A file that is no archive must be text."""
    if not data:
        raise BuildError("SourceEmpty", f"{label} is empty", where=label)
    if is_archive(data[:HEAD_BYTES]):
        return Packed(
            kind="archive",
            name=build_name(name),
            summary=f"archive, {fmt.size(len(data))}",
            size=len(data),
            chunks=lambda: iter((data,)),
        )
    require_text(data, label)
    return Packed(
        kind="file",
        name=build_name(name),
        summary=f"one file, {fmt.size(len(data))}",
        size=len(data),
        file_name=file_name,
        chunks=lambda: iter((data,)),
    )


def require_text(data: bytes, label: str) -> None:
    """Raises `BuildError` NotAnArchive for what is no UTF-8 text. Does not ask libmagic what it is instead: loading
    that starts a process, and `plan` must not."""
    try:
        is_text = b"\0" not in data and bool(data.decode())
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise BuildError("NotAnArchive", f"{label} is neither an archive nor UTF-8 text", where=label)


def first_bytes(chunks: Iterator[bytes], limit: int) -> tuple[bytes, bool]:
    """Bytes of the stream until it ends or `limit` is passed, and whether it ended: what is small goes inline."""
    parts, size = [], 0
    for part in chunks:
        parts.append(part)
        size += len(part)
        if size > limit:
            return b"".join(parts), False
    return b"".join(parts), True
