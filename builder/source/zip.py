"""Read ZIP (APPNOTE 6.3.10) by its central directory, every local header compared with it. Writes nothing.

Two readers must never see two archives (CVE-2024-0450, CVE-2025-54368). Refused, each with its tolerated exception:

    a local header that says something else         sizes left to a data descriptor (streaming writers)
    bytes before the first entry, between entries,  a data descriptor; the archive's comment, unless it holds
        before the directory, after the archive         the end of another directory
    entries that overlap                            -
    ZIP64 fields that say something else            ZIP64 where it is not needed (Info-ZIP reading a pipe)
    a second name in a Unicode field                the same name, which a legacy code page could not write
    data that goes on after its end                 -
    encrypted, split; other methods than deflate    -
"""

from __future__ import annotations

import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from isal import isal_zlib

from builder.errors import BuildError
from builder.source.entry import TARGET_BYTES, ArchiveEntry, shown, unreadable, unsafe
from builder.source.limits import MIB, Meter, too_large
from builder.text import size as in_words

CHUNK = 256 * 1024
DIRECTORY_LIMIT = 16 * MIB  # 50,000 entries with 335 bytes each
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _DESCRIPTOR, _STRONG, _UTF8, _MASKED = 1, 8, 0x40, 0x800, 0x2000
STORED, DEFLATED = 0, 8
_WIDE, _UNICODE_PATH = 0x0001, 0x7075
_MAX16, _MAX32 = 0xFFFF, 0xFFFFFFFF
_WINDOWS = (0, 10, 11)  # FAT, NTFS, VFAT ("version made by", high byte)
_UNIX = (3, 19)  # Unix, OS X
_LOCAL_READ = 512  # a local header with its name and extra fields is rarely longer


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One entry as the directory states it. Sizes and offsets in bytes."""

    number: int
    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    mode: int

    @property
    def entry(self) -> ArchiveEntry:
        return ArchiveEntry(number=self.number, name=self.name, kind="file", size=self.size)


def read_zip(file: int, meter: Meter) -> Iterator[ArchiveEntry]:
    """The entries in the order of the directory, after all headers agree; `file` is a descriptor.

    Raises `BuildError` ArchiveUnreadable, ArchiveUnsafe, and ArchiveTooLarge for what the headers state.
    """
    members, directory = _directory(file, meter)
    largest = max(members, key=lambda member: member.size, default=None)
    if largest is not None:
        meter.foretell(sum(member.size for member in members), largest.entry)
    for member, data_at in zip(members, _starts(file, members, directory), strict=True):
        yield _entry(file, member, data_at)


def _entry(file: int, member: Member, data_at: int) -> ArchiveEntry:
    named, mode = member.entry, member.mode
    file_type = stat.S_IFMT(mode)
    is_folder = member.name.endswith("/")
    if file_type not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK):
        raise unsafe(named, "is a device, pipe or socket")
    if file_type == stat.S_IFLNK:
        if is_folder or member.size > TARGET_BYTES:
            raise unsafe(named, f"is a link and {'a folder' if is_folder else f'has {member.size} bytes'}")
        target = b"".join(inflated(file, member, data_at)).decode("utf-8", "surrogateescape")
        return ArchiveEntry(number=member.number, name=member.name, kind="link", target=target)
    if is_folder:
        if member.size:
            raise unsafe(named, f"is a folder and states {member.size} bytes of data")
        for _ in inflated(file, member, data_at):  # none comes, but another archive may hide behind the stream's end
            pass
        return ArchiveEntry(number=member.number, name=member.name, kind="folder")
    if file_type == stat.S_IFDIR:
        raise unsafe(named, "is a folder by its mode and a file by its name")
    data = inflated(file, member, data_at)
    return ArchiveEntry(number=member.number, name=member.name, kind="file", mode=mode, size=member.size, data=data)


def inflated(file: int, member: Member, data_at: int) -> Iterator[bytes]:
    """The data in chunks of at most 256 KiB; size, checksum and the end of the stream are compared."""
    size, crc, at, end = 0, 0, data_at, data_at + member.packed
    inflater = isal_zlib.decompressobj(-15) if member.method == DEFLATED else None
    while at < end:
        packed = os.pread(file, min(CHUNK, end - at), at)
        if not packed:
            raise unreadable("the archive is cut off")
        at += len(packed)
        while packed:
            chunk, packed = _step(inflater, packed, member)
            size += len(chunk)
            if size > member.size:
                raise unsafe(member.entry, f"has more data than the {member.size} bytes that it states")
            if chunk:
                crc = isal_zlib.crc32(chunk, crc)
                yield chunk
    if inflater is not None and not inflater.eof and member.packed:
        raise unreadable(f"{member.entry.where} is damaged: its data ends too early", member.entry.where)
    if size != member.size or crc != member.crc:
        raise unreadable(f"{member.entry.where} is damaged: size or checksum differ", member.entry.where)


def _step(inflater: Any, packed: bytes, member: Member) -> tuple[bytes, bytes]:
    """(at most 256 KiB of data, the packed bytes still to read)."""
    if inflater is None:
        return packed, b""
    if inflater.eof:
        raise unsafe(member.entry, "has foreign bytes after its data")
    try:
        chunk = bytes(inflater.decompress(packed, CHUNK))
    except (isal_zlib.error, zlib.error) as error:  # type: ignore[misc]
        raise unreadable(f"{member.entry.where} is damaged: {error}", member.entry.where) from None
    if inflater.unused_data:
        raise unsafe(member.entry, "has foreign bytes after its data")
    left = bytes(inflater.unconsumed_tail)
    if not chunk and len(left) == len(packed):
        raise unreadable(f"{member.entry.where} is damaged: its data does not go on", member.entry.where)
    return chunk, left


def _directory(file: int, meter: Meter) -> tuple[list[Member], int]:
    """The members and where the directory starts."""
    length = os.fstat(file).st_size
    tail = os.pread(file, 65_557 + 76, max(0, length - 65_557 - 76))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + _END.size > len(tail):
        raise unreadable("the archive is cut off: it has no central directory")
    _, disk, first, here, total, size, offset, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):  # also a comment that holds the end of another directory
        raise unreadable("there are foreign bytes after the archive, or it is cut off")
    end = length - len(tail) + at
    locator = tail[max(0, at - _LOCATOR.size) : at]
    if locator.startswith(b"PK\x06\x07"):
        end, (disk, first, here, total, size, offset) = _wide_end(
            file, end - _LOCATOR.size, locator, (disk, first, here, total, size, offset)
        )
    if disk or first or here != total:
        raise unreadable("the archive is split over several files")
    if offset + size != end:
        raise unreadable("the central directory is not where the archive says; bytes were put before or into it")
    meter.entries(total)
    if size > DIRECTORY_LIMIT:
        raise too_large(f"a central directory of {in_words(size)}", in_words(DIRECTORY_LIMIT))
    data = os.pread(file, size, offset)
    if len(data) < size or size < total * _CENTRAL.size:
        raise unreadable("the central directory is cut off")
    return _members(data, total), offset


def _wide_end(
    file: int, locator_at: int, locator: bytes, narrow: tuple[int, ...]
) -> tuple[int, tuple[int, int, int, int, int, int]]:
    """ZIP64's end record: (where it starts, its fields). Raises ArchiveUnreadable where the old one disagrees."""
    _, disk, at, disks = _LOCATOR.unpack(locator)
    record = os.pread(file, _END64.size, at) if at < locator_at else b""
    if disk or disks > 1 or len(record) < _END64.size or record[:4] != b"PK\x06\x06":
        raise unreadable("the ZIP64 directory is not where the archive says")
    _, length, _, _, *fields = _END64.unpack(record)
    if at + 12 + length != locator_at:
        raise unreadable("there are foreign bytes behind the ZIP64 directory")
    for old, new, unset in zip(narrow, fields, (_MAX16, _MAX16, _MAX16, _MAX16, _MAX32, _MAX32), strict=True):
        if old not in (new, unset):
            raise unreadable("the archive states its directory in two ways")
    disk, first, here, total, size, offset = fields
    return at, (disk, first, here, total, size, offset)


def _members(data: bytes, total: int) -> list[Member]:
    members, at = [], 0
    for number in range(1, total + 1):
        if at + _CENTRAL.size > len(data):
            raise unreadable("the central directory is cut off")
        fields = _CENTRAL.unpack_from(data, at)
        if fields[0] != b"PK\x01\x02":
            raise unreadable("the central directory is damaged")
        name_end = at + _CENTRAL.size + fields[10]
        extra_end = name_end + fields[11]
        raw, extra = data[at + _CENTRAL.size : name_end], data[name_end:extra_end]
        at = extra_end + fields[12]
        if at > len(data):
            raise unreadable("the central directory is cut off")
        members.append(_member(number, fields, raw, extra))
    if at != len(data):
        raise unreadable("the central directory holds more than it says")
    return members


def _member(number: int, fields: tuple[int, ...], raw: bytes, extra: bytes) -> Member:
    made, flags, method = fields[1], fields[3], fields[4]
    size, packed, offset, disk = fields[9], fields[8], fields[16], fields[13]
    name = _name(raw, flags, made >> 8)
    named = ArchiveEntry(number=number, name=name, kind="file")
    if extra:
        found = _extra(extra, named)
        if _WIDE in found:
            size, packed, offset = _wide(found[_WIDE], (size, packed, offset), named)
        if _UNICODE_PATH in found:
            name = _unicode_name(found[_UNICODE_PATH], raw, name, named)
    if flags & (_ENCRYPTED | _STRONG | _MASKED):
        raise _encrypted(named)
    if method not in (STORED, DEFLATED):
        raise unreadable(f"{named.where} is compressed by method {method}; deflate is needed", named.where)
    if disk not in (0, _MAX16):
        raise unreadable("the archive is split over several files")
    if method == STORED and packed != size:
        raise unsafe(named, f"is stored and has two sizes, {packed} and {size}")
    return Member(
        number=number, name=name, raw_name=raw, flags=flags, method=method, crc=fields[7], packed=packed, size=size,
        offset=offset, mode=fields[15] >> 16 if made >> 8 in _UNIX else 0,
    )  # fmt: skip


def _encrypted(entry: ArchiveEntry) -> BuildError:
    message = f"{entry.where} is encrypted; send the archive without a password"
    return unreadable(message, entry.where)


def _name(raw: bytes, flags: int, system: int) -> str:
    """UTF-8 by its flag or because it is; else code page 437. Backslashes of Windows writers as unzip reads them."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape") if flags & _UTF8 else raw.decode("cp437")
    if system in _WINDOWS and "\\" in text and "/" not in text and not text.startswith("\\"):
        return text.replace("\\", "/")
    return text


def _extra(data: bytes, entry: ArchiveEntry) -> dict[int, bytes]:
    """The fields that matter; alignment padding behind the last one (zipalign) is tolerated."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, length = struct.unpack_from("<2H", data, at)
        at += 4 + length
        if at > len(data):
            raise unreadable(f"{entry.where} has a damaged extra field", entry.where)
        if code in (_WIDE, _UNICODE_PATH):
            if code in found:
                raise unsafe(entry, "has the same extra field twice")
            found[code] = data[at - length : at]
    if data[at:].strip(b"\0"):
        raise unreadable(f"{entry.where} has a damaged extra field", entry.where)
    return found


def _wide(field: bytes, values: tuple[int, ...], entry: ArchiveEntry) -> list[int]:
    """ZIP64: values that are all ones are in `field`, in this order. Values there without need must be the same."""
    numbers = [int.from_bytes(field[at : at + 8], "little") for at in range(0, len(field) - 7, 8)]
    if _MAX32 not in values:
        if any(number not in (*values, 0) for number in numbers):
            raise unsafe(entry, "has two sizes, in ZIP64 and without")
        return list(values)
    if len(numbers) < values.count(_MAX32):
        raise unreadable(f"{entry.where} has a ZIP64 field that is too short", entry.where)
    queue = iter(numbers)
    return [next(queue) if value == _MAX32 else value for value in values]


def _unicode_name(field: bytes, raw: bytes, name: str, entry: ArchiveEntry) -> str:
    """Info-ZIP's Unicode Path (APPNOTE 4.6.9): the real name, when its checksum fits the plain one."""
    if len(field) < 5 or field[0] != 1 or int.from_bytes(field[1:5], "little") != zlib.crc32(raw):
        return name  # stale (APPNOTE): the entry was renamed by a tool that does not know the field
    try:
        text = field[5:].decode()
    except UnicodeDecodeError:
        raise unsafe(entry, "has a Unicode name that is not UTF-8") from None
    spelled = re.sub(r"#[UL]([0-9A-Fa-f]{4,6})", "", name)  # how Info-ZIP writes what the code page lacks
    if _ascii(text) not in (_ascii(name), _ascii(spelled)):
        raise unsafe(entry, f'has a second name, "{shown(text)}"')
    return text


def _ascii(text: str) -> str:
    return "".join(char for char in text if char < "\x80" and char not in "?_")


def _starts(file: int, members: list[Member], directory: int) -> list[int]:
    """Where each member's data starts; local headers are compared, and together they must fill the file. Raises."""
    starts = [0] * len(members)
    order = sorted(range(len(members)), key=lambda one: members[one].offset)
    offsets = [members[one].offset for one in order]
    end = 0
    for index, following in zip(order, [*offsets, directory][1:], strict=True):
        member = members[index]
        if member.offset != end:
            fault = "overlaps another entry" if member.offset < end else "has foreign bytes before it"
            raise unsafe(member.entry, fault)
        starts[index], end = _compared(file, member, following)
        if end > directory:
            raise unsafe(member.entry, "reaches into the central directory")
    if end != directory:
        raise unreadable("there are foreign bytes before the central directory")
    return starts


def _compared(file: int, member: Member, following: int) -> tuple[int, int]:
    """(where the data starts, where the entry ends). Raises where the local header says something else."""
    entry = member.entry
    header = os.pread(file, _LOCAL_READ, member.offset)
    if len(header) < _LOCAL.size or header[:4] != b"PK\x03\x04":
        raise unreadable(f"{entry.where} has no local header", entry.where)
    _, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack_from(header)
    name_end = _LOCAL.size + name_length
    data_at = member.offset + name_end + extra_length
    if name_end + extra_length > len(header):
        header = os.pread(file, name_end + extra_length, member.offset)
    raw, extra = header[_LOCAL.size : name_end], header[name_end : name_end + extra_length]
    if flags & (_ENCRYPTED | _STRONG | _MASKED):
        raise _encrypted(entry)
    if extra:
        found = _extra(extra, entry)
        if _WIDE in found:
            size, packed = _wide(found[_WIDE], (size, packed), entry)
        if _UNICODE_PATH in found and _unicode_name(found[_UNICODE_PATH], raw, member.name, entry) != member.name:
            raise unsafe(entry, "has another name before its data than in the directory")
    deferred = bool(flags & _DESCRIPTOR)
    stated = (crc, packed, size)
    known = (member.crc, member.packed, member.size)
    agrees = stated == known or (deferred and all(one in (0, real) for one, real in zip(stated, known, strict=True)))
    same_flags = not (flags ^ member.flags) & (_DESCRIPTOR | (0 if raw.isascii() else _UTF8))
    if raw != member.raw_name or method != member.method or not same_flags or not agrees:
        raise unsafe(entry, "is described differently in the directory and before its data")
    end = data_at + member.packed
    return data_at, end + (_descriptor(file, end, member, following) if deferred else 0)


def _descriptor(file: int, at: int, member: Member, following: int) -> int:
    """The length of the data descriptor at `at`: with or without signature, sizes of 4 or 8 bytes.

    Writers disagree on all four (APPNOTE 4.3.9), so what fits up to the following header is accepted.
    """
    data = os.pread(file, 24, at)
    bodies = [struct.pack("<LQQ", member.crc, member.packed, member.size)]
    if max(member.packed, member.size) <= _MAX32:
        bodies.append(struct.pack("<3L", member.crc, member.packed, member.size))
    for body in bodies:
        for candidate in (b"PK\x07\x08" + body, body):
            if data.startswith(candidate) and at + len(candidate) == following:
                return len(candidate)
    raise unsafe(member.entry, "has a data descriptor that disagrees, or foreign bytes after it")
