"""Unpackers over hostile headers: an archive or a refusal, in time that grows as the archive does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.source.digest import code_hash
from builder.source.sniff import describe
from builder.source.tree import DirTree
from builder.source.unpack import ArchiveLimits, unpack
from tests.growth import assert_linear
from tests.source_archives import Tar, Zip, extra, gnu, gz, pax, tar, unicode_path, zipped

SMALL, LARGE = 200, 800
FLOOR_S = 0.05

ARCHIVES: dict[str, Callable[[int], bytes]] = {
    "files": lambda count: tar(*(Tar(f"f{at}", b"x") for at in range(count))),
    "files, gzipped": lambda count: gz(tar(*(Tar(f"f{at}", b"x") for at in range(count)))),
    "folders that names imply": lambda count: tar(*(Tar(f"d{at}/e/f/g", b"") for at in range(count))),
    "deep folders in turn": lambda count: tar(*(Tar(f"{'d/' * (at % 30)}f{at}") for at in range(count))),
    "folders of folders": lambda count: tar(*(Tar(f"d{at}/", kind=b"5") for at in range(count)), Tar("f", b"x")),
    "links": lambda count: tar(Tar("f"), *(Tar(f"l{at}", kind=b"2", target="f") for at in range(count))),
    "a chain of links": lambda count: tar(
        Tar("l0"), *(Tar(f"l{at + 1}", kind=b"2", target=f"l{at}") for at in range(count))
    ),
    "links with many parts": lambda count: tar(
        Tar("d/f"), *(Tar(f"d/l{at}", kind=b"2", target="../d/" * 15 + "f") for at in range(count))
    ),
    "hard links": lambda count: tar(Tar("f", b"x"), *(Tar(f"h{at}", kind=b"1", target="f") for at in range(count))),
    "a header of many records": lambda count: tar(
        pax(*((f"k{at}", "v" * 64) for at in range(count * 16))), Tar("f", b"x")
    ),
    "a header for each": lambda count: tar(
        *(one for at in range(count) for one in (pax(("path", f"p{at}")), Tar("f", b"x")))
    ),
    "records for all": lambda count: tar(
        *(one for at in range(count) for one in (pax(("comment", "c" * 99), kind=b"g"), Tar(f"f{at}", b"x")))
    ),
    "long names": lambda count: tar(
        *(one for at in range(count) for one in (gnu(b"L", f"{'n' * 200}{at}"), Tar("f", b"x")))
    ),
    "long names for one": lambda count: tar(*(gnu(b"L", "n" * 200) for _ in range(count)), Tar("f", b"x")),
    "digits for a length": lambda count: tar(Tar("PaxHeaders/x", b"1" * count * 256, kind=b"x"), Tar("f", b"x")),
    "blanks for a size": lambda count: tar(*(Tar(f"f{at}", size=b" " * 12) for at in range(count))),
    "empty blocks": lambda count: tar(Tar("f", b"x")) + bytes(512 * count * 16),
    "zip: files": lambda count: zipped(*(Zip(name=f"f{at}", data=b"x") for at in range(count))),
    "zip: stored": lambda count: zipped(*(Zip(name=f"f{at}", data=b"x", method=0) for at in range(count))),
    "zip: data descriptors": lambda count: zipped(
        *(Zip(name=f"f{at}", data=b"x", descriptor="<4s3L") for at in range(count))
    ),
    "zip: many fields each": lambda count: zipped(
        *(Zip(name=f"f{at}", data=b"x", extra=extra(0xCAFE, b"") * 64) for at in range(count))
    ),
    "zip: names in two forms": lambda count: zipped(
        *(Zip(name=b"f%d" % at, data=b"x", extra=unicode_path(b"f%d" % at, b"f%d" % at)) for at in range(count))
    ),
    "zip: a code page's names": lambda count: zipped(
        *(Zip(name=f"#U00{at % 90 + 10}".encode() * 40 + b"%d" % at, data=b"x") for at in range(count))
    ),
    "zip: entries at one place": lambda count: zipped(
        *(Zip(name=f"f{at}", data=b"x", central={"offset": 0}) for at in range(count))
    ),
    "zip: ends in the comment": lambda count: zipped(Zip(name="f", data=b"x"), comment=b"PK\5\6" * min(count, 1000)),
    "zip: foreign bytes": lambda count: zipped(Zip(name="f", data=b"x"), before_directory=bytes(count * 512)),
    "zip: one file that inflates": lambda count: zipped(Zip(name="f", data=bytes(count * 1024))),
}  # fmt: skip


def spent(folder: Path, archive: bytes) -> float:
    """Processor time in seconds of unpacking, digesting and listing; what is refused is refused by the table."""
    (folder / "archive").write_bytes(archive)
    start = time.process_time()
    try:
        unpack(folder / "archive", folder / "out", ArchiveLimits())
        code_hash(folder / "out")
        DirTree(folder / "out").files()
    except BuildError as error:
        assert error.error_class == "client", error
    took = time.process_time() - start
    shutil.rmtree(folder / "out", ignore_errors=True)
    return took


@pytest.mark.parametrize("name", ARCHIVES)
def test_work_grows_as_the_archive_does(name: str, tmp_path: Path) -> None:
    small, large = ARCHIVES[name](SMALL), ARCHIVES[name](LARGE)
    assert_linear(lambda: spent(tmp_path, small), lambda: spent(tmp_path, large), FLOOR_S, name)


@pytest.mark.parametrize("unit", [b"\0", b"\x7fELF", b"\xff", b"PK\1\2", b"<?xml", b"%!PS\n", b"{", b"A="])
def test_what_is_no_archive_is_described_by_its_head(unit: bytes) -> None:
    assert len(describe(unit * (4096 // len(unit)))) < 300
