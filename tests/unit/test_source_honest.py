"""What honest writers make is accepted and unpacks to exactly their tree."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from builder.source.unpack import ArchiveLimits, unpack
from tests.source_archives import (
    BARE,
    BARE_WIDE,
    LINK,
    NARROW,
    OK,
    PACKERS,
    WIDE,
    Tar,
    Zip,
    extra,
    gnu,
    gz,
    pax,
    tar,
    unicode_path,
    wide,
    zipped,
)

Want = dict[str, bytes | str]
"""Path to content; a `str` is a link's target. A path that ends with `*` is executable, with `/` an empty folder."""
SOURCE: Want = {"main.go": b"package main\n", "sub/run.sh*": b"#!/bin/sh\n", "sub/deep/empty": b""}


@dataclass(frozen=True, kw_only=True)
class Honest:
    """An archive that must be accepted, the tree that comes out, and words of its one warning."""

    name: str
    data: bytes
    want: Want = field(default_factory=lambda: SOURCE)
    warns: str = ""


def found(root: Path) -> Want:
    tree: Want = {}
    for folder, folders, names in os.walk(root):
        for name in (*names, *(one for one in folders if Path(folder, one).is_symlink())):
            path = Path(folder, name)
            mark = "*" if not path.is_symlink() and path.stat().st_mode & 0o111 else ""
            tree[path.relative_to(root).as_posix() + mark] = (
                os.readlink(path) if path.is_symlink() else path.read_bytes()
            )
        if not names and not folders:
            tree[Path(folder).relative_to(root).as_posix() + "/"] = b""
    return tree


def by_tarfile(form: int, prefix: str = "", mode: str = "w", want: Want = SOURCE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as made:  # type: ignore[call-overload]
        for path, data in want.items():
            info = tarfile.TarInfo(prefix + path.rstrip("*"))
            info.mode, info.mtime, info.uname = 0o755 if path.endswith("*") else 0o640, 1_700_000_000.5, "jörg"
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                made.addfile(info)
            else:
                info.size = len(data)
                made.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Pipe(io.RawIOBase):
    """A sink that cannot seek, as stdout: `zipfile` then writes data descriptors."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(memoryview(data))


def by_zipfile(out: io.BytesIO | Pipe, method: int, comment: bytes = b"", force: bool = False) -> bytes:
    with zipfile.ZipFile(out, "w", method) as made:
        made.comment = comment
        for path, data in SOURCE.items():
            info = zipfile.ZipInfo(path.rstrip("*"))
            info.compress_type = method
            info.external_attr = (stat.S_IFREG | (0o755 if path.endswith("*") else 0o644)) << 16
            with made.open(info, "w", force_zip64=force) as entry:
                assert isinstance(data, bytes)
                entry.write(data)
    return bytes(out.data) if isinstance(out, Pipe) else out.getvalue()


LONG = "/".join(["long" * 20] * 4) + "/file.txt"
GIT = pax(("comment", "1" * 40), kind=b"g")
FILES = (Tar("main.go", b"package main\n"), Tar("sub/run.sh", b"#!/bin/sh\n", mode=0o755), Tar("sub/deep/empty"))
CUT = tuple(tar(*FILES)[at : at + 512] for at in range(0, len(tar(*FILES)), 512))
ZIPS = (
    Zip(name="main.go", data=b"package main\n"),
    Zip(name="sub/run.sh", data=b"#!/bin/sh\n", mode=stat.S_IFREG | 0o755),
    Zip(name="sub/deep/empty", method=0),
)
TIMES = extra(0x5455, b"\1" + bytes(4)) + extra(0x7875, b"\1\4\0\0\0\0\4\0\0\0\0")  # Info-ZIP's UT and ux
ONE: Want = {"a.txt": b"hello hello"}
NAMES: Want = {LONG: b"1", "größe/日本.txt": b"2", "e\u0301/🏳\u200d🌈": b"3", "to": LONG, "top": b""}


def _described(form: str, **more: Any) -> bytes:
    return zipped(*[Zip(name=one.name, data=one.data, mode=one.mode, descriptor=form, **more) for one in ZIPS])


def _windows(*names: str) -> bytes:
    return zipped(*[Zip(name=name, data=b"" if name[-1] == "\\" else b"x", host=0, mode=0) for name in names])


TARS = [
    *[
        Honest(name=f"tarfile {name} {mode}", data=by_tarfile(form, mode=mode))
        for name, form in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT))
        for mode in ("w", "w:gz")
    ],
    *[
        Honest(name=f"tarfile {form}, long and unicode names", data=by_tarfile(form, want=NAMES), want=NAMES)
        for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
    ],
    Honest(
        name="v7, no magic",
        data=tar(*[Tar(f"f{i}", b"x", magic=b"", kind=b"\0") for i in range(2)]),
        want={"f0": b"x", "f1": b"x"},
    ),
    Honest(
        name="v7, folder by its slash",
        data=tar(OK, Tar("d/", magic=b"", kind=b"\0")),
        want={"ok.txt": b"ok", "d/": b""},
    ),
    Honest(name="v7, signed checksum", data=tar(Tar("é", b"x", magic=b"", signed=True)), want={"é": b"x"}),
    Honest(
        name="ustar prefix",
        data=tar(OK, Tar("b.txt", b"x", prefix=b"a" * 100)),
        want={"ok.txt": b"ok", "a" * 100 + "/b.txt": b"x"},
    ),
    Honest(
        name="GNU magic, times where ustar has the prefix",
        data=tar(OK, Tar("a", b"x", magic=b"ustar  \0", prefix=b"14000000000")),
        want={"ok.txt": b"ok", "a": b"x"},
    ),
    Honest(
        name="GNU, target before name",
        data=tar(OK, gnu(b"K", LONG), gnu(b"L", LONG + "2"), Tar("x", kind=b"2", magic=b"ustar  \0")),
        want={"ok.txt": b"ok", LONG + "2": LONG},
    ),
    Honest(
        name="GNU, size in base 256",
        data=tar(Tar("a", b"xyz", size=b"\x80" + bytes(10) + b"\3"), OK),
        want={"a": b"xyz", "ok.txt": b"ok"},
    ),
    Honest(name="contiguous file", data=tar(OK, Tar("a", b"x", kind=b"7")), want={"ok.txt": b"ok", "a": b"x"}),
    Honest(
        name="numbers with spaces",
        data=tar(OK, Tar("a", b"x", size=b"         1 \0")),
        want={"ok.txt": b"ok", "a": b"x"},
    ),
    Honest(name="GNU tar -b 2048", data=tar(*FILES, end=bytes(2**20))),
    Honest(name="one end block", data=tar(*FILES, end=bytes(512))),
    Honest(name="padding of junk behind data", data=tar(Tar("a.txt", b"hello hello", padding=b"J")), want=ONE),
    Honest(name="git archive", data=tar(GIT, *FILES)),
    Honest(
        name="git archive --prefix",
        data=gz(tar(GIT, Tar("p-1/", kind=b"5"), *[Tar(b"p-1/" + one[:90].rstrip(b"\0"), b"x") for one in FILES])),
        want={"main.go": b"x", "sub/run.sh": b"x", "sub/deep/empty": b"x"},
        warns='"p-1"; it is taken as the root',
    ),
    Honest(name="npm pack", data=gz(by_tarfile(tarfile.PAX_FORMAT, prefix="package/")), warns='"package"'),
    Honest(
        name="one folder that holds its own name",
        data=tar(Tar("a/a/a", b"1"), Tar("a/b", b"2")),
        want={"a/a": b"1", "b": b"2"},
        warns='"a"',
    ),
    Honest(
        name="tar -C dir .",
        data=tar(Tar("./", kind=b"5"), *[Tar(b"./" + one[:90].rstrip(b"\0"), b"x") for one in FILES]),
        want={"main.go": b"x", "sub/run.sh": b"x", "sub/deep/empty": b"x"},
    ),
    Honest(
        name="two folders in one archive",
        data=tar(Tar("./", kind=b"5"), OK, Tar("./", kind=b"5"), Tar("d/", kind=b"5"), Tar("d/", kind=b"5")),
        want={"ok.txt": b"ok", "d/": b""},
    ),
    Honest(
        name="folder after its files, read-only",
        data=tar(OK, Tar("d/a", b"x"), Tar("d", kind=b"5", mode=0o500)),
        want={"ok.txt": b"ok", "d/a": b"x"},
    ),
    Honest(
        name="hard link",
        data=tar(OK, Tar("d/h", kind=b"1", target="ok.txt"), Tar("d/i", kind=b"1", target="./d/h")),
        want={"ok.txt": b"ok", "d/h": b"ok", "d/i": b"ok"},
    ),
    Honest(
        name="links inside",
        data=tar(
            Tar("l", kind=b"2", target="a/b/../b/f"),
            Tar("a/b/f", b"x"),
            Tar("a/up", kind=b"2", target="../l"),
            Tar("here", kind=b"2", target="."),
            Tar("gone", kind=b"2", target="a/none"),
            Tar("d", kind=b"2", target="./a/b/"),
        ),
        want={"l": "a/b/../b/f", "a/b/f": b"x", "a/up": "../l", "here": ".", "gone": "a/none", "d": "./a/b/"},
    ),
    Honest(
        name="bsdtar of macOS",
        data=tar(
            pax(("LIBARCHIVE.creationtime", "1700000000"), ("SCHILY.xattr.com.apple.x", b"\0\1=\n")),
            Tar("._a.txt", b"\0\5\x16\7"),
            pax(("mtime", "1.5")),
            Tar("a.txt", b"hello hello"),
        ),
        want=ONE,
        warns='1 file of macOS or Windows left out: "._a.txt"',
    ),
    Honest(
        name="a folder made by tar of macOS, with AppleDouble beside and inside",
        data=tar(
            Tar("./._proj", b"\0\5\x16\7"),
            Tar("proj/", kind=b"5"),
            Tar("proj/._a.txt", b"\0\5\x16\7"),
            Tar("proj/a.txt", b"hello hello"),
        ),
        want=ONE,
        warns="2 files of macOS or Windows left out",
    ),
    Honest(
        name="what Finder and Explorer put beside a folder",
        data=tar(
            Tar(".DS_Store", b"\0\0\0\1Bud1"),
            Tar("proj/a.txt", b"hello hello"),
            Tar("proj/Icon\r", b""),
            Tar("Thumbs.db", b"x"),
        ),
        want=ONE,
        warns='the archive holds one folder, "proj"',
    ),
    Honest(
        name="PAX states the same size",
        data=tar(pax(("size", "11"), ("path", "a.txt")), Tar("a.txt", b"hello hello")),
        want=ONE,
    ),
    Honest(name="PAX takes the path back", data=tar(pax(("path", "")), Tar("a.txt", b"hello hello")), want=ONE),
    Honest(
        name="PAX and GNU say the same",
        data=tar(pax(("path", "a.txt")), gnu(b"L", "a.txt"), Tar("a", b"hello hello")),
        want=ONE,
    ),
    Honest(name="gzip of two members", data=gz(tar(*FILES)[:700]) + gz(tar(*FILES)[700:])),
    Honest(name="gzip of many members, as bgzip", data=b"".join(gz(one) for one in CUT) + gz(b"")),
    Honest(name="gzip with a MiB of zeros behind it", data=gz(tar(*FILES)) + bytes(1 << 20)),
    Honest(name="gzip with zeros behind it", data=gz(tar(*FILES)) + bytes(700)),
    Honest(name="gzip with a name", data=b"\x1f\x8b\x08\x08\0\0\0\0\0\3src.tar\0" + gz(tar(*FILES))[10:]),
    Honest(
        name="gzip -1, many blocks",
        data=gzip.compress(tar(*FILES, Tar("r", bytes(range(256)) * 4000), end=bytes(9 * 1024)), 1),
        want=SOURCE | {"r": bytes(range(256)) * 4000},
    ),
    Honest(
        name="a colon, a backslash, spaces, dots",
        data=tar(Tar("ab:c", b""), Tar("dev-x\\x2d.swap", b""), Tar(" . ", b""), Tar("...", b""), Tar("..a/b..", b"")),
        want={"ab:c": b"", "dev-x\\x2d.swap": b"", " . ": b"", "...": b"", "..a/b..": b""},
    ),
    Honest(
        name="names that differ by case",
        data=tar(Tar("README", b"1"), Tar("readme", b"2")),
        want={"README": b"1", "readme": b"2"},
    ),
    Honest(
        name="a name of 255 bytes, 32 levels",
        data=tar(pax(("path", "d/" * 31 + "x" * 255)), Tar("x", b"1"), OK),
        want={"d/" * 31 + "x" * 255: b"1", "ok.txt": b"ok"},
    ),
    Honest(
        name="setuid, sticky, no rights",
        data=tar(Tar("s", b"", mode=0o4755), Tar("t", b"", mode=0o1000), Tar("g", b"", mode=0o610)),
        want={"s*": b"", "t": b"", "g*": b""},
    ),
    Honest(
        name="small and very compressible",
        data=gz(tar(Tar("z", bytes(1_000_000)), OK)),
        want={"z": bytes(1_000_000), "ok.txt": b"ok"},
    ),
]
ZIP_ROWS = [
    Honest(name="zipfile stored", data=by_zipfile(io.BytesIO(), zipfile.ZIP_STORED)),
    Honest(name="zipfile deflated", data=by_zipfile(io.BytesIO(), zipfile.ZIP_DEFLATED)),
    Honest(name="zipfile streaming", data=by_zipfile(Pipe(), zipfile.ZIP_DEFLATED)),
    Honest(name="zipfile streaming, stored", data=by_zipfile(Pipe(), zipfile.ZIP_STORED)),
    Honest(name="zipfile with ZIP64 forced", data=by_zipfile(io.BytesIO(), zipfile.ZIP_DEFLATED, force=True)),
    Honest(name="zipfile streaming with ZIP64 forced", data=by_zipfile(Pipe(), zipfile.ZIP_DEFLATED, force=True)),
    Honest(name="with a comment", data=by_zipfile(io.BytesIO(), zipfile.ZIP_DEFLATED, comment=b"c" * 65535)),
    Honest(name="a comment that holds PK", data=zipped(*ZIPS, comment=b"PK\1\2 PK\3\4")),
    *[Honest(name=f"data descriptor {form}", data=_described(form)) for form in (NARROW, WIDE, BARE, BARE_WIDE)],
    Honest(name="data descriptor and local ZIP64", data=_described(WIDE, local_extra=wide(0, 0))),
    Honest(
        name="Info-ZIP extra fields",
        data=zipped(
            *[Zip(name=one.name, data=one.data, mode=one.mode, extra=TIMES[:9], local_extra=TIMES) for one in ZIPS]
        ),
    ),
    Honest(
        name="zipalign padding", data=zipped(Zip(name="a.txt", data=b"hello hello", local_extra=bytes(3))), want=ONE
    ),
    Honest(name="ZIP64 directory of a pipe", data=zipped(*ZIPS, end64={})),
    Honest(
        name="ZIP64 directory with all ones before",
        data=zipped(*ZIPS, end64={}, end={"here": 65535, "total": 65535, "size": 2**32 - 1, "offset": 2**32 - 1}),
    ),
    Honest(
        name="ZIP64 in both headers",
        data=zipped(
            Zip(
                name="a.txt",
                data=b"hello hello",
                method=0,
                local={"size": 2**32 - 1, "packed": 2**32 - 1},
                local_extra=wide(11, 11),
                central={"size": 2**32 - 1, "packed": 2**32 - 1, "offset": 2**32 - 1},
                extra=wide(11, 11, 0),
            )
        ),
        want=ONE,
    ),
    Honest(name="ZIP64 not needed", data=zipped(Zip(name="a.txt", data=b"hello hello", extra=wide(11, 10))), want=ONE),
    Honest(
        name="7z: folders with attributes",
        data=zipped(
            Zip(name="d/", method=0, host=0, mode=0, central={"attributes": 0x10}),
            Zip(name="a.txt", data=b"hello hello", central={"attributes": 0x20}, host=0),
        ),
        want=ONE | {"d/": b""},
    ),
    Honest(
        name="Java: folder deflated",
        data=zipped(Zip(name="d/", descriptor=NARROW), Zip(name="a.txt", data=b"hello hello", descriptor=NARROW)),
        want=ONE | {"d/": b""},
    ),
    Honest(
        name="folder with the mode of a file",
        data=zipped(Zip(name="d/", mode=0o600), Zip(name="a.txt", data=b"hello hello")),
        want=ONE | {"d/": b""},
    ),
    Honest(name="deflated to nothing", data=zipped(Zip(name="e", packed=b""), *ZIPS), want=SOURCE | {"e": b""}),
    Honest(
        name="Windows backslashes",
        data=_windows("main.py", "pkg\\a.py", "pkg\\deep\\b.py", "empty\\"),
        want={"main.py": b"x", "pkg/a.py": b"x", "pkg/deep/b.py": b"x", "empty/": b""},
    ),
    Honest(
        name="Windows backslashes, one folder",
        data=_windows("proj\\a.py", "proj\\b.py"),
        want={"a.py": b"x", "b.py": b"x"},
        warns='"proj"',
    ),
    Honest(
        name="macOS Finder",
        data=zipped(
            *[Zip(name=f"p/{os.fsdecode(one.name)}", data=one.data, mode=one.mode, descriptor=NARROW) for one in ZIPS],
            Zip(name="__MACOSX/p/._main.go", data=b"\0\5", descriptor=NARROW),
        ),
        warns="1 file of macOS or Windows left out",
    ),
    Honest(
        name="GitHub",
        data=zipped(
            Zip(name="p-main/"),
            *[Zip(name=f"p-main/{os.fsdecode(one.name)}", data=one.data, mode=one.mode) for one in ZIPS],
            comment=b"1" * 40,
        ),
        warns='"p-main"',
    ),
    Honest(
        name="code page 437",
        data=zipped(Zip(name=b"gr\x81n.txt", data=b"x", host=0, mode=0), ZIPS[0]),
        want={"grün.txt": b"x", "main.go": b"package main\n"},
    ),
    Honest(
        name="UTF-8 by flag",
        data=zipped(Zip(name="日本.txt", data=b"x", flags=0x800), ZIPS[0]),
        want={"日本.txt": b"x", "main.go": b"package main\n"},
    ),
    Honest(
        name="UTF-8 without its flag",
        data=zipped(Zip(name="日本.txt", data=b"x"), ZIPS[0]),
        want={"日本.txt": b"x", "main.go": b"package main\n"},
    ),
    *[
        Honest(
            name=f"Unicode path {name!r}",
            data=zipped(
                Zip(
                    name=name,
                    data=b"x",
                    extra=unicode_path(name, "é.txt".encode()),
                    local_extra=unicode_path(name, "é.txt".encode()),
                ),
                ZIPS[0],
            ),
            want={"é.txt": b"x", "main.go": b"package main\n"},
        )
        for name in (b"\x82.txt", "é.txt".encode(), b"#U00e9.txt", b"?.txt")
    ],
    Honest(
        name="stale Unicode path",
        data=zipped(Zip(name="a.txt", data=b"hello hello", extra=unicode_path(b"old", b"old"))),
        want=ONE,
    ),
    Honest(
        name="link",
        data=zipped(*ZIPS, Zip(name="sub/l", data=b"../main.go", mode=LINK, method=0)),
        want=SOURCE | {"sub/l": "../main.go"},
    ),
    Honest(name="entries in another order than the directory", data=b"", want=SOURCE),
]


def _reordered() -> bytes:
    """The directory lists last what comes first."""
    data = zipped(*ZIPS)
    at = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entries = [b"PK\1\2" + one for one in data[at:end].split(b"PK\1\2")[1:]]
    return data[:at] + b"".join(reversed(entries)) + data[end:]


HONEST = [
    Honest(name=row.name, data=_reordered(), want=row.want) if row.name.startswith("entries in another") else row
    for row in (*TARS, *ZIP_ROWS)
]


WRITTEN = Path(__file__).parents[1] / "data" / "archives"
"""Archives by GNU tar -J, -j and --zstd, xz -9e, -T2 and --check=sha256, zstd -19, pzstd; streams behind each other."""


@pytest.mark.parametrize("name", sorted(path.name for path in WRITTEN.iterdir()))
def test_what_other_writers_compress_unpacks_to_its_tree(name: str, tmp_path: Path) -> None:
    assert unpack(WRITTEN / name, tmp_path / "dest", ArchiveLimits()).files == len(SOURCE)
    assert found(tmp_path / "dest") == SOURCE


@pytest.mark.parametrize("name", PACKERS)
def test_a_large_file_in_many_streams_is_whole(name: str, tmp_path: Path) -> None:
    content = os.urandom(700_000) + b"x" * 300_000
    packed, size = tar(Tar("a", content), OK), 100_000
    streams = [PACKERS[name](packed[at : at + size]) for at in range(0, len(packed), size)]
    (tmp_path / "archive").write_bytes(b"".join(streams))
    unpack(tmp_path / "archive", tmp_path / "dest", ArchiveLimits())
    assert found(tmp_path / "dest") == {"a": content, "ok.txt": b"ok"}


@pytest.mark.parametrize("row", HONEST, ids=[row.name for row in HONEST])
def test_an_honest_archive_unpacks_to_its_tree(row: Honest, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(row.data)
    done = unpack(archive, tmp_path / "dest", ArchiveLimits())
    tree = found(tmp_path / "dest")
    assert tree == row.want
    files = [path for path in tree if not path.endswith("/")]
    assert done.files == len(files)
    assert any(row.warns in one for one in done.warnings) if row.warns else not done.warnings


def test_there_are_enough() -> None:
    assert len({row.name for row in HONEST}) == len(HONEST) >= 60


def test_large_entries_of_a_zip_are_whole(tmp_path: Path) -> None:
    content = {"a": os.urandom(300_000) * 3, "b": os.urandom(262_144), "c": bytes(range(256)) * 1024}
    for method in (0, 8):
        archive = tmp_path / f"archive{method}"
        archive.write_bytes(zipped(*[Zip(name=name, data=data, method=method) for name, data in content.items()]))
        done = unpack(archive, tmp_path / f"dest{method}", ArchiveLimits())
        assert found(tmp_path / f"dest{method}") == content
        assert (done.files, done.size) == (3, sum(map(len, content.values())))


def test_modes_are_two_and_times_are_now_whatever_the_umask(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(tar(Tar("s", b"", mode=0o4777), Tar("d/p", b"", mode=0o600), Tar("d", kind=b"5", mode=0o1777)))
    for umask in (0o022, 0o077, 0o000):
        dest = tmp_path / f"dest{umask}"
        before = os.umask(umask)
        try:
            unpack(archive, dest, ArchiveLimits())
        finally:
            os.umask(before)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in dest.rglob("*")}
        assert modes == {"s": 0o755, "d": 0o755, "p": 0o644}
        assert stat.S_IMODE(dest.stat().st_mode) == 0o755
        assert (dest / "s").stat().st_mtime >= archive.stat().st_mtime - 1


def test_dest_may_be_there_when_it_is_empty(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(tar(OK))
    (tmp_path / "dest").mkdir()
    assert unpack(archive, tmp_path / "dest", ArchiveLimits()).files == 1


@pytest.mark.slow
def test_many_folders_need_few_descriptors(tmp_path: Path) -> None:
    names = [f"d{i % 400}/{'e/' * (i % 25)}f{i}" for i in range(1200)]
    hard = [Tar(f"h{i}/x", kind=b"1", target=names[i * 3]) for i in range(300)]
    archive = tmp_path / "archive"
    archive.write_bytes(tar(*[Tar(name, name.encode()) for name in names], *hard))
    before = len(os.listdir("/proc/self/fd"))
    unpack(archive, tmp_path / "dest", ArchiveLimits())
    assert len(os.listdir("/proc/self/fd")) == before
    tree = found(tmp_path / "dest")
    assert all(tree[name] == name.encode() for name in names)
    assert all(tree[f"h{i}/x"] == names[i * 3].encode() for i in range(300))
