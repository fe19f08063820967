"""Layers: the same tree gives the same bytes, and a hostile tree gives nothing that it should not."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from isal import isal_zlib

from builder.errors import BuildError
from builder.images import layer as layer_module
from builder.images.gather import EntryKind, LayerEntry
from builder.images.layer import compressor_is_the_known_one, tar_header, write_layer
from tests.oci_fixtures import make_tree

FILES: dict[str, str | bytes] = {"b": "bee", "a/x": "ex", "a-b": "dash", "a/sub/y": b"\0" * 3000, "z.sh": "#!/bin/sh\n"}


def members(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        found = tar.getmembers()
    assert len({member.name for member in found}) == len(found), "a path is in the layer twice"
    return {member.name: member for member in found}


def test_a_large_layer_is_compressed_in_blocks_and_hashed_beside_that(tmp_path: Path) -> None:
    large = b"".join(b"%d ignite %d\n" % (number, number * number % 977) for number in range(200_000))
    tree = make_tree(tmp_path / "t", {"a": large[:1500], "b": large, "c": large[: layer_module.BLOCK]})
    layer = write_layer([(tree, "/app")], tmp_path / "l")
    packed = layer.path.read_bytes()
    tar = gzip.decompress(packed)
    assert len(tar) > 4 * layer_module.BLOCK and layer.unpacked == len(tar)
    assert layer.diff_id == "sha256:" + hashlib.sha256(tar).hexdigest()
    assert layer.digest == "sha256:" + hashlib.sha256(packed).hexdigest() and layer.size == len(packed)
    compressor = isal_zlib.compressobj(layer_module.LEVEL, isal_zlib.DEFLATED, -15)
    blocks = (tar[at : at + layer_module.BLOCK] for at in range(0, len(tar), layer_module.BLOCK))
    assert packed[10:-8] == b"".join([*map(compressor.compress, blocks), compressor.flush()])
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("layer")]


def test_a_small_layer_starts_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "concurrent.futures", None)
    layer = write_layer([(make_tree(tmp_path / "t", FILES), "/app")], tmp_path / "l")
    assert layer.unpacked == len(gzip.decompress(layer.path.read_bytes()))


def test_digests_are_of_the_bytes(tmp_path: Path) -> None:
    layer = write_layer([(make_tree(tmp_path / "t", FILES), "/app")], tmp_path / "l", created_by="test")
    packed = layer.path.read_bytes()
    assert layer.digest == "sha256:" + hashlib.sha256(packed).hexdigest()
    assert layer.size == len(packed)
    tar = gzip.decompress(packed)
    assert layer.diff_id == "sha256:" + hashlib.sha256(tar).hexdigest()
    assert layer.unpacked == len(tar)
    assert packed[3:9] == bytes(6), "no name, no time in the gzip header"


def test_the_bytes_are_pinned(tmp_path: Path) -> None:
    """Whoever changes these changes the digest of every artifact: raise the recipe versions then."""
    tree = make_tree(tmp_path / "t", FILES, executable=("z.sh",))
    (tree / "link").symlink_to("a/x")
    layer = write_layer([(tree, "/app")], tmp_path / "l")
    assert layer.diff_id == "sha256:2eb6bea0cabb2d1ea9c20fcb2f04157e920f9c5809023ea2c01795421202f417"
    assert layer.digest == "sha256:85cb6103f8fee1364488bb3ff6bdd623287d2ffc735a0b65bfa836fc60ef175f"


def test_the_compressor_is_the_known_one() -> None:
    assert compressor_is_the_known_one()


def test_umask_times_order_zone_and_owner_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = make_tree(tmp_path / "one", FILES, executable=("z.sh",))
    first = write_layer([(one, "/app")], tmp_path / "1.tar.gz")
    monkeypatch.setenv("TZ", "Pacific/Chatham")
    time.tzset()
    old = os.umask(0o077)
    try:
        two = make_tree(tmp_path / "two", dict(reversed(FILES.items())), executable=("z.sh",))
        for number, path in enumerate(sorted(two.rglob("*"))):
            path.chmod(0o700 if path.is_dir() or path.name == "z.sh" else 0o600)
            os.utime(path, (number * 1000, 10**9 + number))
        if os.geteuid() == 0:
            os.chown(two / "b", 1234, 4321)
        second = write_layer([(two, "/app")], tmp_path / "2.tar.gz")
    finally:
        os.umask(old)
        monkeypatch.undo()
        time.tzset()
    assert (first.digest, first.diff_id) == (second.digest, second.diff_id)


def test_entries_are_sorted_normalized_and_have_their_parents_once(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", FILES, executable=("z.sh",))
    (tree / "z.sh").chmod(0o4711)
    os.link(tree / "b", tree / "hard")
    layer = write_layer([(tree, "/opt/app"), (tree / "b", "/opt/other/name")], tmp_path / "l", mtime=77)
    found = members(layer.path)
    names = list(found)
    assert names == sorted(names, key=lambda name: name.encode().split(b"/"))
    assert names[:3] == ["opt", "opt/app", "opt/app/a"]
    assert found["opt/app/z.sh"].mode == 0o755
    assert found["opt/app/b"].mode == 0o644
    assert found["opt/app/hard"].isreg() and found["opt/app/hard"].size == 3
    assert found["opt/other/name"].size == 3
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in found.values()} == {(0, 0, "", "", 77)}


def test_a_later_source_replaces_files_and_extra_folders_keep_their_mode(tmp_path: Path) -> None:
    low, high = make_tree(tmp_path / "low", {"x": "low", "y": "y"}), make_tree(tmp_path / "high", {"x": "high"})
    (low / "tmp").mkdir()
    layer = write_layer([(low, "/"), (high, "/")], tmp_path / "l", folders={"/tmp": 0o1777, "/var/tmp": 0o1777})
    with tarfile.open(layer.path) as tar:
        content = tar.extractfile("x")
        assert content is not None and content.read() == b"high"
    found = members(layer.path)
    assert found["tmp"].mode == 0o1777 and found["var/tmp"].mode == 0o1777 and found["var"].mode == 0o755


def test_links_stay_links_and_specials_are_left_out(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", {"ok": "ok", ".wh.gone": ""})
    (tree / "out").symlink_to("/etc/passwd")
    (tree / "folder").symlink_to("/etc")
    os.mkfifo(tree / "pipe")
    layer = write_layer([(tree, "/app")], tmp_path / "l")
    found = members(layer.path)
    assert set(found) == {"app", "app/ok", "app/out", "app/folder"}
    assert found["app/out"].linkname == "/etc/passwd" and found["app/folder"].issym()
    assert len(layer.warnings) == 2
    assert any("app/pipe" in warning for warning in layer.warnings)


def test_warnings_are_few_and_printable(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", {f".wh.\x1b[31m{n}": "" for n in range(50)})
    warnings = write_layer([(tree, "/app")], tmp_path / "l").warnings
    assert len(warnings) == 21 and "30 more" in warnings[-1]
    assert all(line.isprintable() for line in warnings)


@pytest.mark.parametrize("hostile", ["root", "between", "absent", "file-between"])
def test_a_source_is_never_reached_through_a_link(tmp_path: Path, hostile: str) -> None:
    secret = make_tree(tmp_path / "secret", {"site/key": "private"})
    work = tmp_path / "work"
    work.mkdir()
    source = work / "out" / "site"
    if hostile == "root":
        (work / "out").mkdir()
        source.symlink_to(secret / "site")
    elif hostile == "between":
        (work / "out").symlink_to(secret)
    elif hostile == "file-between":
        (work / "out").write_text("a file")
    with pytest.raises(BuildError) as caught:
        write_layer([(source, "/app")], tmp_path / "l", below=work)
    assert caught.value.reason == "StepFailed"
    assert str(secret) not in str(caught.value)


def test_the_output_is_not_written_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "l").symlink_to(victim)
    write_layer([(make_tree(tmp_path / "t", {"x": "x"}), "/app")], tmp_path / "l")
    assert victim.read_text() == "untouched"


def test_the_limit_counts_sparse_files_hard_links_and_empty_files(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    sparse.mkdir()
    with (sparse / "big").open("wb") as file:
        file.truncate(10**12)
    many = make_tree(tmp_path / "many", {f"f{n}": "" for n in range(300)})
    hard = make_tree(tmp_path / "hard", {"a": b"x" * 60_000})
    os.link(hard / "a", hard / "b")
    for tree in (sparse, many, hard):
        with pytest.raises(BuildError) as caught:
            write_layer([(tree, "/app")], tmp_path / "l", limit=100_000)
        assert caught.value.reason == "ArtifactTooLarge" and "100000" in caught.value.message


def test_a_very_deep_tree_is_refused_without_running_out_of_descriptors(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    tree = tmp_path / "deep"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    os.close(here)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BuildError) as caught:
        write_layer([(tree, "/app")], tmp_path / "l")
    assert caught.value.reason == "ArtifactTooLarge"
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("place", ["app", "/app/../etc", "/./app", "/a\0b"])
def test_a_place_is_absolute_and_plain(tmp_path: Path, place: str) -> None:
    with pytest.raises(BuildError):
        write_layer([(make_tree(tmp_path / "t", {"x": "x"}), place)], tmp_path / "l")


names = st.binary(min_size=1, max_size=255).filter(
    lambda b: b"/" not in b and b"\0" not in b and b not in (b".", b"..") and not b.startswith(b".wh.")
)


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(names, min_size=1, max_size=4), min_size=1, max_size=8), st.randoms())
def test_any_name_survives_and_order_never_shows(tmp_path: Path, paths: list[list[bytes]], random: object) -> None:
    digests = set()
    for attempt in range(2):
        root = os.fsencode(tmp_path) + b"/t%d-%d" % (attempt, len(os.listdir(tmp_path)))
        os.mkdir(root)
        made = {}
        for parts in sorted(paths) if attempt else sorted(paths, reverse=True):
            wanted = b"/".join(parts)
            if any(
                other.startswith(wanted + b"/") or wanted.startswith(other + b"/") for other in map(b"/".join, paths)
            ):
                continue
            os.makedirs(os.path.dirname(root + b"/" + wanted), exist_ok=True)
            with open(root + b"/" + wanted, "wb") as file:
                file.write(wanted)
            made[wanted] = wanted
        out = tmp_path / f"l{len(os.listdir(tmp_path))}"
        digests.add(write_layer([(Path(os.fsdecode(root)), "/")], out).digest)
        with tarfile.open(out, encoding="utf-8", errors="surrogateescape") as tar:
            found = {
                member.name.encode("utf-8", "surrogateescape"): content.read()
                for member in tar.getmembers()
                if member.isreg() and (content := tar.extractfile(member))
            }
        assert found == made
    assert len(digests) == 1


@given(st.integers(0, 2**40), st.text(min_size=1, max_size=300).filter(lambda t: "\0" not in t and "/" not in t))
def test_a_header_says_what_it_was_given(size: int, target: str) -> None:
    link = LayerEntry(name=b"n" * 150, kind=EntryKind.LINK, mode=0o777, target=target.encode("utf-8", "replace"))
    with tarfile.open(fileobj=io.BytesIO(tar_header(link, 5) + bytes(1024))) as tar:
        member = tar.getmembers()[0]
    assert member.linkname.encode("utf-8", "surrogateescape") == link.target
    assert member.name == "n" * 150 and member.mtime == 5
    header = tar_header(LayerEntry(name=b"f", kind=EntryKind.FILE, mode=0o644, size=size), 0)
    first = tarfile.TarFile.open(fileobj=io.BytesIO(header + bytes(1024))).next()
    assert first is not None and first.size == size
