"""Reads the tar of a layer in one pass, within bounds: v7, ustar, GNU long names, PAX (POSIX 1003.1). No writes.

A layer is a stranger's, and so is the size that each header states. Python's `tarfile` reads a header of any size into
memory, follows headers before headers by recursion, and keeps every entry. Where tar can be read in two ways an entry
is what it is for Go's archive/tar, by which other builders and runtimes make and unpack images: a PAX global header
says nothing of entries, a GNU long name goes before that of PAX, and a link or folder has no data, whatever it states.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK = 512
CHUNK = 1024 * 1024
MOST_HEADER = 1024 * 1024
"""Bytes of one header that describes an entry: names and extended attributes have kilobytes."""
MOST_HEADERS = 16
"""How many of them one entry may have; writers have at most four."""
_BEFORE = frozenset({b"x", b"X", b"g", b"L", b"K"})
_KINDS = {b"0": "file", b"\0": "file", b"7": "file", b"1": "hard", b"2": "link", b"5": "folder", b"S": "sparse"}
_WITHOUT_DATA = frozenset({b"1", b"2", b"3", b"4", b"5", b"6"})
_OCTAL = re.compile(rb"[0-7]{1,12}")
_TIME = re.compile(rb" *[0-7]*[ \0]*")
_RECORD = re.compile(rb"([0-9]{1,7}) ")
_SIZE = re.compile(rb"\+?[0-9]{1,100}")
_CHECKSUM = slice(148, 156)
_SPACES = 8 * ord(" ")


class Damaged(Exception):
    """What is read is no tar, or ends too early; the text names how."""


class ByteReader(Protocol):
    """Whatever gives the next bytes, at most `size`; none only at the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, kw_only=True)
class Entry:
    """`kind` is "file", "hard", "link", "folder", "sparse"; empty for devices, pipes and what is unknown.

    `size` in bytes, of a file; `mode` as the header has it; `target` of a link. Names are decoded as the file system's.
    `uid` and `gid` are -1 where the header names none.
    """

    name: str
    kind: str
    mode: int
    size: int
    target: str
    uid: int = -1
    gid: int = -1


class Tar:
    """The entries of a tar in their order, each with its data until the next one is asked for."""

    def __init__(self, source: ByteReader) -> None:
        self._source = source
        self._buffer = memoryview(b"")
        self._left = self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        """Raises `Damaged`, and whatever reading the source raises."""
        while (header := self._header()) is not None:
            said: dict[bytes, bytes] = {}
            count = 0
            while header[156:157] in _BEFORE:
                count += 1
                if count > MOST_HEADERS:
                    raise Damaged(f"one entry has more than {MOST_HEADERS} headers")
                _describe(said, header[156:157], self._described(header))
                following = self._header()
                if following is None:
                    raise Damaged("it ends behind a header that describes an entry")
                header = following
            entry = _entry(header, said)
            self._left = _size(header, said) if header[156:157] not in _WITHOUT_DATA else 0
            self._padding = -self._left % BLOCK
            yield entry
            for _ in self.data():
                pass
            self._exactly(self._padding)

    def data(self) -> Iterator[memoryview]:
        """What is left of the data of the entry at hand. Raises `Damaged` where it is cut off."""
        while self._left:
            part = self._some(self._left)
            if not part:
                raise Damaged(f"it is cut off: {self._left} bytes of a file are missing")
            self._left -= len(part)
            yield part

    def _header(self) -> bytes | None:
        """The next header; None at the end, which a block of zeros is, or the end of the bytes between two entries."""
        header = self._up_to(BLOCK)
        if not header.strip(b"\0"):
            return None
        if len(header) < BLOCK:
            raise Damaged("it is cut off within a header")
        if _number(header[_CHECKSUM]) not in _sums(header):
            raise Damaged("a header has a wrong checksum")
        return header

    def _described(self, header: bytes) -> bytes:
        size = _number(header[124:136])
        if size > MOST_HEADER:
            raise Damaged(f"a header of {size} bytes describes an entry, {MOST_HEADER} are allowed")
        data = self._exactly(size)
        self._exactly(-size % BLOCK)
        return data

    def _some(self, size: int) -> memoryview:
        """1 to `size` bytes; none only at the end."""
        if not self._buffer:
            self._buffer = memoryview(self._source.read(CHUNK))
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def _up_to(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        parts = []
        while size and (part := self._some(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _exactly(self, size: int) -> bytes:
        data = self._up_to(size)
        if len(data) < size:
            raise Damaged(f"it is cut off: {size - len(data)} bytes are missing")
        return data


def _describe(said: dict[bytes, bytes], kind: bytes, data: bytes) -> None:
    """Take a header that describes the next entry; the last of a kind holds."""
    if kind in (b"L", b"K"):
        said[kind] = data.partition(b"\0")[0]
    elif kind != b"g":
        for key in [key for key in said if key not in (b"L", b"K")]:
            del said[key]
        said |= _pax(data)


def _entry(header: bytes, said: dict[bytes, bytes]) -> Entry:
    flag = header[156:157]
    name = said.get(b"L") or said.get(b"path") or _name(header)
    target = said.get(b"K") or said.get(b"linkpath") or _text(header[157:257])
    kind = _KINDS.get(flag, "")
    if flag == b"\0" and name.endswith(b"/"):
        kind = "folder"  # v7 has no type for folders
    elif kind == "file" and any(key.startswith(b"GNU.sparse") for key in said):
        kind = "sparse"
    return Entry(
        name=name.decode("utf-8", "surrogateescape"),
        kind=kind,
        mode=_number(header[100:108]),
        size=_size(header, said) if kind == "file" else 0,
        target=target.decode("utf-8", "surrogateescape"),
        uid=_owner(header[108:116], said.get(b"uid")),
        gid=_owner(header[116:124], said.get(b"gid")),
    )


def _owner(field: bytes, stated: bytes | None) -> int:
    """Owners are restored nowhere: one that cannot be read damages nothing."""
    if stated:
        return int(stated) if _SIZE.fullmatch(stated) else -1
    try:
        return _number(field) if field.strip(b"\0 ") else -1
    except Damaged:
        return -1


def _size(header: bytes, said: dict[bytes, bytes]) -> int:
    stated = said.get(b"size")
    if not stated:
        return _number(header[124:136])
    if not _SIZE.fullmatch(stated):
        raise Damaged("a PAX header states no number as size")
    return int(stated)


def _number(field: bytes) -> int:
    """Octal up to a NUL, or GNU's base 256. Raises `Damaged` for one that is negative, or that two readers would read
    differently: behind a NUL."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise Damaged("a header holds a number that is negative or too large")
        return int.from_bytes(field[1:], "big")
    digits, _, rest = field.partition(b"\0")
    digits = digits.strip(b" ")
    if not digits:
        if rest.strip(b"\0 "):
            raise Damaged("a header holds a number behind a NUL")
        return 0
    if not _OCTAL.fullmatch(digits):
        raise Damaged("a header holds a number that is not octal")
    return int(digits, 8)


def _sums(header: bytes) -> tuple[int, int]:
    """The sum of a header's bytes, its checksum as spaces; old writers took them for signed."""
    counted = header[:148] + header[156:]
    plain = sum(counted) + _SPACES
    return plain, plain - (0 if counted.isascii() else 256 * sum(byte > 127 for byte in counted))


def _name(header: bytes) -> bytes:
    """The name of an entry by its own header. ustar's has a prefix, and that of star a shorter one; GNU's has times
    there, but where Go before 1.8 wrote it, which took it for ustar's."""
    name, magic = _text(header[:100]), header[257:265]
    end = 476 if header[508:512] == b"tar\0" else 500
    if not header[345] or not (magic.startswith(b"ustar\0") or (magic == b"ustar  \0" and not _has_times(header))):
        return name
    return _text(header[345:end]) + b"/" + name


def _has_times(header: bytes) -> bool:
    """Whether the two fields of GNU's header that hold times of a file are numbers."""
    return all(field[0] & 0x80 or _TIME.fullmatch(field) for field in (header[345:357], header[357:369]))


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _pax(data: bytes) -> dict[bytes, bytes]:
    """The records `<length> <key>=<value>\\n` that say what is read of an entry; an empty value says nothing.

    Raises `Damaged`."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found else 0
        if not found or not found.end() < end <= len(data) or data[end - 1] != 0x0A:
            raise Damaged("a PAX header is damaged")
        key, equals, value = data[found.end() : end - 1].partition(b"=")
        if not equals or not key:
            raise Damaged("a PAX header is damaged")
        if key in (b"path", b"linkpath", b"size", b"uid", b"gid") or key.startswith(b"GNU.sparse"):
            records[key] = value
        at = end
    return records
