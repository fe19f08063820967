"""What PATH means: a folder becomes a deterministic tar.gz, one text file is sent as it is, an archive too.

Packing reads the disk and nothing else. The same folder gives the same bytes: entries sorted, no times, no owners,
only the executable bit of the mode.
"""

from __future__ import annotations

import codecs
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from builder import pipelines
from builder.cli import format as fmt
from builder.cli.folder import FolderEntry, FoundFolder, find, judge, judge_sizes, left_out
from builder.cli.ignore import Choice, looks_secret
from builder.errors import BuildError
from builder.source.entry import shown
from builder.source.limits import ArchiveLimits
from builder.source.sniff import ARCHIVES, HEAD_BYTES, sniff

CHUNK = 512 * 1024
MOST_BYTES = 512 * 1024 * 1024
"""The default of `upload_bytes`."""
LARGEST = 3
RATIO = 50
"""A folder is compressed no further than this. Servers refuse what unpacks to more than 100 times its size."""
RATIO_AFTER = 512 * 1024
STORED = 65_535
_WORDS = {"archive": "archive", "file": "one file"}
LOOKED_AT = 64 * 1024
"""Bytes at the start of a file in which a secret is looked for."""


@dataclass(kw_only=True)
class Count:
    """How far the packing of a folder is, and which of its files look like secrets."""

    total: int = 0
    read: int = 0
    secrets: list[str] = field(default_factory=list)


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
    """A single file's own name, whose extension names the runtime that is meant; empty for standard input."""
    folder: FoundFolder | None = None
    """What of a folder is sent, and what is not; None where the source is no folder."""
    count: Count = field(default_factory=Count)

    def runtime(self, named: str) -> str:
        """The runtime that the user names, else the one of the file's extension. Raises as `runtime_of_file`."""
        return named or runtime_of_file(self.file_name)


def pack(path: str, stdin: BinaryIO, choice: Choice | None = None, most: int = MOST_BYTES) -> Packed:
    """What to send for PATH (or `-`), at most `most` bytes of what is no folder. Raises `BuildError` InvalidRequest,
    SourceEmpty, NotAnArchive, ArchiveTooLarge; of a folder ArchiveUnsafe, too."""
    choice = choice or Choice()
    root = Path(path)
    if path != "-" and os.path.isdir(path):
        return _folder(root, choice)
    if choice != Choice():
        message = f"{path} is sent as it is; --include and --no-ignore are for a folder"
        raise BuildError("InvalidRequest", message, where="PATH", next="Leave the option out, or name a folder")
    if path == "-":
        return _file("stdin", "app", stdin, most)
    if not os.path.exists(path):
        raise BuildError("InvalidRequest", f"{path} does not exist", where="PATH", next="Name a folder, a file, or -")
    if not os.path.isfile(path):
        raise BuildError("InvalidRequest", f"{path} is neither a folder nor a file", where="PATH")
    with _opened(root, path) as file:
        return _file(path, root.name, file, most, root)


def is_archive(head: bytes) -> bool:
    """Whether the first bytes are those of an archive; whether it can be read is judged where it is unpacked."""
    return sniff(head) in ARCHIVES


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
        ".tar.xz",
        ".txz",
        ".tar.bz2",
        ".tbz2",
        ".tar.zst",
        ".tar",
        ".zip",
        ".txt",
        *pipelines.extensions(),
    ):
        stem = stem.removesuffix(suffix)
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in stem.lower())
    parts = [part for part in plain.split("-") if part]
    return "-".join(parts)[:63] or "app"


def _folder(root: Path, choice: Choice) -> Packed:
    found = find(root, choice)
    files = found.files
    if not files:
        but = f"; left out: {left_out(found.left)}" if found.left else ""
        raise BuildError("SourceEmpty", f"{root} holds no file{but}", where=str(root))
    judge(found)
    _require_readable(found)
    total = sum(entry.size for entry in files)
    count = Count(total=total)
    return Packed(
        kind="archive",
        name=build_name(root.resolve().name),
        summary=f"folder, {fmt.count(len(files), 'file')}, {fmt.size(total)}",
        size=total,
        folder=found,
        count=count,
        chunks=lambda: tar_gz(found, count),
    )


def _largest(files: Sequence[FolderEntry]) -> list[tuple[str, int]]:
    """What lies at the root, with its bytes, the largest first."""
    sizes: dict[str, int] = {}
    for file in files:
        first, slash, _ = file.path.partition("/")
        sizes[first + slash] = sizes.get(first + slash, 0) + file.size
    return sorted(sizes.items(), key=lambda part: (-part[1], part[0]))[:LARGEST]


def check_size(packed: Packed, upload_bytes: int) -> None:
    """Refuse, before anything is sent, what the server would refuse after it has received all of it.

    `upload_bytes` limits what is sent: a folder beyond it is compressed once to see whether it fits. Raises
    `BuildError` ArchiveTooLarge that names the largest parts.
    """
    limits = ArchiveLimits()
    if packed.folder is not None:
        if packed.size > limits.unpacked:
            raise _too_large(packed, limits.unpacked)
        judge_sizes(packed.folder, limits)
    if packed.size > upload_bytes and (packed.folder is None or _is_longer(packed, upload_bytes)):
        raise _too_large(packed, upload_bytes)


def _is_longer(packed: Packed, limit: int) -> bool:
    size = 0
    is_longer = any((size := size + len(chunk)) > limit for chunk in packed.chunks())
    packed.count.read = 0
    return is_longer


def _too_large(packed: Packed, limit: int) -> BuildError:
    message = f"{packed.summary}; limit {fmt.size(limit)}"
    if packed.folder is None:
        return BuildError("ArchiveTooLarge", message, where="PATH")
    named = ", ".join(f"{name} {fmt.size(size)}" for name, size in _largest(packed.folder.files))
    next_step = "Leave out what the build does not need, with lines in .igniteignore; fetch the rest at run time"
    return BuildError("ArchiveTooLarge", f"{message}; largest: {named}", where="PATH", next=next_step)


def tar_gz(found: FoundFolder, count: Count) -> Iterator[bytes]:
    """The folder as a tar.gz in chunks; the gzip header has no time and no name. Level 1: the network is near.

    Long runs of the same bytes compress to less than a server believes. A block then stays as it is, now and then.
    """
    squeeze = zlib.compressobj(1, zlib.DEFLATED, -15)
    yield b"\x1f\x8b\x08\0\0\0\0\0\x04\x03"
    crc = size = packed = 0
    for part in _tar(found, count):
        for at in range(0, len(part), STORED):
            block = part[at : at + STORED]
            crc, size = zlib.crc32(block, crc), size + len(block)
            if size > RATIO_AFTER and size > RATIO * packed:
                # A full flush ends at a whole byte, and nothing behind it refers to what is before.
                header = struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF)
                data = squeeze.flush(zlib.Z_FULL_FLUSH) + header + block
            else:
                data = squeeze.compress(block)
            if data:
                packed += len(data)
                yield data
    yield squeeze.flush() + struct.pack("<LL", crc, size & 0xFFFFFFFF)


def _tar(found: FoundFolder, count: Count) -> Iterator[bytes]:
    """PAX tar blocks. `tarfile` makes the headers only: its writer buffers, so a large file could not be streamed."""
    count.read = 0
    count.secrets.clear()
    for entry in found.entries:
        info = _info(entry)
        yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        if info.isreg():
            yield from _content(found.root / entry.path, info, count)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _content(path: Path, info: tarfile.TarInfo, count: Count) -> Iterator[bytes]:
    """A file's bytes, filled up to whole blocks; one that became shorter meanwhile ends the packing."""
    left = info.size
    with _opened(path, info.name) as file:
        while left:
            part = file.read(min(CHUNK, left))
            if left == info.size and looks_secret(path.name, part[:LOOKED_AT]):
                count.secrets.append(info.name)
            count.read += len(part)
            if not part:
                raise BuildError("InvalidRequest", f"{info.name} became shorter while it was read", where=info.name)
            left -= len(part)
            yield part
    yield bytes(-info.size % tarfile.BLOCKSIZE)


def _require_readable(found: FoundFolder) -> None:
    """Raise `BuildError` InvalidRequest for a file that this user may not read, before anything reads any of them."""
    for file in found.files:
        path = found.root / file.path
        if file.link is None and not os.access(path, os.R_OK):
            _opened(path, file.path).close()  # says why


def _opened(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        message = f"{shown(name)} cannot be read: {error.strerror}"
        raise BuildError(
            "InvalidRequest", message, where=shown(name), next="Make it readable, or leave it out"
        ) from None


def _info(entry: FolderEntry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path)
    info.size = entry.size
    info.mode = 0o755 if entry.executable or entry.is_dir else 0o644
    if entry.is_dir:
        info.type = tarfile.DIRTYPE
    elif entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    return info


def _read(path: Path) -> Iterator[bytes]:
    with _opened(path, str(path)) as file:
        while part := file.read(CHUNK):
            yield part


def _file(label: str, name: str, file: BinaryIO, most: int, at: Path | None = None) -> Packed:
    """A file, or stdin, which is `at` no path. One that is no archive must be text. What can be none is refused by its
    first bytes, what is too large by its size or behind `most` bytes: an endless one ends, too."""
    head = file.read(HEAD_BYTES)
    if not head:
        raise BuildError("SourceEmpty", f"{label} is empty", where=label)
    kind: Literal["file", "archive"] = "archive" if is_archive(head) else "file"
    judge = _Text(label) if kind == "file" else None
    size, parts = os.fstat(file.fileno()).st_size if at else 0, [head]
    if judge:
        judge.add(head)
    if size <= most and (judge or at is None):
        size = len(head)
        while size <= most and (part := file.read(CHUNK)):
            if judge:
                judge.add(part)
            size += len(part)
            parts.append(part)
        if judge and size <= most:
            judge.end()
    is_open = size > most and at is None  # how long it is nobody knows
    packed = Packed(
        kind=kind,
        name=build_name(name),
        summary=f"{_WORDS[kind]}, {'more than ' if is_open else ''}{fmt.size(most if is_open else size)}",
        size=size,
        file_name=at.name if at and judge else "",
        chunks=lambda: _read(at) if at and not judge else iter(parts),
    )
    if size > most:
        raise _too_large(packed, most)
    return packed


class _Text:
    """Judges bytes as they come. `add` and `end` raise `BuildError` NotAnArchive for what is no UTF-8 text. Neither
    asks libmagic what it is instead: loading that starts a process, and `plan` must not."""

    def __init__(self, label: str) -> None:
        self._label, self._decoder = label, codecs.getincrementaldecoder("utf-8")()

    def add(self, part: bytes, *, is_last: bool = False) -> None:
        try:
            self._decoder.decode(part, is_last)
        except UnicodeDecodeError:
            pass
        else:
            if b"\0" not in part:
                return
        message = f"{self._label} is neither an archive nor UTF-8 text"
        raise BuildError("NotAnArchive", message, where=self._label)

    def end(self) -> None:
        self.add(b"", is_last=True)


def first_bytes(chunks: Iterator[bytes], limit: int) -> tuple[bytes, bool]:
    """Bytes of the stream until it ends or `limit` is passed, and whether it ended: what is small goes inline."""
    parts, size = [], 0
    for part in chunks:
        parts.append(part)
        size += len(part)
        if size > limit:
            return b"".join(parts), False
    return b"".join(parts), True
