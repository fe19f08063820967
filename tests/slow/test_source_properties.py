"""Over generated input: what goes in comes out; and whatever goes in, only `BuildError` and `dest` come out."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError, PlatformError
from builder.source.decode import BZIP2, XZ, ZSTD
from builder.source.digest import code_hash
from builder.source.links import judge_links
from builder.source.sniff import SourceKind, describe, sniff
from builder.source.unpack import ArchiveLimits, unpack
from builder.text import visible
from tests.source_archives import HOSTILE, LINK, PACKERS, Hostile, Tar, Zip, gz, pax, tar, zipped

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
LIMITS = ArchiveLimits(unpacked=4 * 1024 * 1024, file=2 * 1024 * 1024, entries=200, depth=12)

part = st.text(
    st.characters(blacklist_categories=("Cc", "Cs", "Cn"), blacklist_characters="/\\:"), min_size=1, max_size=20
).filter(lambda text: text not in (".", "..", "__MACOSX"))
path = st.lists(part, min_size=1, max_size=4).map("/".join)
content = st.tuples(st.binary(max_size=3000), st.booleans())


def fits(tree: dict[str, tuple[bytes, bool]]) -> bool:
    """No path is a folder of another, and the root holds more than one name (so nothing is lifted)."""
    names = set(tree)
    above = {"/".join(name.split("/")[:end]) for name in names for end in range(1, name.count("/") + 1)}
    return len({name.split("/")[0] for name in names}) > 1 and not names & above


trees = st.dictionaries(path, content, min_size=2, max_size=8).filter(fits)


def as_tar(tree: dict[str, tuple[bytes, bool]]) -> bytes:
    return tar(*[
        pax(("path", name)) + Tar("x", data, mode=0o755 if executable else 0o600)
        for name, (data, executable) in tree.items()
    ])  # fmt: skip


def as_zip(tree: dict[str, tuple[bytes, bool]], method: int) -> bytes:
    return zipped(*[
        Zip(name=name, data=data, method=method, mode=stat.S_IFREG | (0o755 if executable else 0o600))
        for name, (data, executable) in tree.items()
    ])  # fmt: skip


def attempt(data: bytes) -> BuildError | dict[str, tuple[bytes, bool]]:
    """The error, or the tree; asserts that nothing appears beside `dest` and no link leads out of it."""
    fence = Path(tempfile.mkdtemp(prefix="ignite-source-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        dest = fence / "dest"
        (fence / "archive").write_bytes(data)
        before = len(os.listdir("/proc/self/fd"))
        try:
            done = unpack(fence / "archive", dest, LIMITS)
        except BuildError as error:
            assert not isinstance(error, PlatformError), error
            assert (visible(error.message), visible(error.where)) == (error.message, error.where)
            return error
        finally:
            assert sorted(os.listdir(fence)) in (["archive"], ["archive", "dest"])
            assert (fence / "archive").read_bytes() == data
            assert len(os.listdir("/proc/self/fd")) == before
        assert done.size <= LIMITS.unpacked
        tree = {}
        for one in dest.rglob("*"):
            assert one.resolve().is_relative_to(dest.resolve())
            mode = one.lstat().st_mode
            assert stat.S_IFMT(mode) in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
            if stat.S_ISREG(mode):
                assert stat.S_IMODE(mode) in (0o755, 0o644)
                tree[one.relative_to(dest).as_posix()] = (one.read_bytes(), bool(mode & 0o100))
        assert code_hash(dest).startswith("sha256:")
        return tree
    finally:
        shutil.rmtree(fence)


@quick
@given(trees)
def test_what_goes_in_comes_out_of_every_kind(tree: dict[str, tuple[bytes, bool]]) -> None:
    packed = as_tar(tree)
    for data in (packed, gz(packed), as_zip(tree, 8), as_zip(tree, 0), *(pack(packed) for pack in PACKERS.values())):
        assert attempt(data) == tree


@quick
@given(st.binary(max_size=3000))
def test_random_bytes(data: bytes) -> None:
    attempt(data)
    for start in (b"PK\3\4", b"\x1f\x8b\x08\0", b"PK\5\6", XZ, ZSTD, *BZIP2[:2]):
        assert isinstance(attempt(start + data), BuildError)


@quick
@given(st.binary(max_size=9000))
def test_naming_random_bytes(data: bytes) -> None:
    assert describe(data).isprintable()
    assert (sniff(data) is SourceKind.EMPTY) == (not data)


@settings(quick, max_examples=200)
@given(trees, st.integers(0, 6), st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), max_size=4), st.data())
def test_changed_bytes(
    tree: dict[str, tuple[bytes, bool]], kind: int, changes: list[tuple[int, int]], more: st.DataObject
) -> None:
    packers = [bytes, gz, *PACKERS.values()]
    data = bytearray(as_zip(tree, 8 * (kind - 5)) if kind > 4 else packers[kind](as_tar(tree)))
    for at, value in changes:
        data[at % len(data)] = value
    cut = more.draw(st.integers(0, len(data)))
    attempt(bytes(data))
    attempt(bytes(data[:cut]))
    attempt(bytes(data[cut:] + data[:cut]))


@quick
@given(st.sampled_from([row for row in HOSTILE if len(row.data) < 50_000]), st.integers(0, 2**16), st.integers(0, 255))
def test_changed_hostile_archives(row: Hostile, at: int, value: int) -> None:
    data = bytearray(row.data or b"x")
    data[at % len(data)] = value
    attempt(bytes(data))


tar_entries = st.builds(
    Tar,
    st.sampled_from(["a", "b", "a/b", "b/c", "a/b/c", "./a", "../a", "/a", "a/", "l", "l/a", "m/n", "__MACOSX/x"]),
    st.sampled_from([b"", b"x", b"y" * 600]),
    kind=st.sampled_from([b"0", b"0", b"1", b"2", b"2", b"5", b"7", b"\0", b"3", b"L", b"K", b"x", b"g"]),
    target=st.sampled_from(["", "a", "b", "..", "../..", "../a", "l", "l/..", "l/../..", "m/n/../..", "/etc", "."]),
    size=st.sampled_from([None, None, None, 0, 1, 513, b"\x80" + bytes(10) + b"\1"]),
)


@settings(quick, max_examples=300)
@given(st.lists(tar_entries, max_size=7), st.booleans())
def test_entries_in_any_combination(entries: list[bytes], gzipped: bool) -> None:
    data = tar(*entries)
    attempt(gz(data) if gzipped else data)


zip_entries = st.builds(
    Zip,
    name=st.sampled_from(
        ["a", "b", "a/b", "b/c", "l", "l/a", "m/n", "a\\b", "..\\a", "é", b"\xff", "d/", "__MACOSX/x"]
    ),
    data=st.sampled_from([b"", b"x", b"..", b"l/..", b"../..", b"m/n", b"y" * 600]),
    method=st.sampled_from([0, 8, 8]),
    host=st.sampled_from([0, 3, 3, 19]),
    mode=st.sampled_from([0, stat.S_IFREG | 0o644, stat.S_IFREG | 0o755, LINK, LINK, stat.S_IFDIR, stat.S_IFIFO]),
    flags=st.sampled_from([0, 0, 0, 0x800, 8]),
    descriptor=st.sampled_from(["", "", "<4s3L", "<LQQ"]),
)


@settings(quick, max_examples=300)
@given(st.lists(zip_entries, max_size=6))
def test_zip_entries_in_any_combination(entries: list[Zip]) -> None:
    attempt(zipped(*entries))


def test_judging_links_takes_bounded_steps() -> None:
    from builder.source.entry import ArchiveEntry

    def link(name: str, target: str) -> tuple[str, ArchiveEntry]:
        return name, ArchiveEntry(number=1, name=name, kind="link", target=target)

    tangled = dict(link(f"l{i}", "/".join([f"l{i + 1}"] * 500)) for i in range(5000))
    honest = dict(link(f"d/l{i}", "../a/b/c/d/e") for i in range(50_000))
    judge_links(honest)
    try:
        judge_links(tangled)
    except BuildError as error:
        assert error.reason == "ArchiveUnsafe"
    else:
        raise AssertionError("accepted")
