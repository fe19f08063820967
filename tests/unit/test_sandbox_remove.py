"""Removing what a build left: deep, closed, wide, full of links; nothing outside is touched."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.sandbox.remove import remove_tree

DEPTH = 20_000


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """As many as a worker has to spare."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 64 + len(os.listdir("/proc/self/fd"))), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """Where 20,000 folders cost a second and not a minute, if there is such a place."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(prefix="ignite-test-", dir=base) as folder:
        yield Path(folder)


def deep(top: Path, depth: int, name: str = "d") -> None:
    """A file at every hundredth level, a sibling folder beside each of these."""
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    for level in range(depth):
        os.mkdir(name, dir_fd=here)
        if level % 100 == 0:
            os.mkdir("beside", dir_fd=here)
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


@pytest.mark.slow
@pytest.mark.usefixtures("few_descriptors")
@pytest.mark.parametrize("name", ["d", "n" * 200], ids=["short names", "a path of 4 MB"])
def test_a_tree_of_twenty_thousand_levels(in_memory: Path, name: str) -> None:
    work = in_memory / "work"
    work.mkdir()
    deep(work, DEPTH, name)
    assert remove_tree(work)
    assert list(in_memory.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "inner").mkdir(parents=True)
    (kept / "inner/file").write_text("x")
    work = tmp_path / "work"
    (work / "a/b").mkdir(parents=True)
    (work / "to").symlink_to(kept)
    (work / "a/b/to").symlink_to(kept / "inner")
    (work / "a/loop").symlink_to(work)
    (work / "a/gone").symlink_to("/nowhere")
    os.link(kept / "inner/file", work / "a/file")
    os.mkfifo(work / "a/pipe")
    assert remove_tree(work)
    assert (kept / "inner/file").read_text() == "x"
    assert (kept / "inner/file").stat().st_nlink == 1


def test_a_work_folder_that_became_a_link_loses_only_the_link(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "work").symlink_to(kept)
    assert remove_tree(tmp_path / "work")
    assert kept.is_dir()


def test_what_is_not_there_is_gone(tmp_path: Path) -> None:
    assert remove_tree(tmp_path / "work")


def test_closed_folders_and_names_that_are_no_text(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "closed/inner/deepest").mkdir(parents=True)
    (work / "closed/inner/file").write_text("x")
    os.mkdir(os.fsencode(work) + b"/\xff\xfe")
    for folder in (work / "closed/inner", work / "closed", work):
        folder.chmod(0)
    assert remove_tree(work)
    assert list(tmp_path.iterdir()) == []
