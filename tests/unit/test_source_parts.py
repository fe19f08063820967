"""Sniffing, naming, the tree's views, the digest, the store, a single file, limits measured on a real bomb."""

from __future__ import annotations

import bz2
import hashlib
import io
import os
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import magic  # loads libmagic here: loading asks ldconfig, which a unit test may not start
import pytest

from builder.cli.pack import pack
from builder.errors import BuildError, PlatformError
from builder.source.digest import code_hash
from builder.source.entry import shown
from builder.source.sniff import HEAD_BYTES, SourceKind, describe, sniff
from builder.source.tree import DictTree, DirTree, Tree
from builder.source.unpack import ArchiveLimits, unpack, write_single
from builder.source.write import from_disk
from builder.stores.folder import FolderStore, SourceStore
from tests.source_archives import END, OK, OK_ZIP, Tar, Zip, gz, tar, xz, zipped, zst

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\x06\0\0\0"


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", SourceKind.EMPTY),
        (b"print('x')\n", SourceKind.TEXT),
        ("größe".encode(), SourceKind.TEXT),
        ("é".encode() * HEAD_BYTES, SourceKind.TEXT),
        (b"x" + "日".encode() * HEAD_BYTES, SourceKind.TEXT),
        ("é".encode()[:1], SourceKind.OTHER),
        (b"caf\xe9 latin", SourceKind.OTHER),
        (b"a\0b", SourceKind.OTHER),
        (zipped(OK_ZIP), SourceKind.ZIP),
        (zipped(), SourceKind.ZIP),
        (tar(OK), SourceKind.TAR),
        (tar(Tar("a", magic=b"ustar  \0")), SourceKind.TAR),
        (tar(Tar("a", magic=b"")), SourceKind.TAR),
        (tar(Tar("a", magic=b"", checksum=1)), SourceKind.OTHER),
        (tar(Tar("a", checksum=1)), SourceKind.TAR),
        (END, SourceKind.TAR),
        (gz(tar(OK)), SourceKind.TAR_GZ),
        (gz(END), SourceKind.TAR_GZ),
        (gz(tar(OK))[:60], SourceKind.TAR_GZ),
        (gz(b"text"), SourceKind.OTHER),
        (xz(tar(OK)), SourceKind.TAR_XZ),
        (xz(tar(OK))[:6], SourceKind.TAR_XZ),
        (bz2.compress(tar(OK)), SourceKind.TAR_BZ2),
        (bz2.compress(b""), SourceKind.TAR_BZ2),
        (b"BZhang = 1\n", SourceKind.TEXT),
        (zst(tar(OK)), SourceKind.TAR_ZST),
        (b"\x50\x2a\x4d\x18\0\0\0\0" + zst(tar(OK)), SourceKind.TAR_ZST),
        (b"x" * 257 + b"ustar text, not tar" + b"x" * 400, SourceKind.TEXT),
        (PNG, SourceKind.OTHER),
    ],
)
def test_sniff(head: bytes, kind: SourceKind) -> None:
    assert sniff(head[:HEAD_BYTES]) is kind


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (PNG, "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a JPEG image"),
        (b"%PDF-1.4\n\0", "a PDF document"),
        (b"\x7fELF\2\1\1" + bytes(50), "an ELF"),
        (b"7z\xbc\xaf'\x1c\0\4", "a 7-zip archive"),
        (b"Rar!\x1a\7\1\0", "a RAR archive"),
        (gz(PNG + bytes(600)), "a gzip of a PNG image"),
        (gz(b"hello"), "a gzip of text"),
        (gz(b""), "an empty gzip"),
        (b"\0\1\2\3", "no archive and no text"),
    ],
)
@pytest.mark.parametrize("installed", [True, False])
def test_describe_with_and_without_libmagic(
    head: bytes, words: str, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "magic", None)
    assert describe(head).startswith(words)


def test_describe_survives_a_libmagic_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> str:
        raise magic.MagicException("could not find any valid magic files")

    monkeypatch.setattr(magic, "from_buffer", broken)
    assert describe(PNG) == "a PNG image"


def test_shown_escapes_what_a_terminal_or_reader_would_obey() -> None:
    assert shown("a\x1b[2J\n\x9b\u202e\u2028b\udcff") == "a\\x1b[2J\\x0a\\x9b\\u202e\\u2028b\\xff"
    assert shown("größe 日本") == "größe 日本"
    assert shown("x" * 201) == "x" * 200 + "…"


CONTENTS: dict[str, str | bytes] = {
    "go.mod": "module x\n", "a/go.mod": "module y\n", "a/b/c.go": b"\xffpackage", "main.go": "", "x[1].go": "",
}  # fmt: skip


@pytest.fixture(params=["memory", "disk"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    if request.param == "memory":
        return DictTree(CONTENTS)
    for name, content in CONTENTS.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return DirTree(tmp_path)


def test_tree_lists_reads_and_matches(tree: Tree) -> None:
    assert tree.files() == ("a/b/c.go", "a/go.mod", "go.mod", "main.go", "x[1].go")
    assert tree.has("a/go.mod") and not tree.has("a") and not tree.has("none")
    assert tree.read_text("go.mod") == "module x\n"
    assert tree.read_text("a/b/c.go") == "\ufffdpackage"
    assert tree.glob("*.go") == ("main.go", "x[1].go")
    assert tree.glob("**/go.mod") == ("a/go.mod", "go.mod")
    assert tree.glob("a/**") == ("a/b/c.go", "a/go.mod")
    assert tree.glob("**/*.go") == ("a/b/c.go", "main.go", "x[1].go")
    assert tree.glob("?o.mod") == ("go.mod",)
    assert tree.glob("x[1].go") == ("x[1].go",)
    with pytest.raises(FileNotFoundError):
        tree.read_text("none")
    with pytest.raises(BuildError, match=r"ManifestInvalid: go.mod is larger than 8 bytes"):
        tree.read_text("go.mod", 8)
    assert tree.read_text("go.mod", 9) == "module x\n"


def test_a_tree_on_disk_follows_no_link_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("x")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root2").mkdir()
    (tmp_path / "root2" / "near").write_text("secret")
    (root / "sub" / "real").write_text("real")
    for name, target in {
        "in": "sub/real", "out": "../secret", "near": "../root2/near", "abs": str(tmp_path / "secret"),
        "none": "nowhere", "loop": "loop", "folder": "sub", "above": "..",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe")
    seen = DirTree(root)
    assert seen.files() == ("in", "sub/real")
    assert seen.read_text("in") == "real"
    for hidden in ("out", "near", "abs", "above/secret", "../secret", "pipe"):
        with pytest.raises(FileNotFoundError):
            seen.read_text(hidden)


def test_code_hash_is_of_the_tree_alone(tmp_path: Path) -> None:
    one = tar(Tar("b", b"2", mode=0o755), Tar("a/c", b"1"), Tar("l", kind=b"2", target="a/c"))
    two = gz(tar(Tar("x/l", kind=b"2", target="a/c"), Tar("x/a/c", b"1", mode=0o600), Tar("x/b", b"2", mode=0o711)))
    hashes = []
    for index, data in enumerate((one, two)):
        (tmp_path / f"archive{index}").write_bytes(data)
        unpack(tmp_path / f"archive{index}", tmp_path / f"dest{index}", ArchiveLimits())
        hashes.append(code_hash(tmp_path / f"dest{index}"))
    assert hashes[0] == hashes[1]
    records = [(b"f", b"a/c", b"1"), (b"x", b"b", b"2"), (b"l", b"l", b"a/c")]
    wanted = hashlib.sha256(b"ignite-code-1")
    for kind, path, content in records:
        wanted.update(kind + len(path).to_bytes(8, "big") + path + hashlib.sha256(content).digest())
    assert hashes[0] == f"sha256:{wanted.hexdigest()}"


def test_code_hash_changes_with_each_part(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "l").symlink_to("a")
    seen = {code_hash(tmp_path)}
    (tmp_path / "a").chmod(0o755)
    seen.add(code_hash(tmp_path))
    (tmp_path / "a").write_text("2")
    seen.add(code_hash(tmp_path))
    (tmp_path / "l").unlink()
    (tmp_path / "l").symlink_to("b")
    seen.add(code_hash(tmp_path))
    (tmp_path / "l").unlink()
    (tmp_path / "l").write_text("b")
    seen.add(code_hash(tmp_path))
    (tmp_path / "l").rename(tmp_path / "m")
    seen.add(code_hash(tmp_path))
    (tmp_path / "empty").mkdir()
    seen.add(code_hash(tmp_path))
    (tmp_path / "empty").rename(tmp_path / "other")
    seen.add(code_hash(tmp_path))
    (tmp_path / "other" / "within").mkdir()
    seen.add(code_hash(tmp_path))
    (tmp_path / "other" / "within" / "a").write_text("")
    seen.add(code_hash(tmp_path))
    assert len(seen) == 10
    kept = code_hash(tmp_path)
    os.utime(tmp_path / "a", (1, 1))
    os.utime(tmp_path / "other", (1, 1))
    assert code_hash(tmp_path) == kept


def test_empty_folders_count_alike_however_the_tree_comes(tmp_path: Path) -> None:
    """Otherwise two sources of one key would give two artifacts: an empty folder is copied and packaged."""
    as_tar = [Tar(name, kind=b"5") for name in ("d/", "d/e/", "n/")]
    trees = {
        "tar": tar(*as_tar, Tar("n/x", b"1"), Tar("y", b"2")),
        "tar, only what is empty": tar(Tar("y", b"2"), Tar("d/e/", kind=b"5"), Tar("n/x", b"1")),
        "zip": zipped(Zip(name="d/e/"), Zip(name="n/"), Zip(name="n/x", data=b"1"), Zip(name="y", data=b"2")),
    }
    for name, data in trees.items():
        (tmp_path / f"{name}.archive").write_bytes(data)
        unpack(tmp_path / f"{name}.archive", tmp_path / name, ArchiveLimits())
    (tmp_path / "sent").write_bytes(b"".join(pack(str(tmp_path / "tar"), io.BytesIO()).chunks()))
    unpack(tmp_path / "sent", tmp_path / "by the CLI", ArchiveLimits())
    assert len({code_hash(tmp_path / name) for name in (*trees, "by the CLI")}) == 1
    (tmp_path / "zip" / "d" / "e").rmdir()
    (tmp_path / "zip" / "d").rmdir()
    assert code_hash(tmp_path / "zip") != code_hash(tmp_path / "tar")


def test_store_keeps_by_digest_and_twice_is_once(tmp_path: Path) -> None:
    store: SourceStore = FolderStore(tmp_path / "new" / "store")
    digest = hashlib.sha256(b"hello").hexdigest()
    for chunks in ([b"hel", b"lo"], [b"hello"]):
        stored = store.put(chunks, 5)
        assert (stored.sha256, stored.size) == (digest, 5)
    assert (tmp_path / "new" / "store" / "sha256" / digest[:2] / digest).is_file()
    with store.open(digest) as file:
        assert file.read() == b"hello"
    assert [store.at_hand(digest, most) for most in (4, 5, 6)] == [b"", b"hello", b"hello"]
    assert [store.at_hand(other, 5) for other in ("0" * 64, "../hello")] == [b"", b""]
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [digest]


def test_store_refuses_what_is_too_large_and_leaves_nothing(tmp_path: Path) -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield b"x" * 1000

    with pytest.raises(BuildError) as caught:
        FolderStore(tmp_path).put(endless(), 4096)
    assert (caught.value.reason, "limit 4 KiB" in caught.value.message) == ("ArchiveTooLarge", True)
    assert len(taken) == 5 and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_store_begins_nothing_on_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    FolderStore(tmp_path, free_bytes=1).put([b"x"], 9)
    with pytest.raises(PlatformError) as caught:
        FolderStore(tmp_path, free_bytes=2**62).begin(9)
    assert caught.value.reason == "SourceStoreUnavailable" and "source_free_bytes" in caught.value.message
    assert "has room" in caught.value.next, "without a server whoever reads it can mend it"
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_store_lets_the_streams_own_failure_through(tmp_path: Path) -> None:
    def gone() -> Iterator[bytes]:
        yield b"x"
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        FolderStore(tmp_path).put(gone(), 4096)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["", "a", "../" * 21 + "x", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "0" * 64 + "\n"])
def test_store_takes_digests_only(name: str, tmp_path: Path) -> None:
    for use in (FolderStore(tmp_path).open, FolderStore(tmp_path).renew):
        with pytest.raises(BuildError) as caught:
            use(name)
        assert caught.value.reason == "SourceNotFound"


def test_store_says_what_is_missing_and_whose_fault(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=f"SourceNotFound: there is no source sha256:{'0' * 64}"):
        FolderStore(tmp_path).open("0" * 64)
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError) as caught:
        FolderStore(tmp_path / "file").put([b"x"], 9)
    assert caught.value.reason == "SourceStoreUnavailable"


def test_a_single_file_is_written_under_its_name(tmp_path: Path) -> None:
    done = write_single("src/lib.rs", b"fn main() {}\n", tmp_path / "dest")
    assert (done.files, done.size) == (1, 13)
    # One folder that holds everything would be lifted from an archive; here the caller chose the name.
    assert (tmp_path / "dest" / "src" / "lib.rs").read_bytes() == b"fn main() {}\n"
    assert not done.warnings


@pytest.mark.parametrize(
    ("data", "reason", "says"),
    [
        (b"", "SourceEmpty", "empty"),
        (b" \n\t", "SourceEmpty", "empty"),
        (zipped(OK_ZIP), "NotAnArchive", "a zip; send it as archive"),
        (gz(tar(OK)), "NotAnArchive", "a tar.gz; send it as archive"),
        (PNG, "NotAnArchive", "a PNG image"),
        (b"x" * 5000 + b"\0", "NotAnArchive", "text only at its start"),
        (b"x" * 5000 + b"\xe9", "NotAnArchive", "text only at its start"),
    ],
)
def test_a_single_file_must_be_text(data: bytes, reason: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as caught:
        write_single("main.go", data, tmp_path / "dest")
    assert (caught.value.reason, says in caught.value.message) == (reason, True), caught.value


def test_a_single_file_cannot_leave_dest(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="ArchiveUnsafe"):
        write_single("../main.go", b"x", tmp_path / "dest")


def test_a_bomb_is_stopped_at_the_limit(tmp_path: Path) -> None:
    """5 GiB in 5 MiB: at most the limit is written, and 8 MiB of memory taken, with the ratio check off."""
    head = Tar("bomb", size=5 * 2**30, padding=b"")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with (tmp_path / "archive").open("wb") as file:
        file.write(packer.compress(head))
        for _ in range(40):
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush())
    for limits, says in (
        (ArchiveLimits(), "limit 128 MiB"),
        (ArchiveLimits(file=2**40, unpacked=2**40), "limit 100 times"),
        (ArchiveLimits(file=2**40, unpacked=2**40, ratio=10**6), "cut off"),
    ):
        dest = tmp_path / says
        tracemalloc.start()
        try:
            with pytest.raises(BuildError) as caught:
                unpack(tmp_path / "archive", dest, limits)
            assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        finally:
            tracemalloc.stop()
        assert says in caught.value.message
        written = sum(path.stat().st_size for path in dest.rglob("*"))
        allowed = 0 if "128" in says else 5 * 2**20 if "100" in says else 41 * 2**20
        assert written <= allowed


def test_many_small_files_stop_at_the_limit_too(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(gz(tar(*[Tar(f"f{i}", bytes(2**16)) for i in range(64)])))
    limits = ArchiveLimits(unpacked=2**20, ratio=10**6)
    with pytest.raises(BuildError, match="unpacked, limit 1 MiB"):
        unpack(tmp_path / "archive", tmp_path / "dest", limits)
    assert sum(path.stat().st_size for path in (tmp_path / "dest").rglob("*")) <= 2**20


def test_our_disks_failures_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").write_bytes(tar(OK))
    with pytest.raises(PlatformError) as caught:
        unpack(tmp_path / "none", tmp_path / "dest", ArchiveLimits())
    assert caught.value.reason == "Internal"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(PlatformError) as caught:
        unpack(tmp_path / "archive", tmp_path / "full", ArchiveLimits())
    assert caught.value.reason == "Internal"
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(PlatformError):
        unpack(tmp_path / "archive", tmp_path / "link", ArchiveLimits())
    assert not list((tmp_path / "elsewhere").iterdir())
    assert from_disk(OSError(28, "No space left on device")).reason == "NodeDiskFull"


def test_no_part_of_a_path_is_a_link_out_also_when_it_becomes_one_later(tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host/file").write_text("of the host")
    root = tmp_path / "src"
    (root / "folder").mkdir(parents=True)
    (root / "folder/file").write_text("of the source")
    seen = DirTree(root)
    assert seen.read_text("folder/file") == "of the source"
    (root / "folder").rename(root / "aside")
    (root / "folder").symlink_to("../host")
    for look in (seen.read_text, seen.sha256):
        with pytest.raises(OSError):
            look("folder/file")
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "host")
    for read in (lambda: DirTree(root).files(), lambda: code_hash(root), lambda: seen.read_text("folder/file")):
        with pytest.raises(OSError):
            read()
