"""PATH becomes bytes: the same folder the same bytes, and bytes that our own unpacker accepts."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from builder.cli.folder import find, judge_sizes
from builder.cli.pack import build_name, check_size, first_bytes, pack
from builder.cli.unpacked import opened
from builder.errors import BuildError
from builder.source.digest import code_hash
from builder.source.unpack import ArchiveLimits, unpack

MIB = 1024 * 1024


def project(root: Path) -> Path:
    root.mkdir()
    (root / "main.go").write_text("package main\n")
    (root / "sub").mkdir()
    (root / "sub" / "run.sh").write_text("#!/bin/sh\n")
    (root / "sub" / "run.sh").chmod(0o700)
    (root / "sub" / "link").symlink_to("run.sh")
    (root / "empty").mkdir()
    (root / ("long" * 40 + "é.txt")).write_text("x" * 700)
    for skipped in (".git", "sub/__pycache__", ".venv", "node_modules"):
        (root / skipped).mkdir()
        (root / skipped / "junk").write_text("junk")
    return root


def packed(path: Path) -> bytes:
    return b"".join(pack(str(path), io.BytesIO()).chunks())


def test_a_folder_is_packed_the_same_whatever_its_times_order_and_owner(tmp_path: Path) -> None:
    first = project(tmp_path / "one")
    second = project(tmp_path / "two")
    for path in second.rglob("*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    (second / "main.go").chmod(0o640)
    data = packed(first)
    assert data == packed(second)
    assert data[4:8] == bytes(4), "the gzip header has no time"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        names = tar.getnames()
    assert names == sorted(names)
    assert not [name for name in names if "junk" in name]


def test_what_is_packed_unpacks_to_the_same_tree(tmp_path: Path) -> None:
    root = project(tmp_path / "src")
    archive = tmp_path / "src.tar.gz"
    archive.write_bytes(packed(root))
    dest = tmp_path / "out"
    out = unpack(archive, dest, ArchiveLimits())
    assert out.files == 3 + 1
    assert (dest / "sub" / "run.sh").stat().st_mode & 0o100
    assert os.readlink(dest / "sub" / "link") == "run.sh"
    for skipped in (".git", "sub/__pycache__", ".venv", "node_modules"):
        shutil.rmtree(root / skipped)
    assert code_hash(dest) == code_hash(root)


def test_target_is_left_out_only_beside_a_cargo_manifest(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "x").write_text("x")
    assert "target/x" in [entry.path for entry in find(tmp_path).entries]
    (tmp_path / "Cargo.toml").write_text("")
    assert "target/x" not in [entry.path for entry in find(tmp_path).entries]


def test_names_and_links_that_a_node_would_refuse_are_refused_in_words_about_the_folder(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    (root / "a").write_text("a")
    (root / "passwd").symlink_to("/etc/passwd")
    with pytest.raises(BuildError, match='"passwd" links to "/etc/passwd", outside of the folder') as caught:
        pack(str(root), io.BytesIO())
    assert caught.value.reason == "ArchiveUnsafe" and "archive" not in caught.value.message + caught.value.next
    (root / "passwd").unlink()
    (root / "a\nb").mkdir()
    with pytest.raises(BuildError, match="holds control characters"):
        pack(str(root), io.BytesIO())
    (root / "a\nb").rmdir()
    (root / os.fsdecode(b"caf\xe9")).write_text("")
    with pytest.raises(BuildError, match="is not UTF-8"):
        pack(str(root), io.BytesIO())


def test_a_large_file_is_streamed_in_chunks(tmp_path: Path) -> None:
    (tmp_path / "big.bin").write_bytes(os.urandom(3 * 1024 * 1024 + 5))
    source = pack(str(tmp_path), io.BytesIO())
    chunks = list(source.chunks())
    assert len(chunks) > 4 and max(map(len, chunks)) < 1024 * 1024
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(b"".join(chunks)))) as tar:
        content = tar.extractfile("big.bin")
        assert content is not None and content.read() == (tmp_path / "big.bin").read_bytes()


def test_first_bytes_stop_at_the_limit() -> None:
    assert first_bytes(iter([b"ab", b"cd"]), 4) == (b"abcd", True)
    assert first_bytes(iter([b"ab", b"cd", b"e", b"never"]), 4) == (b"abcde", False)


def test_a_text_file_an_archive_and_stdin(tmp_path: Path) -> None:
    handler = tmp_path / "handler.py"
    handler.write_text("def handler(payload, ctx): ...\n")
    text = pack(str(handler), io.BytesIO())
    assert (text.kind, text.name, text.runtime("")) == ("file", "handler", "python")
    archive = tmp_path / "My App_1.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.go", "package main")
    assert (pack(str(archive), io.BytesIO()).kind, pack(str(archive), io.BytesIO()).name) == ("archive", "my-app-1")
    piped = pack("-", io.BytesIO(archive.read_bytes()))
    assert piped.kind == "archive" and b"".join(piped.chunks()) == archive.read_bytes()
    assert pack("-", io.BytesIO(b"package main\n")).kind == "file"


def test_what_cannot_be_a_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (
        ("nowhere", "InvalidRequest"),
        ("empty", "SourceEmpty"),
        ("none.txt", "SourceEmpty"),
        ("image.png", "NotAnArchive"),
        ("pipe", "InvalidRequest"),
    ):
        with pytest.raises(BuildError) as caught:
            pack(str(tmp_path / name), io.BytesIO())
        assert caught.value.reason == reason


class Endless(io.RawIOBase):
    """A stream without an end, which counts what is read of it."""

    def __init__(self, head: bytes, rest: bytes) -> None:
        self.head, self.rest, self.count = head, rest, 0

    def read(self, size: int = -1) -> bytes:
        assert size > 0, "all of it at once"
        data = (self.head + self.rest * (size // len(self.rest) + 1))[:size]
        self.head, self.count = b"", self.count + size
        return data


@pytest.mark.parametrize(
    ("head", "rest", "reason", "most"),
    [
        (b"a", b"\0", "NotAnArchive", 4096),
        (b"", b"\0", "ArchiveTooLarge", 3 * MIB),  # zeros are the end of a tar
        (b"\xff", b"a", "NotAnArchive", 4096),
        (b"a" * 4096, b"\xff", "NotAnArchive", MIB),
        (b"", "é".encode(), "ArchiveTooLarge", 3 * MIB),
        (b"PK\x03\x04", b"\0", "ArchiveTooLarge", 3 * MIB),
    ],
)
def test_an_endless_stdin_is_refused_and_not_read_for_ever(head: bytes, rest: bytes, reason: str, most: int) -> None:
    stream: Any = Endless(head, rest)
    with pytest.raises(BuildError) as caught:
        pack("-", stream, most=2 * MIB)
    assert caught.value.reason == reason and stream.count <= most
    assert reason == "NotAnArchive" or "more than 2 MiB; limit 2 MiB" in caught.value.message


class Counted(io.FileIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1) -> bytes:
        assert size is not None and size > 0, "all of it at once"
        Counted.count += size
        return super().read(size)


@pytest.mark.parametrize(
    ("head", "reason"),
    [(b"a\0", "NotAnArchive"), ("aé".encode() * 2000, "ArchiveTooLarge"), (b"PK\5\6", "ArchiveTooLarge")],
)
def test_a_file_is_judged_by_its_first_bytes_and_its_size_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, reason: str
) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(head)
    os.truncate(path, 3 * MIB)
    monkeypatch.setattr(Path, "open", lambda self, mode: Counted(str(self)))
    monkeypatch.setattr(Counted, "count", 0)
    with pytest.raises(BuildError) as caught:
        pack(str(path), io.BytesIO(), most=2 * MIB)
    assert (caught.value.reason, Counted.count) == (reason, 4096)
    assert reason == "NotAnArchive" or caught.value.message.endswith(", 3 MiB; limit 2 MiB")


@pytest.mark.parametrize("size", [MIB - 1, MIB])
def test_what_has_as_many_bytes_as_may_be_sent_is_sent(tmp_path: Path, size: int) -> None:
    data = b"a" * size
    (tmp_path / "a.py").write_bytes(data)
    for packed in (pack("-", io.BytesIO(data), most=MIB), pack(str(tmp_path / "a.py"), io.BytesIO(), most=MIB)):
        assert b"".join(packed.chunks()) == data == b"".join(packed.chunks()) and packed.size == size
    for source in ("-", str(tmp_path / "a.py")):
        with pytest.raises(BuildError, match=r"ArchiveTooLarge: one file, .*limit"):
            pack(source, io.BytesIO(data), most=size - 1)


def test_a_text_that_ends_inside_a_character_is_none() -> None:
    with pytest.raises(BuildError, match="neither an archive nor UTF-8 text"):
        pack("-", io.BytesIO("né".encode()[:-1]))


@pytest.mark.parametrize("path", ["a" * 300, "a/" * 3000])
def test_a_path_that_no_file_system_takes_does_not_exist(path: str) -> None:
    with pytest.raises(BuildError, match="does not exist"):
        pack(path, io.BytesIO())


def _refuse(*args: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_file_that_may_not_be_read_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("x")
    monkeypatch.setattr(Path, "open", _refuse)
    with pytest.raises(BuildError, match=r"a.py cannot be read: Permission denied") as caught:
        pack(str(tmp_path / "a.py"), io.BytesIO())
    assert caught.value.reason == "InvalidRequest"


def test_a_file_of_a_folder_that_may_not_be_read_is_named_before_anything_reads_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "go.mod").write_text("module x")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "go.mod")
    monkeypatch.setattr(Path, "open", _refuse)
    with pytest.raises(BuildError, match=r"go.mod cannot be read: Permission denied") as caught:
        pack(str(tmp_path), io.BytesIO())
    assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "go.mod")


def test_what_vanishes_while_a_folder_is_listed_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor's lock is a link that leads nowhere, and is gone in a moment."""
    (tmp_path / "a.py").write_text("x")
    (tmp_path / ".#a.py").symlink_to("ada@host.1234")

    def gone(path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory", path)

    monkeypatch.setattr(os, "readlink", gone)
    found = pack(str(tmp_path), io.BytesIO()).folder
    assert found is not None and [entry.path for entry in found.entries] == ["a.py"]


@pytest.mark.parametrize("still", [False, True], ids=["gone", "still there"])
def test_what_vanishes_before_it_is_planned_is_named(
    still: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "b.py").write_text("x")
    packed = pack(str(tmp_path), io.BytesIO())

    def refuse(*args: object) -> None:
        raise OSError(28, "No space left on device")

    if still:
        monkeypatch.setattr(os, "link", refuse)
        monkeypatch.setattr(shutil, "copy", refuse)
    else:
        (tmp_path / "b.py").unlink()
    with pytest.raises(OSError if still else BuildError) as caught, opened(packed):
        pass
    if isinstance(caught.value, BuildError):
        assert (caught.value.reason, caught.value.where) == ("InvalidRequest", "b.py")
        assert "b.py cannot be read: No such file or directory" in caught.value.message


def test_a_link_and_a_file_that_is_left_out_need_not_be_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.py").write_text("x")
    (tmp_path / "link").symlink_to("a.py")
    (tmp_path / ".env").write_text("SECRET=1")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "a.py")
    monkeypatch.setattr(Path, "open", _refuse)
    assert pack(str(tmp_path), io.BytesIO()).folder is not None


def test_a_file_that_shrinks_while_it_is_read_ends_the_packing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("long enough")
    source = pack(str(tmp_path), io.BytesIO())
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(BuildError, match="shorter"):
        list(source.chunks())


def test_a_folder_with_more_names_than_a_node_takes_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("")
    (tmp_path / "link").symlink_to("folder")
    needed = len("folder" + "folder/file" + "link" + "folder")
    judge_sizes(find(tmp_path), ArchiveLimits(names=needed))
    with pytest.raises(BuildError, match="more than 26 B of names of files, folders and links, limit 26 B"):
        judge_sizes(find(tmp_path), ArchiveLimits(names=needed - 1))


def test_a_folder_over_the_limit_of_unpacked_sources_names_its_largest_parts(tmp_path: Path) -> None:
    for name, size in (
        ("data/a/x.bin", 400),
        ("data/y.bin", 200),
        ("assets/z.bin", 100),
        ("model.bin", 7),
        ("a.go", 1),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(size * MIB)
    source = pack(str(tmp_path), io.BytesIO())
    with pytest.raises(BuildError) as caught:
        check_size(source, 512 * MIB)
    assert (caught.value.reason, caught.value.where) == ("ArchiveTooLarge", "PATH")
    assert caught.value.message == (
        "folder, 5 files, 708 MiB; limit 512 MiB; largest: data/ 600 MiB, assets/ 100 MiB, model.bin 7 MiB"
    )


def test_what_is_sent_is_compared_with_the_limit_of_uploads(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "noise").write_bytes(random.Random(1).randbytes(2 * MIB))
    with pytest.raises(BuildError, match=r"limit 1 MiB; largest: noise 2 MiB"):
        check_size(pack(str(root), io.BytesIO()), MIB)
    check_size(pack(str(root), io.BytesIO()), 3 * MIB)
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(packed(root))
    with pytest.raises(BuildError, match=r"^ArchiveTooLarge: archive, 2 MiB; limit 1 MiB$"):
        check_size(pack(str(archive), io.BytesIO()), MIB)
    (root / "noise").write_bytes(bytes(2 * MIB))  # compresses to some KiB, so the upload is not too large
    check_size(pack(str(root), io.BytesIO()), MIB)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("hello-go", "hello-go"), ("My App.tar.gz", "my-app"), ("..", "app"), ("handler.py", "handler"), ("ü", "app")],
)
def test_names(name: str, expected: str) -> None:
    assert build_name(name) == expected


@pytest.mark.parametrize("name", ["main.c", "page.rb", "app.unknown"])
def test_a_file_that_no_pipeline_claims_is_refused_unless_its_runtime_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.write_text("text\n")
    packed = pack(str(file), io.BytesIO())
    with pytest.raises(BuildError, match=r"no runtime here builds .* files; there is \.go, .*\.py") as caught:
        packed.runtime("")
    assert (caught.value.reason, caught.value.next) == (
        "UnsupportedTarget", "Name the runtime of the file: --runtime NAME",
    )  # fmt: skip
    assert packed.runtime("go") == "go"


def test_our_own_compression_is_never_a_bomb(tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    (root / "zeros").write_bytes(bytes(8 * MIB))
    (root / "rows.csv").write_bytes(b"1,2,3,4,5,6,7,8,9,10\n" * (9 * MIB // 21))
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(packed(root))
    assert 17 * MIB / 100 < archive.stat().st_size < MIB
    assert gzip.decompress(archive.read_bytes())[-1024:] == bytes(1024)
    assert unpack(archive, tmp_path / "out", ArchiveLimits()).size == 8 * MIB + (root / "rows.csv").stat().st_size
    assert code_hash(tmp_path / "out") == code_hash(root)


def test_a_file_that_cannot_be_sent_is_named_before_anything_is(tmp_path: Path) -> None:
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(129 * MIB)
    with pytest.raises(BuildError, match=r'"big.bin" has 129 MiB, limit 128 MiB'):
        check_size(pack(str(tmp_path), io.BytesIO()), 512 * MIB)


def test_what_looks_like_a_secret_is_named_once_it_was_packed(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "settings.py").write_text(f"KEY = 'AKIA{'Q' * 16}'\n")
    (tmp_path / "credentials.json").write_text("{}")
    source = pack(str(tmp_path), io.BytesIO())
    list(source.chunks())
    assert source.count.secrets == ["credentials.json", "settings.py"]
    assert source.count.read == source.size
