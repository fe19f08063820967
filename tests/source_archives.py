"""Archives built byte by byte, and the table of hostile ones, each with its verdict.

`Tar` and `Zip` write one entry as told, however wrong; nothing here uses `tarfile` or `zipfile`. The verdict is a
reason of `builder/errors.py` and words that the message must hold. The first entry of most is innocent, so that a
refusal names entry 2. The honest ones are in `tests/unit/test_source_honest.py`.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from builder.source.unpack import ArchiveLimits

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

END = bytes(1024)
MIB = 1024 * 1024


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def Tar(
    name: str | bytes,
    data: bytes = b"",
    *,
    kind: bytes = b"0",
    mode: int = 0o644,
    target: str | bytes = "",
    size: int | bytes | None = None,
    magic: bytes = b"ustar\00000",
    prefix: bytes = b"",
    tail: bytes = b"",
    checksum: int | None = None,
    signed: bool = False,
    padding: bytes = b"\0",
) -> bytes:
    """One header and its data, padded. `size` overrides what the header states (bytes: the field as it is)."""
    stated = size if isinstance(size, bytes) else b"%011o\0" % (len(data) if size is None else size)
    head = _raw(name)[:100].ljust(100, b"\0") + b"%07o\0" % mode + b"0000000\0" * 2 + stated + b"00000000000\0"
    head += b" " * 8 + kind + _raw(target)[:100].ljust(100, b"\0") + magic.ljust(8, b"\0") + bytes(80)
    head += prefix.ljust(155, b"\0") + bytes(8) + tail.ljust(4, b"\0")
    total = sum(head) - (256 * sum(byte > 127 for byte in head) if signed else 0)
    head = head[:148] + b"%06o\0 " % (total if checksum is None else checksum) + head[156:]
    return head + data + padding * (-len(data) % 512)


def _summed(entry: bytes, start: bytes) -> bytes:
    """The entry with `start` before the digits of its checksum."""
    return entry[:148] + (start + entry[148:154]).ljust(8, b"\0") + entry[156:]


def pax(*records: tuple[str, str | bytes], kind: bytes = b"x") -> bytes:
    """A PAX header of `<length> <key>=<value>\\n` records."""
    body = b""
    for key, value in records:
        rest = b" " + key.encode() + b"=" + _raw(value) + b"\n"
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        body += str(length).encode() + rest
    return Tar("PaxHeaders/x", body, kind=kind)


def gnu(kind: bytes, text: str | bytes) -> bytes:
    """A GNU long name (`L`) or long link target (`K`)."""
    return Tar("././@LongLink", _raw(text) + b"\0", kind=kind, magic=b"ustar  \0")


def tar(*entries: bytes, end: bytes = END) -> bytes:
    return b"".join(entries) + end


def gz(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def xz(data: bytes, dictionary: int = 1 << 20) -> bytes:
    return lzma.compress(data, filters=[{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}])


def zst(data: bytes, window_log: int = 20) -> bytes:
    """As a pipe makes it: the frame states its window and no size."""
    wide: dict[int, int] = {
        zstd.CompressionParameter.window_log: window_log,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    packer = zstd.ZstdCompressor(options=wide)
    return packer.compress(data) + packer.flush()


PACKERS: dict[str, Callable[[bytes], bytes]] = {"xz": xz, "bzip2": bz2.compress, "Zstandard": zst}


@dataclass(frozen=True, kw_only=True)
class Zip:
    """One ZIP entry; `local` and `central` override single fields of their header after all else is computed.

    `descriptor` is a format of (crc, packed, size) put behind the data. `packed` overrides the bytes of the data.
    """

    name: str | bytes
    data: bytes = b""
    method: int = 8
    host: int = 3
    mode: int = stat.S_IFREG | 0o644
    flags: int = 0
    descriptor: str = ""
    extra: bytes = b""
    local_extra: bytes = b""
    packed: bytes | None = None
    before: bytes = b""
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)
    skip_local: bool = False

    def fields(self) -> dict[str, Any]:
        packed = deflated(self.data) if self.method == 8 else self.data
        packed = packed if self.packed is None else self.packed
        flags = self.flags | (8 if self.descriptor else 0)
        return {
            "name": _raw(self.name), "body": packed, "flags": flags, "method": self.method,
            "crc": zlib.crc32(self.data), "packed": len(packed), "size": len(self.data),
        }  # fmt: skip


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def extra(code: int, data: bytes) -> bytes:
    return struct.pack("<HH", code, len(data)) + data


def wide(*values: int) -> bytes:
    """The ZIP64 field."""
    return extra(1, struct.pack(f"<{len(values)}Q", *values))


def unicode_path(name: bytes, real: bytes) -> bytes:
    """Info-ZIP's Unicode Path field: the real name of an entry that is called `name`."""
    return extra(0x7075, b"\1" + struct.pack("<L", zlib.crc32(name)) + real)


def zipped(
    *entries: Zip,
    prefix: bytes = b"",
    before_directory: bytes = b"",
    after: bytes = b"",
    comment: bytes = b"",
    end64: dict[str, int] | None = None,
    end: dict[str, int] | None = None,
) -> bytes:
    """A ZIP. `end` overrides fields of the end record, `end64` adds a ZIP64 one with overrides."""
    out, directory = prefix, b""
    for entry in entries:
        out += entry.before
        known = {**entry.fields(), "offset": len(out)}
        local = known | entry.local
        stated = (0, 0, 0) if entry.descriptor else (known["crc"], known["packed"], known["size"])
        stated = tuple(
            entry.local.get(key, value) for key, value in zip(("crc", "packed", "size"), stated, strict=True)
        )
        if not entry.skip_local:
            head = (b"PK\3\4", 20, local["flags"], local["method"], 0, 0, *stated)
            out += struct.pack("<4s5H3L2H", *head, len(local["name"]), len(entry.local_extra))
            out += local["name"] + entry.local_extra + known["body"]
            if entry.descriptor:
                out += struct.pack(entry.descriptor, *_signed(entry.descriptor, known))
        there = known | {"made": entry.host << 8 | 20, "disk": 0, "attributes": entry.mode << 16} | entry.central
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", there["made"], 20, there["flags"], there["method"], 0, 0, there["crc"],
            there["packed"], there["size"], len(there["name"]), len(entry.extra), 0, there["disk"], 0,
            there["attributes"] & 0xFFFFFFFF, there["offset"],
        ) + there["name"] + entry.extra  # fmt: skip
    out += before_directory
    stated_end = {"disk": 0, "first": 0, "here": len(entries), "total": len(entries)}
    stated_end |= {"size": len(directory), "offset": len(out)}
    at = len(out) + len(directory)
    out += directory
    if end64 is not None:
        wide = stated_end | {"at": at, "length": 44} | end64
        out += struct.pack("<4sQ2H2L4Q", b"PK\6\6", wide["length"], 45, 45, *[wide[key] for key in stated_end])
        out += struct.pack("<4sLQL", b"PK\6\7", 0, wide["at"], 1)
    last = stated_end | (end or {})
    out += struct.pack("<4s4H2LH", b"PK\5\6", *[last[key] for key in stated_end], len(comment)) + comment
    return out + after


def _signed(form: str, known: dict[str, Any]) -> tuple[Any, ...]:
    values = (known["crc"], known["packed"], known["size"])
    return (b"PK\7\x08", *values) if "4s" in form else values


NARROW, WIDE, BARE, BARE_WIDE = "<4s3L", "<4sLQQ", "<3L", "<LQQ"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """An archive that must be refused for `reason`, in a message with `says`, under `limits`."""

    name: str
    data: bytes
    reason: str
    says: str
    limits: ArchiveLimits = field(default_factory=ArchiveLimits)


OK = Tar("ok.txt", b"ok")
OK_ZIP = Zip(name="ok.txt", data=b"ok")
LINK = stat.S_IFLNK | 0o777
Container = Callable[[bytes, bytes], bytes]
# How a name (and a link's target) can come: each must be judged alike.
NAMED: dict[str, Container] = {
    "v7": lambda name, _: tar(OK, Tar(name, b"x", magic=b"")),
    "ustar": lambda name, _: tar(OK, Tar(name, b"x")),
    "tar.gz": lambda name, _: gz(tar(OK, Tar(name, b"x"))),
    "gnu": lambda name, _: tar(OK, gnu(b"L", name), Tar("x", b"x", magic=b"ustar  \0")),
    "pax": lambda name, _: tar(OK, pax(("path", name)), Tar("x", b"x")),
    "zip": lambda name, _: zipped(OK_ZIP, Zip(name=name, data=b"x", flags=0x800)),
    "zip of Windows": lambda name, _: zipped(OK_ZIP, Zip(name=name, data=b"x", host=0, mode=0)),
}
LINKED: dict[str, Container] = {
    "ustar": lambda name, to: tar(OK, Tar(name, kind=b"2", target=to)),
    "gnu": lambda name, to: tar(OK, gnu(b"K", to), Tar(name, kind=b"2", magic=b"ustar  \0")),
    "pax": lambda name, to: gz(tar(OK, pax(("linkpath", to)), Tar(name, kind=b"2"))),
    "zip": lambda name, to: zipped(OK_ZIP, Zip(name=name, data=to, mode=LINK)),
}
BAD_NAMES: dict[str, tuple[bytes, str]] = {
    "above": (b"../evil", "leads out"),
    "above, later": (b"a/b/../../../evil", "leads out"),
    "inside by ..": (b"a/../b", "leads out"),
    "ends with ..": (b"a/..", "leads out"),
    "absolute": (b"/etc/evil", "absolute"),
    "absolute, two slashes": (b"//evil", "absolute"),
    "drive": (b"C:/evil", "absolute"),
    "drive, relative": (b"c:evil", "absolute"),
    "share": (b"\\\\host\\share", "absolute"),
    "backslashes above": (b"..\\..\\evil", "leads out"),
    "backslashes above, later": (b"a\\..\\..\\evil", "leads out"),
    "line end": (b"a\nb", "control characters"),
    "escape": (b"a\x1b[2Jb", '"a\\x1b[2Jb" holds control'),
    "delete": (b"a\x7f", "control characters"),
    "C1 control": (b"a\xc2\x9bb", "\\x9b"),
}
LONG_NAMES: dict[str, tuple[bytes, str]] = {
    "part too long": (b"x" * 256, "longer than 255"),
    "path too long": (b"/".join([b"y" * 200] * 11), "a path of 2210 bytes"),
}
BAD_TARGETS: dict[str, tuple[bytes, str]] = {
    "absolute": (b"/etc/passwd", "outside"),
    "above": (b"../x", "outside"),
    "far above": (b"../../../../etc/passwd", "outside"),
    "above, later": (b"a/../../x", "outside"),
    "parent": (b"..", "outside"),
    "backslashes": (b"..\\..\\x", "outside"),
    "drive": (b"C:/x", "outside"),
    "escape": (b"a\x1bb", "control"),
    "not UTF-8": (b"caf\xe9", "not UTF-8"),
    "itself": (b"link", "circle"),
}


def _by_name() -> list[Hostile]:
    rows = []
    for how, make in NAMED.items():
        for what, (name, says) in BAD_NAMES.items():
            rows.append(Hostile(name=f"name {what}, {how}", data=make(name, b""), reason="ArchiveUnsafe", says=says))
        deep = make(b"d/" * 32 + b"f", b"")
        rows.append(
            Hostile(name=f"too deep, {how}", data=deep, reason="ArchiveTooLarge", says="33 levels deep, limit 32")
        )
    for how in ("gnu", "pax", "zip"):
        for what, (name, says) in LONG_NAMES.items():
            data = NAMED[how](name, b"")
            rows.append(Hostile(name=f"name {what}, {how}", data=data, reason="ArchiveUnsafe", says=says))
    for how in ("ustar", "pax", "zip"):
        data = NAMED[how](b"caf\xe9", b"")
        rows.append(
            Hostile(name=f"name not UTF-8, {how}", data=data, reason="ArchiveUnsafe", says='"caf\\xe9" is not UTF-8')
        )
    for how in ("pax", "zip"):
        data = NAMED[how](b"a\0.txt", b"")
        rows.append(Hostile(name=f"name with NUL, {how}", data=data, reason="ArchiveUnsafe", says="a\\x00.txt"))
    for how, make in LINKED.items():
        for what, (target, says) in BAD_TARGETS.items():
            rows.append(
                Hostile(name=f"link {what}, {how}", data=make(b"link", target), reason="ArchiveUnsafe", says=says)
            )
    return rows


def _unsafe(name: str, data: bytes, says: str, limits: ArchiveLimits | None = None) -> Hostile:
    return Hostile(name=name, data=data, reason="ArchiveUnsafe", says=says, limits=limits or ArchiveLimits())


def _broken(name: str, data: bytes, says: str) -> Hostile:
    return Hostile(name=name, data=data, reason="ArchiveUnreadable", says=says)


def _large(name: str, data: bytes, says: str, **limits: int) -> Hostile:
    return Hostile(name=name, data=data, reason="ArchiveTooLarge", says=says, limits=ArchiveLimits(**limits))


def _link(name: str, target: str) -> bytes:
    return Tar(name, kind=b"2", target=target)


def _hard(name: str, target: str) -> bytes:
    return Tar(name, kind=b"1", target=target)


def _trees() -> list[Hostile]:
    folder = Tar("d/", kind=b"5", mode=0o755)
    through = [_link("a/b/l", "../.."), _link("m", "a/b/l/../x")]
    return [
        _unsafe("a link through a link", tar(OK, *through), "outside"),
        _unsafe("a link through a link, the other order", tar(OK, *reversed(through)), "outside"),
        _unsafe("a link through a link, zip", zipped(
            OK_ZIP, Zip(name="a/b/l", data=b"../..", mode=LINK), Zip(name="m", data=b"a/b/l/../x", mode=LINK)
        ), "outside"),
        _unsafe("links in a circle", tar(OK, _link("p", "q"), _link("q", "p")), "circle"),
        _unsafe("a link out of the folder that becomes the root", tar(Tar("top/ok", b""), _link("top/l", "../x")), "outside"),
        _unsafe("links that double", tar(OK, *[_link(f"l{i}", f"l{i + 1}/l{i + 1}") for i in range(60)]), "circle"),
        _unsafe("a file below a link", tar(_link("l", "."), Tar("l/x", b"x")), 'below "l"'),
        _unsafe("a folder below a link", tar(OK, _link("l", "."), Tar("l/d/", kind=b"5")), 'below "l"'),
        _unsafe("a file over a link", tar(_link("l", "ok"), Tar("l", b"x")), "twice"),
        _unsafe("a folder over a link", tar(_link("l", "."), Tar("l/", kind=b"5")), "a file before"),
        _unsafe("a link over a folder", tar(folder, _link("d", "..")), "a folder before"),
        _unsafe("a file over a file", tar(OK, OK), "twice"),
        _unsafe("a file over a file, by other spelling", tar(OK, Tar("./ok.txt", b"x")), "twice"),
        _unsafe("a file over a file, by two slashes", tar(Tar("a/b", b""), Tar("a//b", b"")), "twice"),
        _unsafe("a file over a file, zip", zipped(OK_ZIP, OK_ZIP), "twice"),
        _unsafe("a file over a folder", tar(folder, Tar("d", b"x")), "a folder before"),
        _unsafe("a folder over a file", tar(OK, Tar("ok.txt/", kind=b"5")), "a file before"),
        _unsafe("a folder over a file, zip", zipped(OK_ZIP, Zip(name="ok.txt/")), "a file before"),
        _unsafe("a file below a file", tar(OK, Tar("ok.txt/x", b"x")), "not a folder"),
        _unsafe("a file over the folder of another", tar(Tar("a/b", b""), Tar("a", b"")), "a folder before"),
        _unsafe("a file that is the root", tar(OK, Tar("./.", b"x")), "has no name"),
        _unsafe("a link that is the root", tar(OK, _link(".", "x")), "has no name"),
        _unsafe("a hard link above", tar(OK, _hard("h", "../../etc/passwd")), "leads out"),
        _unsafe("an absolute hard link", tar(OK, _hard("h", "/etc/passwd")), "absolute"),
        _unsafe("a hard link to nothing", tar(OK, _hard("h", "none")), "no file before it"),
        _unsafe("a hard link to a later file", tar(_hard("h", "ok.txt"), OK), "no file before it"),
        _unsafe("a hard link to itself", tar(OK, _hard("h", "h")), "no file before it"),
        _unsafe("a hard link to a link", tar(OK, _link("l", "ok.txt"), _hard("h", "l")), "no file before it"),
        _unsafe("a hard link to a folder", tar(OK, folder, _hard("h", "d")), "no file before it"),
        _unsafe("a hard link through a link", tar(OK, _link("l", "."), _hard("h", "l/ok.txt")), "no file before it"),
        _unsafe("a hard link over a file", tar(OK, Tar("b", b""), _hard("b", "ok.txt")), "twice"),
        _large("hard links to a large file", tar(Tar("a", bytes(MIB)), *[_hard(f"h{i}", "a") for i in range(4)]),
               "5 MiB unpacked, limit 4 MiB", unpacked=4 * MIB),
        *[_unsafe(f"type {kind!r}", tar(OK, Tar("dev", kind=kind)), says) for kind, says in (
            (b"3", "device"), (b"4", "device"), (b"6", "pipe"), (b"S", "sparse"), (b"D", "unknown type 'D'"),
            (b"M", "unknown"), (b"V", "unknown"), (b"N", "unknown"), (b"X", "unknown"), (b"\xff", "unknown"),
        )],
        *[_unsafe(f"zip mode {kind:o}", zipped(OK_ZIP, Zip(name="dev", mode=kind | 0o600)), "device") for kind in (
            stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK)],
    ]  # fmt: skip


LONG = "more than 540 B of names of files, folders and links, limit 540 B"


def long_names() -> bytes:
    """Each of 9,000 names has 2,000 bytes; what they are compressed to is small."""
    folder = "/".join(["d" * 240] * 8)
    return gz(tar(*[gnu(b"L", f"{folder}/{i}") + Tar("x", magic=b"ustar  \0") for i in range(9_000)]))


def _tars() -> list[Hostile]:
    two = Tar("two", b"2")
    bad_pax = [b"abc", b"5 a=b\n", b"99 a=b\n", b"0 a=b\n", b"6 a=bX", b"6 aab\n", b"-6 a=b\n", b"9" * 5000 + b" a=b\n"]
    return [
        _unsafe("two sizes", tar(OK, pax(("size", "1024")), Tar("a", b"x" * 512), Tar("hid", b"")), "two sizes"),
        _unsafe("two sizes, PAX says nothing is there", tar(OK, pax(("size", "0")), Tar("a", bytes(512))), "two sizes"),
        _broken("a size of words", tar(OK, pax(("size", "²")), two), "no number"),
        _broken("a negative size by PAX", tar(OK, pax(("size", "-1")), two), "no number"),
        _broken("a size of 5,000 digits", tar(OK, pax(("size", "9" * 5000)), two), "no number"),
        _large("a file of 8 EiB by PAX", tar(OK, pax(("size", str(2**63))), Tar("a", size=0)), "limit 128 MiB"),
        _large("a file of 2^88 bytes", tar(OK, Tar("a", size=b"\x80" + b"\xff" * 11)), "limit 128 MiB"),
        _broken("a negative size", tar(OK, Tar("a", size=b"\xff" * 12)), "not octal"),
        _broken("a size with an underscore", tar(OK, Tar("a", b"x" * 8, size=b"0000000_010\0")), "not octal"),
        _broken("a size with a prefix", tar(OK, Tar("a", b"x" * 8, size=b"0000000o10\0 ")), "not octal"),
        _broken("a size with a sign", tar(OK, Tar("a", b"x" * 8, size=b"+0000000010\0")), "not octal"),
        _broken("a size with a NUL in it", tar(OK, Tar("a", b"x" * 8, size=b"0000" + bytes(1) + b"000010 ")), "behind a NUL"),
        _unsafe("data behind a folder", tar(OK, Tar("d", bytes(512), kind=b"5")), "a folder and states 512"),
        _unsafe("data behind a v7 folder", tar(OK, Tar("d/", bytes(512))), "a folder and states 512"),
        _unsafe("data behind a link", tar(OK, Tar("l", two, kind=b"2", target="x")), "a link and states"),
        _unsafe("data behind a hard link", tar(OK, Tar("l", two, kind=b"1", target="ok.txt")), "a hard and states"),
        _unsafe("a sparse file by PAX", tar(OK, pax(("GNU.sparse.major", "1")), two), "sparse"),
        _unsafe("two PAX headers", tar(OK, pax(("path", "a")), pax(("path", "b")), two), "two ways"),
        _unsafe("two long names", tar(OK, gnu(b"L", "a"), gnu(b"L", "b"), two), "two ways"),
        _unsafe("two long targets", tar(OK, gnu(b"K", "a"), gnu(b"K", "b"), _link("l", "c")), "two ways"),
        _unsafe("PAX and GNU names", tar(OK, gnu(b"L", "a"), pax(("path", "b")), two), "differently"),
        _unsafe("a global name", tar(pax(("path", "a"), kind=b"g"), OK, two), "the path of every entry"),
        _unsafe("a global size", tar(pax(("size", "1"), kind=b"g"), OK, two), "the size of every entry"),
        _unsafe("a global target", tar(pax(("linkpath", "a"), kind=b"g"), OK), "the linkpath of every"),
        _unsafe("global sparse files", tar(pax(("GNU.sparse.major", "1"), kind=b"g"), OK), "GNU.sparse"),
        *[_unsafe(f"a global header behind {what}", tar(OK, one, pax(("comment", "z"), kind=b"g"), two), "stands between")
          for what, one in (("PAX", pax(("path", "q"))), ("a long name", gnu(b"L", "q")), ("a target", gnu(b"K", "q")))],
        _broken("a size behind a NUL", tar(OK, Tar("a", b"x" * 8, size=b"\x000000000010\0")), "behind a NUL"),
        _broken("a size behind spaces and a NUL", tar(OK, Tar("a", two, size=b"   \x0000002000")), "behind a NUL"),
        *[_broken(f"a checksum behind {start!r}", tar(OK, _summed(two, start), two), "behind a NUL")
          for start in (b"\0", b" \0")],
        *[_unsafe(f"a prefix {prefix!r} behind {magic!r}", tar(OK, Tar("a", magic=magic, prefix=prefix)), "two ways")
          for magic, prefix in ((b"", b"p"), (b"", b"13456701234\0" * 2), (b"ustar  \0", b"p"),
                                (b"ustar  \0", b"13456701234\0p"))],
        _unsafe("a prefix that runs into the times of star", tar(OK, Tar("a", prefix=b"p" * 155, tail=b"tar\0")), "star's"),
        _broken("a PAX name twice", tar(OK, pax(("path", "a"), ("path", "b")), two), "path twice"),
        *[_broken(f"damaged PAX {body[:9]!r}", tar(OK, Tar("p", body, kind=b"x"), two), "PAX") for body in bad_pax],
        _large("a PAX header of 2 MiB", gz(tar(OK, Tar("p", bytes(2 * MIB), kind=b"x"), two)), "limit 1 MiB"),
        _large("a long name of 2 MiB", gz(tar(OK, Tar("p", b"a" * 2 * MIB, kind=b"L"), two)), "limit 1 MiB"),
        _broken("a wrong checksum", tar(OK, Tar("two", b"2", checksum=1)), "after entry 1 has a wrong checksum"),
        _broken("a first header with a wrong checksum", tar(Tar("two", b"2", checksum=1)), "wrong checksum"),
        _broken("no end block", tar(OK, two, end=b""), "no end block"),
        _broken("cut in a header", tar(OK, two)[:1300], "in the middle of a header"),
        _broken("cut in data", tar(OK, Tar("a", b"x" * 5000))[:2500], "bytes of a file are missing"),
        _broken("cut in padding", tar(OK, two, end=b"")[:-100], "bytes are missing"),
        _broken("ends after a PAX header", tar(OK, pax(("path", "a"))), "no end block"),
        _broken("another archive behind it", tar(OK) + tar(two), "after the end"),
        _broken("foreign bytes behind it", tar(OK) + b"#!/bin/sh\n", "after the end"),
        _broken("a ZIP behind it", tar(OK) + zipped(OK_ZIP), "after the end"),
        _broken("another archive behind it, tar.gz", gz(tar(OK)) + gz(tar(two)), "after the end"),
        _broken("foreign bytes behind the gzip", gz(tar(OK)) + b"x", "gzip stream"),
        _broken("a ZIP behind the gzip", gz(tar(OK)) + zipped(OK_ZIP), "after the end of the gzip stream"),
        _broken("zeros between two gzip streams", gz(tar(OK, end=b"")) + bytes(9) + gz(tar(two)), "after the zeros behind"),
        _broken("many zeros between two gzip streams",
                gz(tar(OK, end=b"")) + bytes(MIB) + gz(tar(two)), "after the zeros behind the gzip stream"),
        _broken("zeros before a gzip stream that is whole", gz(tar(OK)) + bytes(9) + gz(tar(two)), "after the"),
        _broken("foreign bytes behind zeros behind the gzip", gz(tar(OK)) + bytes(9) + b"x", "after the"),
        _broken("gzip with a wrong length", gz(tar(OK))[:-4] + b"\1\0\0\0", "damaged"),
        _large("too many gzip streams", gz(tar(OK, end=b"")) + gz(b"") * 17_000 + gz(END), "more than 16384 gzip streams, limit 16384"),
        _broken("gzip cut", gz(tar(OK, Tar("a", bytes(range(256)) * 64)))[:-40], "cut off"),
        _broken("gzip without its checksum", gz(tar(OK))[:-8], "cut off"),
        _broken("gzip with a wrong checksum", gz(tar(OK))[:-8] + bytes(8), "damaged"),
        _broken("gzip of junk", b"\x1f\x8b\x08\0\0\0\0\0\0\3" + b"\xff" * 90, "damaged"),
        _broken("gzip header only", gz(tar(OK))[:12], "cut off"),
        _large("too many entries", tar(*[Tar(f"f{i}") for i in range(11)]), "more than 10 entries", entries=10),
        _large("folders without entries", gz(tar(*[Tar(f"{i}/a/b/c/f") for i in range(3)])), "imply, limit 10", entries=10),
        _large("too many headers", gz(pax(("comment", "x" * 1_000_000), kind=b"g")) * 140, "of headers, limit 128 MiB"),
        *[_large(f"a long name of 65 KiB, {what}", gz(tar(OK, long, two)), "a name of 65 KiB before entry 2, limit 64 KiB")
          for what, long in (
            ("GNU", Tar("p", b"a" * 65 * 1024, kind=b"L")), ("GNU target", Tar("p", b"a" * 65 * 1024, kind=b"K")),
            ("PAX", pax(("path", b"a" * 65 * 1024))), ("PAX target", pax(("linkpath", b"a" * 65 * 1024))),
            ("global", pax(("path", b"a" * 65 * 1024), kind=b"g")))],
        _large("long names", gz(tar(*[Tar("d" * 50 + f"{i:04}") for i in range(11)])), LONG, names=540),
        _large("long names of implied folders", tar(*[Tar(f"{i}/{'d' * 40}/f") for i in range(7)]), LONG, names=540),
        _large("long names of litter", tar(OK, *[Tar(f"{i}/._{'d' * 70}") for i in range(8)]), LONG, names=540),
        _large("long targets", tar(OK, *[_link(f"l{i}", "d" * 90) for i in range(6)]), LONG, names=540),
        _large("many names in the memory of a reader", long_names(), "more than 16 MiB of names", entries=50_000),
        _large("endless padding", gz(tar(OK) + bytes(17 * MIB)), "of padding, limit 16 MiB"),
        _large("a flat bomb", gz(tar(OK, Tar("a", bytes(3 * MIB)))), "times as much, limit 100 times"),
        _large("a flat bomb of many files", gz(tar(*[Tar(f"f{i}", bytes(MIB // 8)) for i in range(9)])), "after 1 MiB"),
        _large("a large file", tar(OK, Tar("a", bytes(MIB + 1))), "has 1048577 bytes, limit 1048576", file=MIB),
        _large("large in all", tar(*[Tar(f"f{i}", bytes(MIB)) for i in range(3)]),
               'unpacked, limit 2 MiB; largest: f2, 1 MiB', unpacked=2 * MIB),
        _large("a large file in __MACOSX", gz(tar(OK, Tar("__MACOSX/a", bytes(3 * MIB)))), "limit 100 times"),
    ]  # fmt: skip


def _packed() -> list[Hostile]:
    """What xz, bzip2 and Zstandard may be made of."""
    whole = tar(OK, Tar("a", bytes(range(256)) * 64))
    rows: list[Hostile] = []
    for name, pack in PACKERS.items():
        data = pack(whole)
        rows += [
            _unsafe(f"a name above, {name}", pack(tar(OK, Tar("../evil", b"x"))), "leads out"),
            _unsafe(f"a device, {name}", pack(tar(OK, Tar("d", kind=b"3"))), "a device"),
            _broken(f"cut, {name}", data[: len(data) // 2], "cut off"),
            _broken(f"its end is cut, {name}", data[:-3], "cut off in the middle of its"),
            _broken(f"foreign bytes behind it, {name}", data + b"x", f"after the end of the {name} stream"),
            _broken(f"zeros behind it, {name}", data + bytes(512), f"after the end of the {name} stream"),
            _broken(f"a ZIP behind it, {name}", data + zipped(OK_ZIP), f"after the end of the {name} stream"),
            _broken(f"another archive behind it, {name}", data + pack(tar(OK)), "after the end of the archive"),
            _broken(f"a changed byte, {name}", data[:40] + bytes([data[40] ^ 255]) + data[41:], "damaged"),
            _large(f"a bomb, {name}", pack(tar(OK, Tar("a", bytes(3 * MIB)))), "limit 100 times"),
            _large(f"a bomb in __MACOSX, {name}", pack(tar(OK, Tar("__MACOSX/a", bytes(3 * MIB)))), "limit 100 times"),
            _large(f"endless padding, {name}", pack(tar(OK) + bytes(17 * MIB)), "of padding, limit 16 MiB"),
            _large(f"too many streams, {name}", pack(b"") * 5000 + data, "streams, limit 4096"),
            Hostile(name=f"text, {name}", data=pack(b"hello " * 200), reason="NotAnArchive", says="this is text"),
            Hostile(name=f"a tar.gz, {name}", data=pack(gz(whole)), reason="NotAnArchive", says="this is a gzip of"),
            Hostile(name=f"a ZIP, {name}", data=pack(zipped(OK_ZIP)), reason="NotAnArchive", says="this is a Z"),
            Hostile(name=f"nothing, {name}", data=pack(b""), reason="ArchiveUnreadable", says="no end block"),
            Hostile(name=f"an empty tar, {name}", data=pack(END), reason="SourceEmpty", says="no file"),
        ]
    return [
        *rows,
        _large("a dictionary of 512 MiB", xz(whole, 512 * MIB), "asks for more memory"),
        _large("a window of 128 MiB", zst(whole, 27), "asks for more memory than a decoder may take, limit 64 MiB"),
        _large("a window of 2 GiB", zst(whole, 31), "asks for more memory"),
        _large("a small frame, then a window of 2 GiB", zst(whole[:2000]) + zst(whole[2000:], 31), "more memory"),
        _broken("a dictionary that nobody has", zst(whole)[:4] + b"\x01" + zst(whole)[5:], "damaged"),
        _broken("xz of another format behind xz", xz(whole) + bz2.compress(tar(OK)), "after the end of the xz stream"),
        _unsafe("a tar whose first name is a stream of bzip2", tar(Tar(b"BZh91AY&SY", b"x"), OK), "two ways"),
    ]  # fmt: skip


def _zips() -> list[Hostile]:
    one = OK_ZIP
    twice = Zip(name="ok.txt", data=b"ok", skip_local=True, central={"offset": 0})
    inner = zipped(one)
    text = b"hello " * 100
    return [
        _unsafe("another name in the local header", zipped(one, Zip(name="a", local={"name": b"b"})), "differently"),
        _unsafe("another method in the local header", zipped(one, Zip(name="a", local={"method": 0})), "differently"),
        _unsafe("another size in the local header", zipped(one, Zip(name="a", data=text, local={"size": 9})), "differently"),
        _unsafe("another packed size in the local header",
                zipped(one, Zip(name="a", data=text, local={"packed": 9})), "differently"),
        _unsafe("another checksum in the local header", zipped(one, Zip(name="a", local={"crc": 9})), "differently"),
        _unsafe("a descriptor by the local header only", zipped(one, Zip(name="a", local={"flags": 8})), "differently"),
        _unsafe("UTF-8 by the local header only", zipped(one, Zip(name="é", local={"flags": 0x800})), "differently"),
        _unsafe("an entry twice over the same data", zipped(one, twice), "overlaps"),
        _unsafe("an entry inside another", zipped(
            one, Zip(name="q", data=inner, method=0), Zip(name="ok.txt", data=b"ok", skip_local=True,
                                                           central={"offset": len(inner) - 76 + 31}),
        ), "overlaps"),
        _unsafe("bytes between entries", zipped(one, Zip(name="a", before=b"#!/bin/sh\n")), "foreign bytes before it"),
        _unsafe("a hidden entry between entries",
                zipped(one, Zip(name="a", before=inner[:40])), "foreign bytes before it"),
        _unsafe("bytes before the first entry", zipped(Zip(name="a", before=b"PK\3\4junk"), one), "foreign bytes before it"),
        _broken("bytes before the directory", zipped(one, before_directory=b"junk"), "before the central directory"),
        _broken("bytes after the archive", zipped(one, after=b"junk"), "after the archive"),
        _broken("bytes inside of the directory", zipped(one, end={"size": 60}), "not where"),
        _broken("a second archive after it", zipped(one) + inner, "not where"),
        _unsafe("a prefix that offsets count", zipped(one, prefix=b"PK\3\4" + bytes(60)), "foreign bytes before it"),
        Hostile(name="a script that unpacks itself", data=zipped(one, prefix=b"#!/bin/sh\nexit\n" + bytes(60)),
                reason="NotAnArchive", says="this is "),
        _broken("a prefix that offsets forget", b"PK\3\4" + bytes(60) + inner, "not where"),
        _broken("a second end in the comment", zipped(one, comment=b"PK\5\6" + bytes(18)), "not where"),
        _broken("a cut second end in the comment", zipped(one, comment=b"xPK\5\6y"), "no central directory"),
        _broken("a comment longer than the file", zipped(one, comment=b"abc")[:-1], "after the archive"),
        _broken("fewer entries than said", zipped(one, end={"here": 2, "total": 2}), "cut off"),
        _broken("more entries than said", zipped(one, one, end={"here": 1, "total": 1}), "more than it says"),
        _broken("split by count", zipped(one, end={"here": 0}), "split"),
        _broken("split by disk", zipped(one, end={"disk": 1}), "split"),
        _broken("split by entry", zipped(one, Zip(name="a", central={"disk": 1})), "split"),
        _broken("no directory", zipped(one)[:40], "cut off"),
        _broken("cut in the end record", zipped(one)[:-4], "cut off"),
        _broken("only a local header", zipped(one)[:30], "cut off"),
        _broken("a damaged directory", zipped(one).replace(b"PK\1\2", b"PK\1\3"), "damaged"),
        _broken("no local header", b"PK\3\5".join(zipped(one, Zip(name="a")).rsplit(b"PK\3\4", 1)), "no local header"),
        _broken("encrypted", zipped(one, Zip(name="a", data=text, flags=1)), "encrypted"),
        _broken("encrypted by the local header only", zipped(one, Zip(name="a", local={"flags": 1})), "encrypted"),
        _broken("strong encryption", zipped(one, Zip(name="a", flags=0x41)), "encrypted"),
        _broken("masked directory", zipped(one, Zip(name="a", flags=0x2000)), "encrypted"),
        _broken("AES", zipped(one, Zip(name="a", method=99, flags=1, packed=b"x")), "encrypted"),
        _broken("method bzip2", zipped(one, Zip(name="a", method=12, packed=b"x")), "method 12"),
        _broken("method LZMA", zipped(one, Zip(name="a", method=14, packed=b"x")), "method 14"),
        _broken("a wrong checksum", zipped(one, Zip(name="a", data=b"x", local={"crc": 1}, central={"crc": 1})), "checksum"),
        _unsafe("more data than stated", zipped(
            one, Zip(name="a", data=bytes(9999), local={"size": 9}, central={"size": 9})), "more data than the 9 bytes"),
        _broken("less data than stated", zipped(
            one, Zip(name="a", data=b"abc", local={"size": 9}, central={"size": 9})), "size or checksum"),
        _unsafe("bytes behind the deflated data",
                zipped(one, Zip(name="a", data=text, packed=deflated(text) + b"hid")), "after its data"),
        _broken("deflated data without its end",
                zipped(one, Zip(name="a", data=text, packed=deflated(text)[:-2])), "damaged"),
        _broken("junk as deflated data", zipped(one, Zip(name="a", data=text, packed=b"\xff" * 30)), "damaged"),
        _unsafe("stored with two sizes", zipped(
            one, Zip(name="a", data=b"abc", method=0, local={"size": 2}, central={"size": 2})), "two sizes, 3 and 2"),
        _unsafe("a wrong descriptor", zipped(
            one, Zip(name="a", data=text, descriptor=NARROW, central={"crc": 5})), "descriptor"),
        _unsafe("no descriptor", zipped(one, Zip(name="a", data=text, flags=8)), "descriptor"),
        _unsafe("bytes behind a descriptor", zipped(
            one, Zip(name="a", data=text, descriptor=NARROW), Zip(name="b", before=b"hid")), "foreign bytes"),
        _unsafe("sizes in ZIP64 that nobody needs", zipped(
            one, Zip(name="a", data=text, extra=wide(9, 9))), "two sizes, in ZIP64"),
        _unsafe("other sizes in the local ZIP64 field", zipped(
            one, Zip(name="a", data=text, local={"size": 2**32 - 1, "packed": 2**32 - 1},
                     local_extra=wide(9, 9))), "differently"),
        _broken("a ZIP64 field that is too short", zipped(
            one, Zip(name="a", data=text, central={"size": 2**32 - 1}, extra=extra(1, b"1234"))), "too short"),
        _unsafe("the ZIP64 field twice", zipped(one, Zip(name="a", extra=wide(0) + wide(0))), "twice"),
        _broken("an extra field that is too long", zipped(one, Zip(name="a", extra=b"\1\0\xff\0")), "extra field"),
        _broken("a local extra field that is too long",
                zipped(one, Zip(name="a", local_extra=b"\1\0\xff\0")), "extra field"),
        _broken("another ZIP64 directory", zipped(one, end64={"total": 2, "here": 2}), "two ways"),
        _broken("a ZIP64 directory elsewhere", zipped(one, end64={"at": 3}), "ZIP64 directory"),
        _broken("bytes behind the ZIP64 directory", zipped(one, end64={"length": 40}), "foreign bytes behind"),
        _unsafe("a second name by Unicode field", zipped(
            one, Zip(name="a.py", extra=unicode_path(b"a.py", b"b.py"))), 'second name, "b.py"'),
        _unsafe("a traversal by Unicode field", zipped(
            one, Zip(name="a.py", extra=unicode_path(b"a.py", b"../evil"))), "second name"),
        _unsafe("another Unicode field in the local header", zipped(
            one, Zip(name=b"\x82.py", extra=unicode_path(b"\x82.py", "é.py".encode()),
                     local_extra=unicode_path(b"\x82.py", "è.py".encode()))), "another name before"),
        _unsafe("a Unicode field that is not UTF-8", zipped(
            one, Zip(name="a", extra=unicode_path(b"a", b"\xff"))), "not UTF-8"),
        _unsafe("a folder with data", zipped(one, Zip(name="d/", data=b"x")), "states 1 bytes"),
        _unsafe("an archive hidden in a folder", zipped(
            one, Zip(name="d/", descriptor=NARROW, packed=deflated(b"") + inner)), "after its data"),
        _unsafe("data hidden in a folder", zipped(one, Zip(name="d/", packed=deflated(text))), "more data than the 0"),
        _broken("a folder with a checksum", zipped(
            one, Zip(name="d/", local={"crc": 1}, central={"crc": 1})), "checksum"),
        _unsafe("a folder by mode only", zipped(one, Zip(name="d", mode=stat.S_IFDIR | 0o755)), "a folder by its mode"),
        _unsafe("a link that is a folder", zipped(one, Zip(name="d/", data=b"x", mode=LINK)), "a folder"),
        _unsafe("a link to 4 KiB", zipped(one, Zip(name="l", data=b"x/" * 2048, mode=LINK)), "has 4096 bytes"),
        _unsafe("a ZIP and a tar at once", polyglot(), "at once"),
        _large("a flat bomb", zipped(one, Zip(name="a", data=bytes(3 * MIB))), "times as much, limit 100"),
        _large("a bomb that lies", zipped(
            one, *[Zip(name=f"a{i}", data=bytes(3 * MIB)) for i in range(3)]), "limit 100 times"),
        _large("a file of 3.9 GiB by its header", zipped(
            one, Zip(name="a", local={"size": 2**32 - 9}, central={"size": 2**32 - 9})), "unpacked, limit 512 MiB; largest: a"),
        _large("a file of 2^62 bytes by ZIP64", zipped(
            one, Zip(name="a", central={"size": 2**32 - 1}, extra=wide(2**62))), "limit 512 MiB"),
        _large("a large file", zipped(one, Zip(name="a", data=text * 9)), "limit 1000 B", file=1000),
        _large("large in all", zipped(one, *[Zip(name=f"a{i}", data=text) for i in range(4)]),
               "2.3 KiB unpacked, limit 2 KiB; largest: a0, 600 B", unpacked=2048),
        _large("too many entries", zipped(*[Zip(name=f"a{i}") for i in range(11)]), "11 entries, limit 10", entries=10),
        _large("65,535 entries by count", zipped(one, end={"here": 65535, "total": 65535}), "65535 entries"),
        _large("2^40 entries by ZIP64", zipped(
            one, end64={"here": 2**40, "total": 2**40}, end={"here": 65535, "total": 65535}), "entries, limit 50000"),
        _large("long names", zipped(*[Zip(name="d" * 50 + f"{i:04}") for i in range(11)]), LONG, names=540),
        _large("long targets", zipped(one, *[Zip(name=f"l{i}", data=b"d" * 90, mode=LINK) for i in range(6)]), LONG, names=540),
        _large("folders without entries", zipped(*[Zip(name=f"{i}/a/b/f") for i in range(3)]), "imply, limit 10", entries=10),
        _large("a directory of 17 MiB", directory_bomb(), "central directory of 17"),
    ]  # fmt: skip


def polyglot() -> bytes:
    """A valid ZIP whose first 512 bytes are a valid tar header (of a file named after ZIP's magic)."""
    name = bytearray(b"\0" * 482)
    made = bytearray(zipped(Zip(name=bytes(name), data=b"x", method=0)))
    made[30:54] = b"0" * 24
    made[124 : 124 + 12] = b"00000000000\0"
    made[156:157] = b"0"
    made[257:265] = b"ustar\00000"
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made[:512])
    return bytes(made)


def directory_bomb() -> bytes:
    filler = extra(0x9999, bytes(60_000))
    return zipped(*[Zip(name=f"f{i}", extra=filler) for i in range(300)])


def _others() -> list[Hostile]:
    def other(name: str, data: bytes, says: str, reason: str = "NotAnArchive") -> Hostile:
        return Hostile(name=name, data=data, reason=reason, says=says)

    png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\x06\0\0\0"
    return [
        other("nothing", b"", "no bytes", "SourceEmpty"),
        other("an empty tar", END * 10, "no file", "SourceEmpty"),
        other("an empty tar.gz", gz(END), "no file", "SourceEmpty"),
        other("an empty zip", zipped(), "no file", "SourceEmpty"),
        other("a tar of folders", tar(Tar("d/", kind=b"5")), "no file", "SourceEmpty"),
        other("a zip of folders", zipped(Zip(name="d/"), Zip(name="e/")), "no file", "SourceEmpty"),
        other("a zip of macOS's forks", zipped(Zip(name="__MACOSX/._a", data=b"x")), "no file", "SourceEmpty"),
        other("plain text", b"print('hello')\n", "plain text"),
        other("a picture", png, "a PNG image"),
        other("a gzip of text", gz(b"hello " * 200), "a gzip of text"),
        other("a gzip of a picture", gz(png + bytes(600)), "a gzip of a PNG image"),
        other("a gzip of a gzip", gz(gz(tar(OK))), "a gzip of a gzip"),
        other("a gzip of a zip", gz(zipped(OK_ZIP)), "a gzip of a Z"),
        other("a gzip of nothing", gz(b""), "an empty gzip"),
        other("an xz of junk", b"\xfd7zXZ\0\0\4" + bytes(40), "xz stream is damaged", "ArchiveUnreadable"),
        other("7z", b"7z\xbc\xaf'\x1c\0\4" + bytes(40), "a 7-zip archive"),
        other("a program", b"\x7fELF\2\1\1" + bytes(60), "an ELF"),
        other("text in UTF-16", "hello".encode("utf-16"), "this is"),
        other("one NUL", b"\0", "this is"),
        other("a self-extracting zip", b"MZ" + bytes(90) + zipped(OK_ZIP), "executable"),
    ]


HOSTILE: tuple[Hostile, ...] = (*_by_name(), *_trees(), *_tars(), *_packed(), *_zips(), *_others())
