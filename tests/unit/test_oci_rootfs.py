"""Unpacking images: what was packed comes out, and no layer writes outside its root."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.errors import BuildError, PlatformError
from builder.images.layer import Layer, write_layer
from builder.images.rootfs import ENTRY_BYTES, unpack_image, unpack_tar
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
