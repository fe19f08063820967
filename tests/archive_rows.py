"""Archives made in test code: hostile ones with their verdict, honest ones that must be accepted."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial

Make = Callable[[], bytes]
GOOD = ("main.go", b"package main\n")


def tar(*entries: tuple[str, bytes] | tarfile.TarInfo, form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry, io.BytesIO(b"x" * entry.size))
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def zipped(
    *entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, system: int = 3, mode: int = 0o644
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system, info.compress_type = name, system, method
            info.external_attr = (mode | 0o100000) << 16
            archive.writestr(info, data)
    return out.getvalue()


def zip_link(name: str, target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(*GOOD)
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, target)
    return out.getvalue()


def patched(data: bytes, old: bytes, new: bytes, count: int = 1) -> bytes:
    assert old in data
    return data.replace(old, new, count)


def flagged(data: bytes, flag: int) -> bytes:
    """A ZIP whose headers carry one more flag (1: encrypted)."""
    out = bytearray(data)
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = out.find(mark)
        while start >= 0:
            out[start + at] |= flag
            start = out.find(mark, start + 4)
    return bytes(out)


def streamed_zip(name: str, data: bytes, lie: int = 0) -> bytes:
    """As a streaming writer does it: sizes in a data descriptor behind the data."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    raw, crc = name.encode(), zlib.crc32(data)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 8, 8, 0, 0, 0, 0, 0, len(raw), 0) + raw
    descriptor = struct.pack("<4s3L", b"PK\x07\x08", crc + lie, len(packed), len(data))
    offset = len(local) + len(packed) + len(descriptor)
    central = struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", 0x314, 20, 8, 8, 0, 0, crc, len(packed), len(data), len(raw), 0, 0, 0, 0,
        0o100644 << 16, 0,
    ) + raw  # fmt: skip
    return (
        local
        + packed
        + descriptor
        + central
        + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), offset, 0)
    )


def bomb_gz(size: int) -> bytes:
    """A tar.gz of one file of zeros, `size` bytes unpacked."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = packer.compress(info.tobuf())
    block = b"\0" * (1 << 20)
    for _ in range(size >> 20):
        out += packer.compress(block)
    return out + packer.flush()


UNSAFE_NAMES = (
    "../x", "a/../../x", "/etc/passwd", "//x", "C:/x", "c:x", "a/../..", "..", "a\x1b[2Jx", "a\nb", "a\x7fb", "\\x",
    "x" * 300,
)  # fmt: skip
BAD_TARGETS = ("/etc/passwd", "../x", "a/../../x", "../../../../root", "")
KINDS = {"char": tarfile.CHRTYPE, "block": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE, "sparse": tarfile.GNUTYPE_SPARSE}


def hostile() -> list[tuple[str, Make, str]]:
    """(name, archive, reason)."""
    rows: list[tuple[str, Make, str]] = []
    for name in UNSAFE_NAMES:
        for form, label in ((tarfile.PAX_FORMAT, "pax"), (tarfile.GNU_FORMAT, "gnu")):
            rows.append((f"{label} {name[:20]!r}", partial(tar, GOOD, (name, b"x"), form=form), "ArchiveUnsafe"))
        rows.append((f"tar.gz {name[:20]!r}", partial(tar, GOOD, (name, b"x"), mode="w:gz"), "ArchiveUnsafe"))
        if "\\" not in name:
            rows.append((f"zip {name[:20]!r}", partial(zipped, GOOD, (name, b"x")), "ArchiveUnsafe"))
    for target in BAD_TARGETS:
        rows.append(
            (f"tar link {target!r}", partial(tar, GOOD, special("l", tarfile.SYMTYPE, target)), "ArchiveUnsafe")
        )
        rows.append((f"zip link {target!r}", partial(zip_link, "l", target), "ArchiveUnsafe"))
        rows.append(
            (f"hard link {target!r}", partial(tar, GOOD, special("l", tarfile.LNKTYPE, target)), "ArchiveUnsafe")
        )
    for label, kind in KINDS.items():
        rows.append((label, partial(tar, GOOD, special("d", kind)), "ArchiveUnsafe"))
    through = (special("d", tarfile.SYMTYPE, "."), ("d/x", b"x"))
    rows += [
        ("a file through a link", lambda: tar(GOOD, *through), "ArchiveUnsafe"),
        ("a file below a file", lambda: tar(GOOD, ("main.go/x", b"x")), "ArchiveUnsafe"),
        ("a folder over a file", lambda: tar(GOOD, special("main.go", tarfile.DIRTYPE)), "ArchiveUnsafe"),
        ("the same name twice, tar", lambda: tar(GOOD, GOOD), "ArchiveUnsafe"),
        ("a link, then a file of its name", lambda: tar(special("a", tarfile.SYMTYPE, "b"), ("a", b"x")), "ArchiveUnsafe"),
        ("a hard link to a later file", lambda: tar(special("a", tarfile.LNKTYPE, "b"), ("b", b"x")), "ArchiveUnsafe"),
        ("a hard link to a link", lambda: tar(GOOD, special("s", tarfile.SYMTYPE, "main.go"),
                                              special("h", tarfile.LNKTYPE, "s")), "ArchiveUnsafe"),
        ("too deep", lambda: tar(("a/" * 40 + "x", b"x")), "ArchiveTooLarge"),
        ("no file", lambda: tar(special("d", tarfile.DIRTYPE)), "SourceEmpty"),
        ("an empty zip", lambda: zipped(), "SourceEmpty"),
        ("no bytes", lambda: b"", "SourceEmpty"),
        ("plain text", lambda: b"hello", "NotAnArchive"),
        ("a PNG", lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0" * 40, "NotAnArchive"),
        ("a gzip of text", lambda: gzip.compress(b"hello"), "NotAnArchive"),
        ("an ELF", lambda: b"\x7fELF\x02\x01\x01" + b"\0" * 60, "NotAnArchive"),
        ("truncated tar", lambda: tar(("a", b"x" * 5000))[:2000], "ArchiveUnreadable"),
        ("truncated tar.gz", lambda: tar(("a", bytes(range(256)) * 99), mode="w:gz")[:400], "ArchiveUnreadable"),
        ("a broken checksum", lambda: patched(tar(GOOD, ("bb", b"x"), form=tarfile.USTAR_FORMAT), b"bb", b"bc"), "ArchiveUnreadable"),
        ("more after the end", lambda: tar(GOOD) + b"more" * 200, "ArchiveUnreadable"),
        ("truncated zip", lambda: zipped(GOOD)[:-10], "ArchiveUnreadable"),
        ("zip without its end", lambda: zipped(GOOD)[:40], "ArchiveUnreadable"),
        ("encrypted zip", lambda: flagged(zipped(GOOD), 1), "ArchiveUnreadable"),
        ("zip with a tail", lambda: zipped(GOOD) + b"tail", "ArchiveUnreadable"),
        ("zip with a head", lambda: b"PK\x03\x04" + b"\0" * 40 + zipped(GOOD), "ArchiveUnreadable"),
        ("other local name", lambda: patched(zipped(GOOD), b"main.go", b"evil.go"), "ArchiveUnsafe"),
        ("a wrong checksum", lambda: patched(zipped(GOOD, method=0), b"package", b"pAckage"), "ArchiveUnreadable"),
        ("the same name twice, zip", lambda: patched(zipped(GOOD, ("main.gp", b"y")), b"main.gp", b"main.go", 2), "ArchiveUnsafe"),
        ("a lying descriptor", lambda: streamed_zip("a", b"hello" * 9, lie=1), "ArchiveUnsafe"),
        ("bzip2 in zip", lambda: zipped(GOOD, method=zipfile.ZIP_BZIP2), "ArchiveUnreadable"),
        ("a bomb in tar.gz", lambda: bomb_gz(160 << 20), "ArchiveTooLarge"),
        ("a bomb in zip", lambda: zipped(("z", b"\0" * (160 << 20))), "ArchiveTooLarge"),
        ("too many entries", lambda: zipped(*((f"f{n}", b"") for n in range(50_001)), method=zipfile.ZIP_STORED), "ArchiveTooLarge"),
    ]  # fmt: skip
    return rows


def windows_zip() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("x")
        info.filename, info.create_system = "src\\main.go", 0
        archive.writestr(info, GOOD[1])
        archive.writestr("go.mod", "module x\n")
    return out.getvalue()


def global_header_tar() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a" * 40}) as archive:
        info = tarfile.TarInfo(GOOD[0])
        info.size = len(GOOD[1])
        archive.addfile(info, io.BytesIO(GOOD[1]))
    return out.getvalue()


def honest() -> list[tuple[str, Make, set[str]]]:
    """(name, archive, the files that come out)."""
    one, long = {"main.go"}, "d/" * 20 + "n" * 120
    rows: list[tuple[str, Make, set[str]]] = [
        ("pax global header", global_header_tar, one),
        ("streamed zip", lambda: streamed_zip("main.go", GOOD[1]), one),
        ("windows zip", windows_zip, {"src/main.go", "go.mod"}),
        ("stored zip", lambda: zipped(GOOD, method=0), one),
        ("deflated zip", lambda: zipped(GOOD), one),
        ("zip of an empty file", lambda: zipped(GOOD, ("e", b"")), {"main.go", "e"}),
        ("zip with folders", lambda: zipped(("d/", b""), ("d/a", b"1"), GOOD), {"d/a", "main.go"}),
        ("zip with __MACOSX", lambda: zipped(GOOD, ("__MACOSX/._main.go", b"x")), {"main.go"}),
        ("zip with a link", lambda: zip_link("l", "main.go"), {"main.go", "l"}),
        ("padded tar", lambda: tar(GOOD) + b"\0" * 10240, one),
        ("hard link", lambda: tar(GOOD, special("h", tarfile.LNKTYPE, "main.go")), {"main.go", "h"}),
        ("link inside", lambda: tar(GOOD, special("d/l", tarfile.SYMTYPE, "../main.go")), {"main.go", "d/l"}),
        ("./ names", lambda: tar(("./main.go", b"x")), one),
        ("a folder twice", lambda: tar(special("d", tarfile.DIRTYPE), special("d", tarfile.DIRTYPE), ("d/x", b""), GOOD),
         {"d/x", "main.go"}),
        ("one folder as root", lambda: tar(("project-1.0/main.go", b"x"), mode="w:gz"), one),
        ("npm pack", lambda: tar(("package/index.js", b"x"), ("package/package.json", b"{}"), mode="w:gz"),
         {"index.js", "package.json"}),
    ]  # fmt: skip
    for form, label in ((tarfile.USTAR_FORMAT, "ustar"), (tarfile.GNU_FORMAT, "gnu"), (tarfile.PAX_FORMAT, "pax")):
        for mode in ("w", "w:gz"):
            rows.append(
                (f"{label} {mode}", partial(tar, GOOD, ("a/b", b"x"), form=form, mode=mode), {"main.go", "a/b"})
            )
            if form != tarfile.USTAR_FORMAT:
                rows.append(
                    (
                        f"{label} {mode} long",
                        partial(tar, GOOD, (long, b"x"), form=form, mode=mode),
                        {"main.go", long},
                    )
                )
                rows.append(
                    (
                        f"{label} {mode} ünïcode",
                        partial(tar, GOOD, ("ü/ñ", b"x"), form=form, mode=mode),
                        {"main.go", "ü/ñ"},
                    )
                )
    return rows
