"""What `make demo-images` shows: each example is built by what it is there for, and a machine learns what it lacks."""

from __future__ import annotations

import os
import shutil

import pytest

from builder.buildpacks.project import read_project
from builder.dockerfile.choose import ImageRequest, plan_image
from builder.source.tree import DirTree
from examples.demo_images import DEMO, HERE, lacking
from tests.cluster import programs

BASE = "registry.example/base@sha256:" + "b" * 64


def test_the_folders_are_what_is_shown() -> None:
    assert {path.name for path in HERE.glob("image-*")} == {
        one.name for one in DEMO if one.argv[0] == str(HERE / one.name)
    }
    assert [one.kind for one in DEMO] == ["Dockerfile", "buildpacks", "prebuilt"]


def test_the_dockerfile_has_two_stages_and_is_answered_from_the_cache_on_a_base_by_digest() -> None:
    plan = plan_image(HERE / "image-dockerfile", ImageRequest(build_args={"BASE": BASE, "NAME": "Ada"}))
    assert (plan.strategy, plan.bases, plan.pinned, plan.warnings) == ("kaniko", (BASE,), True, ())
    text = (HERE / "image-dockerfile/Dockerfile").read_text()
    assert text.count("\nFROM ") == 2 and "\nRUN " in text


def test_the_app_without_a_dockerfile_is_for_buildpacks_and_its_draft_is_left_out() -> None:
    folder = HERE / "image-buildpacks"
    assert plan_image(folder, ImageRequest()).strategy == "buildpacks"
    project = read_project(DirTree(folder), ("BP_*",))
    is_part = project.filter()
    assert [path.name for path in sorted(folder.iterdir()) if is_part(path.name)] == ["index.html", "project.toml"]
    assert project.arguments == (("BP_GREETING", "hello"),)


def test_a_machine_that_has_all_lacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    assert lacking() == ""


@pytest.mark.parametrize(
    ("uid", "absent", "words"),
    [
        (1000, (), ("needs root", "sudo make demo-images", "make demo")),
        (0, ("go",), ("Go", "install Go")),
        (0, ("etcd", "apt-get"), ("etcd-server", "install")),
    ],
)
def test_what_is_lacking_is_named_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, uid: int, absent: tuple[str, ...], words: tuple[str, ...]
) -> None:
    machine(monkeypatch, uid, absent)
    reason = lacking()
    assert "\nnext   " in reason and all(word in reason for word in words)


def test_a_package_that_apt_brings_is_not_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, absent=("etcd",))
    assert programs.missing_packages() == ["etcd-server"] and lacking() == ""


def machine(monkeypatch: pytest.MonkeyPatch, uid: int = 0, absent: tuple[str, ...] = ()) -> None:
    """A user, and a PATH that has everything but `absent`."""
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(shutil, "which", lambda name: None if name in absent else f"/usr/bin/{name}")
