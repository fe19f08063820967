"""Unpacking: every hostile archive is refused and reaches nothing; honest ones come out whole."""

from __future__ import annotations

import contextlib
import os
import resource
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError
from builder.source.digest import code_hash
from builder.source.sniff import SourceKind, sniff
from builder.source.tree import DictTree, DirTree
from builder.source.unpack import ArchiveLimits, unpack, write_single
from builder.stores.folder import FolderStore
from tests.archive_rows import Make, honest, hostile, tar, zipped

MIB = 1024 * 1024


def files_below(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or path.is_file()}


LARGE = ("a bomb in zip", "a bomb in tar.gz", "too many entries")


@pytest.mark.parametrize(
    ("make", "reason"),
    [pytest.param(*row, id=name, marks=[pytest.mark.slow] if name in LARGE else []) for name, *row in hostile()],
)
def test_a_hostile_archive_is_refused_and_reaches_nothing(tmp_path: Path, make: Make, reason: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    source = inside / "archive"
    source.write_bytes(make())
    before = files_below(tmp_path)
    with pytest.raises(BuildError) as caught:
        unpack(source, inside / "out", ArchiveLimits())
    assert caught.value.reason == reason, caught.value
    assert not any(ord(char) < 32 or ord(char) == 127 for char in caught.value.message + caught.value.where)
    outside = {name for name in files_below(tmp_path) - before if not name.startswith("inside/out/")}
    assert outside == set()
    written = sum(path.lstat().st_size for path in (inside / "out").rglob("*") if path.is_file())
    assert written <= ArchiveLimits().unpacked + MIB


def test_there_are_enough_hostile_and_honest_ones() -> None:
    assert len(hostile()) >= 90
    assert len(honest()) >= 25


@pytest.mark.parametrize(("make", "names"), [row[1:] for row in honest()], ids=[row[0] for row in honest()])
def test_an_honest_archive_comes_out_whole(tmp_path: Path, make: Make, names: set[str]) -> None:
    source = tmp_path / "archive"
    source.write_bytes(make())
    done = unpack(source, tmp_path / "out", ArchiveLimits())
    assert files_below(tmp_path / "out") == names
    assert done.files == len(names)


@pytest.mark.slow
def test_a_bomb_costs_little_memory(tmp_path: Path) -> None:
    source = tmp_path / "bomb"
    source.write_bytes(zipped(("z", b"\0" * (140 * MIB)), method=zipfile.ZIP_DEFLATED))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BuildError, match="limit 100 times"):
        unpack(source, tmp_path / "out", ArchiveLimits())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before <= 32 * 1024


def test_the_executable_bit_is_all_that_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.write_bytes(zipped(("run", b"x"), mode=0o4777))
    unpack(source, tmp_path / "out", ArchiveLimits())
    assert (tmp_path / "out" / "run").stat().st_mode & 0o7777 == 0o755


def test_more_folders_than_descriptors(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    source.write_bytes(tar(*((f"d{n}/e/f", b"x") for n in range(2000)), ("d0/e/g", b"y"), mode="w:gz"))
    assert unpack(source, tmp_path / "out", ArchiveLimits()).files == 2001
    assert len(os.listdir("/proc/self/fd")) < 100


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=2000) | st.builds(lambda at, byte, make: _mutated(make(), at, byte), st.floats(0, 0.999),
       st.integers(0, 255), st.sampled_from([row[1] for row in honest()])))  # fmt: skip
def test_mutated_bytes_raise_nothing_but_build_errors(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "archive").write_bytes(data)
    with contextlib.suppress(BuildError):
        unpack(folder / "archive", folder / "out", ArchiveLimits())
    assert {path.name for path in folder.iterdir()} <= {"archive", "out", "out.inner"}


def _mutated(data: bytes, at: float, byte: int) -> bytes:
    index = int(at * len(data))
    return data[:index] + bytes([byte]) + data[index + 1 :]


def test_the_code_hash_is_of_the_tree_not_of_the_archive(tmp_path: Path) -> None:
    entries = (("a/x.py", b"1"), ("b", b"2"))
    hashes = set()
    for index, data in enumerate((tar(*entries), tar(*reversed(entries), mode="w:gz"), zipped(*entries))):
        (tmp_path / f"{index}").write_bytes(data)
        unpack(tmp_path / f"{index}", tmp_path / f"out{index}", ArchiveLimits())
        hashes.add(code_hash(tmp_path / f"out{index}"))
    assert len(hashes) == 1
    (tmp_path / "out0" / "b").chmod(0o755)
    assert code_hash(tmp_path / "out0") not in hashes


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "SourceEmpty"),
        (b"  \n", "SourceEmpty"),
        (b"\x89PNG\r\n\x1a\n\0", "NotAnArchive"),
        (tar(("a", b"")), "NotAnArchive"),
    ],
)
def test_a_single_file_must_be_text(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(BuildError) as caught:
        write_single("handler.py", data, tmp_path / "out")
    assert caught.value.reason == reason


def test_text_is_told_from_bytes_even_when_the_head_ends_inside_a_character() -> None:
    assert sniff(b"a" * 4095 + "ü".encode()[:1]) is SourceKind.TEXT
    assert sniff(b"\xff\xfe\xff\xff\xff") is SourceKind.OTHER


def test_a_tree_shows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    (tmp_path / "l").symlink_to("/etc/passwd")
    tree = DirTree(tmp_path)
    assert tree.files() == ("a",)
    assert not tree.has("l")
    assert DictTree({"a/b.go": "", "c.go": ""}).glob("*.go") == ("c.go",)


def test_the_store_names_by_content_and_takes_no_path(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "s")
    stored = store.put([b"ab", b"c"], 10)
    assert stored.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with store.open(stored.sha256) as file:
        assert file.read() == b"abc"
    with pytest.raises(BuildError, match="64 hexadecimal"):
        store.open("../" + stored.sha256)
    with pytest.raises(BuildError, match="limit 2 B"):
        store.put([b"abc"], 2)
    assert [path.name for path in (tmp_path / "s" / "sha256").iterdir()] == ["ba"]
