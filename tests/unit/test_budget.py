"""The disk budget of a node: what was used longest ago goes first, and nothing that a running build uses."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder import config
from builder.attempt.uses import Uses, lock_file, unused
from builder.images.image import ImageConfig, build_image
from builder.images.store import images_of, toolchain_images_of
from builder.node import budget
from builder.settings import Settings
from tests.oci_fixtures import make_layer

MIB = 1024 * 1024


@dataclass
class Node:
    """A node's folder of units of a MiB each, used in the order in which they are named."""

    folder: Path

    def settings(self, mib: float) -> Settings:
        values = {"node_dir": str(self.folder), "node_disk_bytes": int(mib * MIB)}
        return config.load(values).settings

    def tree(self, path: str, used: int) -> Path:
        folder = self.folder / path
        (folder / "inner").mkdir(parents=True)
        (folder / "inner/data").write_bytes(os.urandom(MIB))
        self.used(path.replace("bases/rootfs", "roots"), used)
        return folder

    def used(self, unit: str, at: int) -> None:
        file = lock_file(self.folder, unit)
        file.touch()
        os.utime(file, (at, at))

    def image(self, name: str, used: int, work: Path, toolchain: bool = True) -> str:
        """An image of a MiB, unpacked as well."""
        layer = make_layer(work, f"{name}-{used}", {"data": os.urandom(MIB)})
        images = toolchain_images_of(self.folder) if toolchain else images_of(self.folder)
        digest = images.put(build_image(None, (layer,), ImageConfig(entrypoint=())), name).digest
        images.rootfs(digest)
        self.used(f"roots/{digest[7:]}", used)
        self.used(f"images/{digest}", used)
        return digest

    def age(self) -> None:
        """As if every blob had been stored long ago."""
        for path in (self.folder / "bases/layout/blobs/sha256").iterdir():
            os.utime(path, (1, 1))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    (tmp_path / "node").mkdir()
    return Node(tmp_path / "node")


def test_least_recently_used_goes_first_until_the_rest_fits(node: Node) -> None:
    old = node.tree("caches/acme/go-build", 100)
    root = node.tree("bases/rootfs/" + "a" * 64, 200)
    copy = node.tree("toolchains/go-1234", 300)
    young = node.tree("caches/acme/wheels", 400)
    assert budget.within_budget(node.settings(10)) == ()
    went = budget.within_budget(node.settings(2.5))
    assert went == ("caches/acme/go-build", "roots/" + "a" * 64)
    assert not old.exists() and not root.exists() and copy.exists() and young.exists()
    assert budget.within_budget(node.settings(0)) == (), "0 is any number"
    assert not list(node.folder.rglob(".evicted-*"))


def test_what_a_running_build_uses_stays_however_old_it_is(node: Node) -> None:
    old, young = node.tree("caches/acme/go-build", 100), node.tree("caches/other/go-build", 200)
    with_build = Uses(node.folder)
    with_build.add("caches/acme/go-build")
    node.used("caches/acme/go-build", 100)
    assert budget.within_budget(node.settings(0.1)) == ("caches/other/go-build",)
    assert old.exists() and not young.exists()
    with_build.close()
    assert budget.within_budget(node.settings(0.1)) == ("caches/acme/go-build",)


def test_a_use_renews_the_time_of_a_unit(node: Node) -> None:
    node.tree("caches/acme/go-build", 100)
    node.tree("caches/acme/wheels", 200)
    uses = Uses(node.folder)
    uses.add("caches/acme/go-build")
    uses.close()
    assert budget.within_budget(node.settings(1.5)) == ("caches/acme/wheels",)


def test_a_toolchain_image_goes_after_its_root_and_its_blobs_with_it(node: Node, tmp_path: Path) -> None:
    old, young = node.image("go-1.24", 100, tmp_path), node.image("go-1.25", 200, tmp_path)
    node.age()
    assert budget.within_budget(node.settings(3.5)) == (f"roots/{old[7:]}",)
    assert toolchain_images_of(node.folder).get("go-1.24") is not None
    assert budget.within_budget(node.settings(2.5)) == ("go-1.24",)
    images = toolchain_images_of(node.folder)
    assert images.get("go-1.24") is None and images.get("go-1.25") is not None
    blobs = sum(path.stat().st_size for path in (node.folder / "bases/layout/blobs/sha256").iterdir())
    assert MIB < blobs < 1.5 * MIB
    assert (images.rootfs(young) / "app/data").is_file()


def test_the_base_that_a_name_points_at_stays_and_one_that_was_replaced_goes(node: Node, tmp_path: Path) -> None:
    first = node.image("go", 100, tmp_path, toolchain=False)
    uses = Uses(node.folder)
    uses.add(f"images/{first}")
    second = node.image("go", 200, tmp_path, toolchain=False)
    node.age()
    budget.within_budget(node.settings(0.1))
    images = images_of(node.folder)
    assert images.get("go", first) is not None, "a running build packages on it"
    uses.close()
    node.age()
    budget.within_budget(node.settings(0.1))
    current = images.get("go")
    assert current is not None and current.digest == second and images.get("go", first) is None
    assert (images.rootfs(second) / "app/data").is_file(), "unpacked again"


def test_what_an_ended_process_put_aside_is_removed(node: Node) -> None:
    left = node.folder / "caches/acme/.evicted-go-build.12"
    (left / "x").mkdir(parents=True)
    node.tree("caches/acme/wheels", 1)
    assert budget.within_budget(node.settings(100)) == ()
    assert not left.exists()


def test_what_a_killed_process_made_in_part_is_removed_once_it_is_old(node: Node) -> None:
    places = ("bases/rootfs", "toolchains", "components", "caches/acme/results")
    for place in places:
        for name in ("old", "new"):
            (node.folder / place / f".partial-{name}" / "x").mkdir(parents=True)
        os.utime(node.folder / place / ".partial-old", (1, 1))
    assert budget.within_budget(node.settings(100)) == ()
    assert [path.name for place in places for path in (node.folder / place).iterdir()] == [".partial-new"] * 4


def test_what_fails_beside_a_unit_in_use_has_no_lock_as_its_cause(tmp_path: Path) -> None:
    """A lock that another has is EAGAIN, as a limit of processes is: the verdict of a failure reads its causes."""
    uses = Uses(tmp_path)
    uses.add("images/a")
    with pytest.raises(LookupError) as failed, unused(tmp_path, "images/a") as is_free:
        assert not is_free
        raise LookupError
    assert failed.value.__context__ is None
    uses.close()
