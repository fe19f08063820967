"""Unpacking images: what was packed comes out, and no layer writes outside its root."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError, PlatformError
from builder.images import rootfs, unpack
from builder.images.layer import PLAIN_TYPE, Layer, write_layer
from builder.images.rootfs import ENTRY_BYTES, MAX_LINKS
from builder.images.unpack import BESIDE, LayerDamaged, unpack_image, unpack_tar
from builder.text import visible
from tests.oci_fixtures import make_tree

Member = tuple[str, bytes, str | bytes, int]
FILE, HARD, LINK, FOLDER = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


def tar_of(*members: Member) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content, mode in members:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, mode
            if kind == FILE:
                data = content.encode() if isinstance(content, str) else content
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            else:
                info.linkname = content if isinstance(content, str) else ""
                tar.addfile(info)
    return out.getvalue()


def packed(path: Path, *members: Member) -> Layer:
    tar = tar_of(*members)
    path.write_bytes(gzip.compress(tar))
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    return Layer(path=path, digest="sha256:" + "0" * 64, diff_id=diff_id, size=path.stat().st_size)


def plain(path: Path, tar: bytes) -> Layer:
    path.write_bytes(tar)
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    return Layer(path=path, digest="sha256:" + "0" * 64, diff_id=diff_id, size=len(tar), media_type=PLAIN_TYPE)


def pressed(path: Path, tar: bytes) -> Layer:
    path.write_bytes(gzip.compress(tar, 1))
    diff_id = "sha256:" + hashlib.sha256(tar).hexdigest()
    return Layer(path=path, digest="sha256:" + "0" * 64, diff_id=diff_id, size=path.stat().st_size)


def raw(name: str, kind: bytes, data: bytes) -> bytes:
    """An entry of any kind with data, which a header before an entry is."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    return info.tobuf() + data + bytes(-len(data) % 512)


def snapshot(root: Path) -> dict[str, tuple[str, bytes]]:
    found: dict[str, tuple[str, bytes]] = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.fsencode(os.readlink(path)))
        elif path.is_dir():
            found[name] = ("folder", b"")
        else:
            found[name] = (f"{stat.S_IMODE(path.stat().st_mode):o}", path.read_bytes())
    return found


def test_what_was_packed_comes_out(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "t", {"bin/app": "#!", "data/x": b"\0\xff"}, executable=("bin/app",))
    (tree / "link").symlink_to("../nowhere")
    layer = write_layer([(tree, "/")], tmp_path / "l", folders={"/tmp": 0o1777})
    old = os.umask(0o077)
    try:
        unpack_image([layer], tmp_path / "root")
    finally:
        os.umask(old)
    found = snapshot(tmp_path / "root")
    assert found.pop("tmp") == ("folder", b"")
    assert found == snapshot(tree)
    assert stat.S_IMODE((tmp_path / "root" / "tmp").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o755


def test_upper_layers_replace_and_delete(tmp_path: Path) -> None:
    low = packed(
        tmp_path / "1",
        ("a/x", FILE, "old", 0o644),
        ("a/y", FILE, "gone", 0o644),
        ("b/old", FILE, "gone", 0o644),
        ("was-file", FILE, "f", 0o644),
        ("was-folder/in", FILE, "f", 0o644),
    )
    high = packed(
        tmp_path / "2",
        ("a/x", FILE, "new", 0o600),
        ("a/.wh.y", FILE, "", 0o644),
        ("b/new", FILE, "kept", 0o644),
        ("b/.wh..wh..opq", FILE, "", 0o644),
        ("was-file", FOLDER, "", 0o755),
        ("was-folder", FILE, "now a file", 0o644),
    )
    unpack_image([low, high], tmp_path / "root")
    assert snapshot(tmp_path / "root") == {
        "a": ("folder", b""),
        "a/x": ("600", b"new"),
        "b": ("folder", b""),
        "b/new": ("644", b"kept"),
        "was-file": ("folder", b""),
        "was-folder": ("644", b"now a file"),
    }


def test_what_the_images_user_may_read_others_may_in_the_root(tmp_path: Path) -> None:
    """No owner is restored, so the app owns nothing there."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode, uid, gid in (
            ("home", FOLDER, 0o700, 7, 7),
            ("home/key", FILE, 0o600, 7, 8),
            ("group", FOLDER, 0o750, 0, 8),
            ("group/run", FILE, 0o610, 0, 8),
            ("root", FOLDER, 0o700, 0, 0),
            ("root/key", FILE, 0o640, 0, 0),
            ("other", FOLDER, 0o770, 9, 9),
            ("none", FOLDER, 0o070, 7, 8),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = kind, mode, uid, gid
            tar.addfile(info)
    layer = plain(tmp_path / "1", out.getvalue())

    def modes(root: Path) -> dict[str, str]:
        found = {path.relative_to(root).as_posix(): path.stat().st_mode for path in root.rglob("*")}
        return {name: f"{stat.S_IMODE(mode):o}" for name, mode in found.items()}

    unpack_image([layer], tmp_path / "run", reader=(7, 8))
    unpack_image([layer], tmp_path / "root")
    same = {"root": "700", "root/key": "640", "other": "770", "none": "770"}
    ours = {"home": "705", "home/key": "604", "group": "755", "group/run": "611"}
    assert modes(tmp_path / "run") == same | ours
    assert modes(tmp_path / "root") == same | {"home": "700", "home/key": "600", "group": "750", "group/run": "610"}


def test_links_are_resolved_inside_the_root(tmp_path: Path) -> None:
    outside = make_tree(tmp_path / "outside", {"victim": "untouched"})
    layer = packed(
        tmp_path / "1",
        ("absolute", LINK, str(outside), 0o777),
        ("absolute/victim", FILE, "inside", 0o644),
        ("up", LINK, "../../../../.." + str(outside), 0o777),
        ("up/other", FILE, "inside", 0o644),
        ("lib", LINK, "usr/lib", 0o777),
        ("lib/x.so", FILE, "x", 0o644),
        ("over", LINK, str(outside / "victim"), 0o777),
        ("over", FILE, "replaced the link", 0o644),
    )
    root = tmp_path / "root"
    unpack_image([layer], root)
    assert snapshot(outside) == {"victim": ("644", b"untouched")}
    inside = Path(str(root) + str(outside))
    assert (inside / "victim").read_text() == "inside" and (inside / "other").read_text() == "inside"
    assert (root / "usr/lib/x.so").read_text() == "x"
    assert (root / "over").read_text() == "replaced the link"


@pytest.mark.parametrize(
    "members",
    [
        (("../escape", FILE, "x", 0o644),),
        (("a/../../escape", FILE, "x", 0o644),),
        (("loop", LINK, "loop", 0o777), ("loop/x", FILE, "x", 0o644)),
        (("a", LINK, "b", 0o777), ("b", LINK, "a", 0o777), ("a/x", FILE, "x", 0o644)),
        (("file", FILE, "x", 0o644), ("file/x", FILE, "x", 0o644)),
        (("hard", HARD, "../../etc/passwd", 0o644),),
        (("hard", HARD, "/etc/passwd", 0o644),),
        (("link", LINK, "/etc/passwd", 0o777), ("hard", HARD, "link", 0o644)),
        (("hard", HARD, "/", 0o644),),
        (("a/.wh...", FILE, "", 0o644),),
        (("/".join("d" for _ in range(300)), FILE, "x", 0o644),),
    ],
)
def test_what_cannot_be_placed_is_refused_and_nothing_stays(tmp_path: Path, members: tuple[Member, ...]) -> None:
    layer = packed(tmp_path / "1", ("first", FILE, "x", 0o644), *members)
    with pytest.raises(BuildError) as caught:
        unpack_image([layer], tmp_path / "root")
    assert caught.value.reason == "ArchiveUnsafe"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1"]


def test_devices_are_left_out_and_set_user_id_bits_dropped(tmp_path: Path) -> None:
    layer = packed(
        tmp_path / "1",
        ("dev/null", tarfile.CHRTYPE, "", 0o666),
        ("pipe", tarfile.FIFOTYPE, "", 0o666),
        ("su", FILE, "x", 0o4755),
        ("closed", FOLDER, "", 0o000),
        ("closed/x", FILE, "x", 0o000),
    )
    unpack_image([layer], tmp_path / "root")
    assert snapshot(tmp_path / "root")["su"] == ("755", b"x")
    assert set(snapshot(tmp_path / "root")) == {"dev", "su", "closed", "closed/x"}


def test_damage_and_size_are_noticed(tmp_path: Path) -> None:
    good = packed(tmp_path / "1", ("x", FILE, b"x" * 5000, 0o644))
    with pytest.raises(BuildError, match="ArtifactTooLarge"):
        unpack_image([good], tmp_path / "root", limit=4999 + ENTRY_BYTES)
    unpack_image([good], tmp_path / "fits", limit=5000 + ENTRY_BYTES)
    data = good.path.read_bytes()
    for damaged in (data[:-9], data[: len(data) // 2], b"no gzip", gzip.compress(b"no tar at all" * 100)):
        good.path.write_bytes(damaged)
        with pytest.raises(PlatformError):
            unpack_image([good], tmp_path / "root")
    other = packed(tmp_path / "2", ("x", FILE, "other", 0o644))
    good.path.write_bytes(other.path.read_bytes())
    with pytest.raises(PlatformError, match="damaged"):
        unpack_image([good], tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "data",
    [
        b"no tar at all" * 100,
        tar_of(("x", FILE, b"x" * 5000, 0o644))[:3000],
        raw("x", b"x", b"11 size=-511\n"),
        raw("x", b"x", b"20 GNU.sparse.map=a\n") * 20,
        raw("x", b"x", b"17 comment=header") * 400,
        raw("x", b"L", b"name") * 400,
        raw("x", b"x", bytes(2 * 1024 * 1024)),
        raw("x", b"L", bytes(2 * 1024 * 1024)),
    ],
    ids=["no tar", "cut off", "negative size", "sparse map", "400 headers", "400 names", "large header", "large name"],
)
def test_a_layer_that_no_tool_makes_is_damaged(tmp_path: Path, data: bytes) -> None:
    """Whether its blob was damaged here or pushed so knows who pulled it."""
    for layer in (plain(tmp_path / "p", data), pressed(tmp_path / "g", data)):
        with pytest.raises(LayerDamaged) as caught:
            unpack_image([layer], tmp_path / "root")
        assert caught.value.reason == "Internal" and not (tmp_path / "root").exists()


@pytest.mark.parametrize("said", [b"20 GNU.sparse.map=1\n", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"])
def test_a_sparse_file_is_refused(tmp_path: Path, said: bytes) -> None:
    data = raw("s", b"x", said) + tar_of(("a", FILE, b"2\n0\n1\n", 0o644))
    with pytest.raises(BuildError, match="a is a sparse file") as caught:
        unpack_image([plain(tmp_path / "p", data)], tmp_path / "root")
    assert caught.value.reason == "ArchiveUnsafe"


def test_a_layer_of_plain_tar_is_unpacked_as_it_is(tmp_path: Path) -> None:
    data = tar_of(("x", FILE, "plain", 0o644))
    unpack_image([plain(tmp_path / "p", data), packed(tmp_path / "g", ("y", FILE, "gzip", 0o644))], tmp_path / "root")
    assert snapshot(tmp_path / "root") == {"x": ("644", b"plain"), "y": ("644", b"gzip")}


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.layer.v1.tar+zstd", "text/plain\x1b"])
def test_a_layer_of_another_kind_is_named_with_what_is_taken(tmp_path: Path, kind: str) -> None:
    layer = replace(packed(tmp_path / "1", ("x", FILE, "", 0o644)), media_type=kind)
    with pytest.raises(BuildError, match=r"tar and tar\+gzip are taken") as caught:
        unpack_image([layer], tmp_path / "root")
    assert caught.value.reason == "ImageContractViolated" and caught.value.where == f"layer {layer.digest}"
    assert visible(kind) in caught.value.message and not (tmp_path / "root").exists()


def test_what_is_left_out_and_what_describes_is_counted(tmp_path: Path) -> None:
    """A gigabyte of zeros is a megabyte of gzip; what is written is nothing here."""
    header = tarfile.TarInfo("device")
    header.type, header.size = b"Z", BESIDE + 70_000
    left_out = header.tobuf() + bytes(BESIDE + 70_000)
    comment = b"900000 comment=" + b"c" * (900_000 - 16) + b"\n"
    commented = raw("x", b"x", comment) + tar_of(("x", FILE, "", 0o644))[:512]
    behind = tar_of() + bytes(BESIDE + 70_000)
    for data in (left_out, commented * 20, behind):
        with pytest.raises(BuildError, match="more bytes of tar") as caught:
            unpack_image([pressed(tmp_path / "1", data)], tmp_path / "root", limit=20_000)
        assert caught.value.reason == "ArtifactTooLarge"
    half = pressed(tmp_path / "1", tar_of() + bytes(BESIDE // 2 + 5000))
    unpack_image([half], tmp_path / "root", limit=1000)
    with pytest.raises(BuildError, match="more bytes of tar"):
        unpack_image([half, half], tmp_path / "both", limit=1000)


def test_files_that_fit_are_not_too_many_bytes_of_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that an entry counts is a header's bytes, and its data is padded to as much."""
    monkeypatch.setattr(unpack, "BESIDE", 10_240)
    layer = packed(tmp_path / "1", *((f"{at:0100}", FILE, b"x", 0o644) for at in range(300)))
    unpack_image([layer], tmp_path / "root", limit=300 * (ENTRY_BYTES + 1))


def test_what_one_layer_puts_is_in_memory_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low = packed(tmp_path / "1", *((f"a/{at}", FILE, "", 0o644) for at in range(9)))
    monkeypatch.setattr(rootfs, "MOST_ENTRIES", 10)
    unpack_image([low, low], tmp_path / "root")
    high = packed(tmp_path / "2", *((f"a/{at}", FILE, "", 0o644) for at in range(10)))
    with pytest.raises(BuildError, match="more than 10 files and folders") as caught:
        unpack_image([high], tmp_path / "other")
    assert caught.value.reason == "ArtifactTooLarge"
    monkeypatch.setattr(rootfs, "MOST_NAMES", 20)
    with pytest.raises(BuildError, match="of their names"):
        unpack_image([low], tmp_path / "other")


def test_an_opaque_whiteout_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one listed the folder, and compared what it found with all that the layer had put."""
    low = packed(tmp_path / "1", ("a/old", FILE, "", 0o644), ("a/sub/old", FILE, "", 0o644))
    high = packed(
        tmp_path / "2",
        ("a/new", FILE, "", 0o644),
        ("a/sub/new/x", FILE, "", 0o644),
        *[("a/.wh..wh..opq", FILE, "", 0o644)] * 50,
        ("a/later", FILE, "", 0o644),
        *[("a/.wh..wh..opq", FILE, "", 0o644)] * 50,
    )
    listed, listdir = list[int](), os.listdir

    def list_it(folder: int) -> list[str]:
        listed.append(folder)
        return listdir(folder)

    monkeypatch.setattr("builder.images.rootfs.os.listdir", list_it)
    unpack_image([low, high], tmp_path / "root")
    monkeypatch.undo()
    assert set(snapshot(tmp_path / "root")) == {
        "a",
        "a/new",
        "a/later",
        "a/sub",
        "a/sub/old",
        "a/sub/new",
        "a/sub/new/x",
    }
    assert len(listed) == 1


def test_links_and_folders_are_walked_one_step_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step once opened every folder above it again."""
    deep = "/".join("d" * 100)
    layer = packed(
        tmp_path / "1",
        (f"{deep}/x", FILE, "deep", 0o644),
        ("up", LINK, f"{deep}/../../d", 0o777),
        ("up/y", FILE, "beside", 0o644),
        ("above", LINK, "../..//./" + deep, 0o777),
        ("above/z", FILE, "root's parent is itself", 0o644),
        ("new", LINK, "absent/../made/below", 0o777),
        ("new/z", FILE, "made", 0o644),
    )
    opened, opener = list[Any](), os.open

    def open_it(path: Any, *args: Any, **more: Any) -> int:
        opened.append(path)
        return opener(path, *args, **more)

    monkeypatch.setattr("builder.images.rootfs.os.open", open_it)
    unpack_image([layer], tmp_path / "root")
    monkeypatch.undo()
    assert len(opened) < 1500
    root = tmp_path / "root"
    assert (root / deep / "x").read_text() == "deep" and (root / deep / "z").exists()
    assert (root / deep / "../y").read_text() == "beside" and (root / "made/below/z").read_text() == "made"
    assert not (root / "absent").exists()


def test_a_path_through_links_has_an_end(tmp_path: Path) -> None:
    links = [(f"l{at}", LINK, f"l{at + 1}", 0o777) for at in range(MAX_LINKS - 1)]
    fits = (*links, (f"l{MAX_LINKS - 1}", LINK, "end", 0o777), ("l0/x", FILE, "x", 0o644))
    unpack_image([packed(tmp_path / "1", *fits)], tmp_path / "root")
    assert (tmp_path / "root/end/x").read_text() == "x"
    for more in (("more", LINK, "l0", 0o777), ("more", LINK, "/".join(["d", ".."] * 600), 0o777)):
        layer = packed(tmp_path / "2", *fits, ("d/x", FILE, "x", 0o644), more, ("more/x", FILE, "x", 0o644))
        with pytest.raises(BuildError, match="too many links") as caught:
            unpack_image([layer], tmp_path / "other")
        assert caught.value.reason == "ArchiveUnsafe"


def test_what_has_no_bytes_counts_as_well(tmp_path: Path) -> None:
    """Empty files, folders, links and the folders above an entry fill a disk of few inodes."""
    deep = packed(tmp_path / "1", *((f"{at}/{at}/{at}", FILE, "", 0o644) for at in range(10)))
    linked = packed(tmp_path / "2", *((f"l{at}", tarfile.SYMTYPE, "x", 0o777) for at in range(10)))
    with pytest.raises(BuildError, match="ArtifactTooLarge"):
        unpack_image([deep, linked], tmp_path / "root", limit=40 * ENTRY_BYTES - 1)
    assert not (tmp_path / "root").exists()
    unpack_image([deep, linked], tmp_path / "root", limit=40 * ENTRY_BYTES)


def test_what_a_later_layer_removes_counts_as_well(tmp_path: Path) -> None:
    low = packed(tmp_path / "1", ("x", FILE, b"x" * 5000, 0o644))
    high = packed(tmp_path / "2", (".wh.x", FILE, "", 0o644), ("y", FILE, b"y" * 5000, 0o644))
    with pytest.raises(BuildError, match="ArtifactTooLarge"):
        unpack_image([low, high], tmp_path / "root", limit=9_000)


def test_a_package_lands_behind_a_merged_usr_link(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/bin").mkdir(parents=True)
    (root / "bin").symlink_to("usr/bin")
    package = tar_of(("./", FOLDER, "", 0o755), ("./bin/", FOLDER, "", 0o755), ("./bin/tool", FILE, "t", 0o755))
    unpack_tar(io.BytesIO(package), root, packed=False, keep_links=True)
    assert (root / "bin").is_symlink() and (root / "usr/bin/tool").read_text() == "t"
    unpack_tar(io.BytesIO(package), root, packed=False)
    assert not (root / "bin").is_symlink()


parts = st.sampled_from(["a", "b", "..", ".", "", "c", "/", "etc"])
paths = st.lists(parts, min_size=1, max_size=5).map("/".join)
hostile = st.lists(
    st.tuples(paths, st.sampled_from([FILE, HARD, LINK, FOLDER]), paths, st.sampled_from([0o644, 0o755, 0])), max_size=8
)


@pytest.mark.slow
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(hostile)
def test_nothing_is_ever_written_outside(tmp_path: Path, members: list[Member]) -> None:
    box = tmp_path / f"box{len(os.listdir(tmp_path))}"
    (box / "etc").mkdir(parents=True)
    (box / "a").write_text("outside")
    before = snapshot(box)
    root = box / "root"
    absolute = [(n, k, str(box) + "/" + str(c) if k == LINK else c, m) for n, k, c, m in members]
    for shape in (members, absolute):
        root.mkdir()
        try:
            unpack_tar(io.BytesIO(tar_of(*shape)), root, packed=False)
        except BuildError as error:
            assert error.reason == "ArchiveUnsafe", error
        links = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
        assert all(path.stat().st_nlink <= len(members) for path in links)
        for path in sorted(root.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        root.rmdir()
        assert snapshot(box) == before


@pytest.mark.parametrize("number", [errno.EMLINK, *rootfs.UNPLACEABLE], ids=errno.errorcode.get)
def test_what_no_file_system_takes_is_the_images_fault(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file has 65,000 names at most on ext4: a layer with more can be unpacked nowhere, and no later either."""

    def refuse(*args: object, **more: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    layer = packed(tmp_path / "a", ("file", FILE, "x", 0o644), ("again", HARD, "file", 0o644))
    with pytest.raises(BuildError, match="again") as caught:
        unpack_image((layer,), tmp_path / "root")
    assert caught.value.reason == "ArchiveUnsafe" and not (tmp_path / "root").exists()
