"""Read tar, plain or compressed: v7, ustar, GNU long names, PAX (POSIX 1003.1, "pax Interchange Format"). No writes.

Two readers must never see two archives (CVE-2025-62518). Refused, each with its tolerated exception:

    a size that PAX and ustar state differently     beyond ustar's 8 GiB, where ustar cannot state it
    a name that PAX and GNU headers state twice     twice the same
    a PAX global header with names or sizes, or     any other (`git archive` puts the commit there)
        between an entry and what describes it
    a number or checksum behind a NUL               -
    a prefix of the name that is not ustar's own    the times that GNU has in its place
    data behind a folder or link                    -
    anything after the end block or the stream      zeros, up to 16 MiB (GNU tar's blocking factor)
    an archive without any end block                a missing second one
    sparse files, devices, pipes, unknown types     -
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from builder.errors import BuildError
from builder.source.decode import GZIP, Decoded, codec_of
from builder.source.entry import ArchiveEntry, unreadable, unsafe
from builder.source.limits import MIB, too_large
from builder.source.sniff import (
    BLOCK,
    BY_CODEC,
    HEAD_BYTES,
    NEEDED,
    SourceKind,
    describe,
    is_tar,
    looks_like_tar,
    sniff,
)
from builder.text import size as in_words

CHUNK = 256 * 1024
META_LIMIT = MIB  # one PAX or long-name header
NAME_LIMIT = 64 * 1024  # a name or the target of a link in one; a ZIP cannot state longer ones
META_TOTAL = 128 * MIB  # all of them; 50,000 entries with 2.5 KiB each
PADDING_LIMIT = 16 * MIB
_USTAR_MAX = 0o77777777777
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hard", b"2": "link", b"5": "folder"}
_PACKED = {kind: name for name, kind in BY_CODEC.items()}
_GLOBAL_REFUSED = ("path", "linkpath", "size")


@dataclass
class _Meta:
    """What the headers before an entry declare about it."""

    pax: dict[str, str] | None = None
    name: str | None = None
    target: str | None = None

    @property
    def pending(self) -> bool:
        return self.pax is not None or self.name is not None or self.target is not None


class _Stream:
    """Reads of known length from a plain or compressed stream, in chunks of 256 KiB."""

    def __init__(self, file: BinaryIO, kind: SourceKind) -> None:
        codec = (
            GZIP
            if kind is SourceKind.TAR_GZ
            else codec_of(file.read(HEAD_BYTES))
            if kind is not SourceKind.TAR
            else None
        )
        file.seek(0)
        self._file: BinaryIO | Decoded = Decoded(file, codec) if codec else file
        self._buffer = memoryview(b"")
        self._at = 0

    def _fill(self) -> bool:
        """The next chunk into the buffer, which must be used up; False at the end."""
        data = self._file.read(CHUNK)
        self._buffer, self._at = memoryview(data), 0
        return bool(data)

    def some(self, size: int) -> memoryview:
        """1 to `size` bytes; none only at the end."""
        if self._at >= len(self._buffer) and not self._fill():
            return self._buffer
        part = self._buffer[self._at : self._at + size]
        self._at += len(part)
        return part

    def upto(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        data = bytes(self.some(size))
        while len(data) < size and (more := self.some(size - len(data))):
            data += bytes(more)
        return data

    def exact(self, size: int) -> bytes:
        data = self.upto(size)
        if len(data) < size:
            raise unreadable(f"the archive is cut off: {size - len(data)} bytes are missing")
        return data


class _Body:
    """The data of one entry, read by the writer, and its padding."""

    def __init__(self, stream: _Stream, size: int) -> None:
        self._stream, self._left = stream, size
        self._padding = -size % BLOCK

    def __iter__(self) -> Iterator[memoryview]:
        while self._left:
            data = self._stream.some(self._left)
            if not data:
                raise unreadable(f"the archive is cut off: {self._left} bytes of a file are missing")
            self._left -= len(data)
            yield data

    def skip(self) -> None:
        for _ in self:
            pass
        if self._padding:
            self._stream.exact(self._padding)


def read_tar(file: BinaryIO, kind: SourceKind) -> Iterator[ArchiveEntry]:
    """The entries in order; each one's data must be read before the next. `file` is unbuffered or buffered.

    `kind` is a tar, plain or compressed. Raises `BuildError` ArchiveUnreadable, ArchiveUnsafe, ArchiveTooLarge (headers
    only; data is the writer's to count), NotAnArchive where xz, bzip2 or Zstandard hold no tar.
    """
    stream = _Stream(file, kind)
    number, meta, meta_bytes, begun = 0, _Meta(), 0, False
    while True:
        header = stream.upto(BLOCK)
        if not header.strip(b"\0"):
            if not header or meta.pending:
                raise unreadable("the archive is cut off: it has no end block")
            _only_zeros(stream)
            return
        if not begun and kind in _PACKED and not looks_like_tar(header):
            what = "text" if sniff(header) is SourceKind.TEXT else describe(header)
            raise BuildError("NotAnArchive", f"this is {what}, compressed by {_PACKED[kind]}; {NEEDED}")
        begun = True
        if len(header) < BLOCK:
            raise unreadable("the archive is cut off in the middle of a header")
        if not is_tar(header) or not _number(header[148:156]):
            raise unreadable(f"the header after entry {number} has a wrong checksum")
        flag = header[156:157]
        if flag in (b"x", b"g", b"L", b"K"):
            size = _number(header[124:136])
            meta_bytes += BLOCK + size
            if size > META_LIMIT:
                raise too_large(f"a header before entry {number + 1} has {in_words(size)}", in_words(META_LIMIT))
            if flag in (b"L", b"K") and size > NAME_LIMIT:
                raise _long_name(size, number + 1)
            if meta_bytes > META_TOTAL:
                raise too_large(f"{in_words(meta_bytes)} of headers", in_words(META_TOTAL))
            data = stream.exact(size)
            stream.exact(-size % BLOCK)
            _meta(meta, flag, data, number + 1)
            continue
        number += 1
        size = _number(header[124:136])
        if meta.pending:
            entry, body = _entry(stream, header, number, size, meta)
            meta = _Meta()
        else:
            entry, body = _plain(stream, header, number, size, _name(header, number), _text(header[157:257]))
        yield entry
        body.skip()


def _meta(meta: _Meta, kind: bytes, data: bytes, number: int) -> None:
    """Take a header that describes the next entry. Raises ArchiveUnreadable, ArchiveUnsafe."""
    if kind == b"L" and meta.name is None:
        meta.name = _text(data)
    elif kind == b"K" and meta.target is None:
        meta.target = _text(data)
    elif kind == b"x" and meta.pax is None:
        meta.pax = _pax(data, number)
    elif kind == b"g":
        if meta.pending:  # Go's reader forgets what came before it
            raise _two_ways(number, "a PAX global header stands between it and what describes it")
        stated = [key for key in _pax(data, number) if key in _GLOBAL_REFUSED or key.startswith("GNU.sparse")]
        if stated:
            raise _two_ways(number, f"a PAX global header states the {stated[0]} of every entry")
    else:
        raise _two_ways(number, "two headers of the same kind come before it")


def _entry(stream: _Stream, header: bytes, number: int, size: int, meta: _Meta) -> tuple[ArchiveEntry, _Body]:
    pax = meta.pax or {}
    names = {name for name in (meta.name, pax.get("path")) if name}
    targets = {target for target in (meta.target, pax.get("linkpath")) if target}
    if len(names) > 1 or len(targets) > 1:
        raise _two_ways(number, "PAX and GNU headers name it differently")
    name = names.pop() if names else _name(header, number)
    target = targets.pop() if targets else _text(header[157:257])
    described = ArchiveEntry(number=number, name=name, kind="file")
    if any(key.startswith("GNU.sparse") for key in pax):
        raise unsafe(described, "is a sparse file")
    if "size" in pax:
        stated = int(pax["size"])
        if stated != size and not (stated > _USTAR_MAX and size in (0, _USTAR_MAX)):
            raise unsafe(described, f"has two sizes: {stated} by PAX, {size} by ustar")
        size = stated
    return _plain(stream, header, number, size, name, target)


def _plain(
    stream: _Stream, header: bytes, number: int, size: int, name: str, target: str
) -> tuple[ArchiveEntry, _Body]:
    kind = _KINDS.get(header[156:157], "")
    if kind == "file" and name.endswith("/"):
        kind = "folder"  # v7 has no type for folders
    body = _Body(stream, size if kind == "file" else 0)
    entry = ArchiveEntry(
        number=number, name=name, kind=kind, mode=_number(header[100:108]),
        target=target if kind in ("link", "hard") else "", size=size, data=iter(body),
    )  # fmt: skip
    if not kind:
        raise unsafe(entry, f"is {_TYPES.get(header[156:157], 'of unknown type ' + repr(header[156:157])[1:])}")
    if size and kind != "file":
        raise unsafe(entry, f"is a {kind} and states {size} bytes of data")
    return entry, body


_TYPES = {b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


def _long_name(size: int, number: int) -> BuildError:
    return too_large(f"a name of {in_words(size)} before entry {number}", in_words(NAME_LIMIT))


def _two_ways(number: int, what: str) -> BuildError:
    where = f"entry {number}"
    return BuildError("ArchiveUnsafe", f"{where} can be read in two ways: {what}", where=where)


def _only_zeros(stream: _Stream) -> None:
    """Read to the end, so that gzip's checksum is compared too."""
    padding = BLOCK
    while data := stream.some(CHUNK):
        padding += len(data)
        if bytes(data).strip(b"\0"):
            raise unreadable("there is more after the end of the archive")
        if padding > PADDING_LIMIT:
            raise too_large(f"more than {in_words(PADDING_LIMIT)} of padding", in_words(PADDING_LIMIT))


def _number(field: bytes) -> int:
    """Octal, or GNU base-256 for large values. Raises ArchiveUnreadable."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits, _, behind = field.partition(b"\0")
    if behind.strip(b"\0 "):  # a text that ends at its first NUL, or one without the NULs around it
        raise unreadable("a header holds a number behind a NUL")
    digits = digits.strip(b" ")
    if not digits:
        return 0
    if not _OCTAL.fullmatch(digits):
        raise unreadable("a header holds a number that is not octal")
    return int(digits, 8)


_OCTAL = re.compile(rb"[0-7]{1,12}")
_TIME = re.compile(rb" *[0-7]*[ \0]*|[\x80-\xff].*", re.DOTALL)
_RECORD = re.compile(rb"([0-9]{1,7}) ")


def _text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _name(header: bytes, number: int) -> str:
    """The name by the entry's own header. Where ustar has its prefix GNU has times, and star behind a shorter one; what
    else is there Python takes for a prefix, Go where GNU's magic is before it, GNU tar never. Raises ArchiveUnsafe."""
    name, magic = _text(header[:100]), header[257:265]
    if not header[345] or (magic == b"ustar  \0" and all(map(_TIME.fullmatch, (header[345:357], header[357:369])))):
        return name
    if not magic.startswith(b"ustar\0"):
        raise _two_ways(number, "its header is not ustar's and has a prefix of the name")
    if header[508:512] == b"tar\0" and b"\0" not in header[345:476]:
        raise _two_ways(number, "its header is star's, and times follow the prefix of the name without a NUL")
    return f"{_text(header[345:500])}/{name}"


def _pax(data: bytes, number: int) -> dict[str, str]:
    """`<length> <key>=<value>\\n` records before the entry `number`; an empty value takes a record back.

    Raises ArchiveUnreadable, ArchiveTooLarge.
    """
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found else 0
        if not found or not found.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise unreadable("a PAX header is damaged")
        key, equals, value = data[found.end() : end - 1].partition(b"=")
        if key in (b"path", b"linkpath") and len(value) > NAME_LIMIT:
            raise _long_name(len(value), number)
        name, text = key.decode("utf-8", "replace"), value.decode("utf-8", "surrogateescape")
        if not equals:
            raise unreadable("a PAX header is damaged")
        if name in _GLOBAL_REFUSED and records.get(name, text) != text:
            raise unreadable(f"a PAX header states the {name} twice")
        records[name] = text
        at = end
    if not re.fullmatch(r"[0-9]{1,19}", records.get("size", "0"), re.ASCII):
        raise unreadable("a PAX header states no number as size")
    return records
