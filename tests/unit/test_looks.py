"""What a node reads each time that it registers is kept while its files stay as they are, and read again else."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from builder.images.store import images_of
from builder.toolchains.looks import LOOK_S, Looks, fetched_in
from builder.toolchains.states import Kept
from tests.unit.test_toolchains import store_base


class Machine:
    """What a look finds, what was fetched, and the clock."""

    def __init__(self) -> None:
        self.count, self.fetched, self.now = 0, 0, 100.0

    def look(self) -> dict[str, str]:
        self.count += 1
        return {"go-1.26": f"sha256:{self.count}"}

    def looks(self) -> Looks:
        return Looks(self.look, lambda: self.fetched, lambda: self.now)


def test_a_machine_is_looked_at_after_a_while_or_when_something_was_fetched() -> None:
    machine = Machine()
    looks = machine.looks()
    assert looks.available() == looks.available() == {"go-1.26": "sha256:1"}
    machine.now += LOOK_S - 0.1
    assert (looks.available(), machine.count) == ({"go-1.26": "sha256:1"}, 1)
    machine.now += 0.1
    assert looks.available() == {"go-1.26": "sha256:2"}
    machine.fetched += 1
    assert (looks.available(), looks.available()) == ({"go-1.26": "sha256:3"},) * 2
    assert looks.available(again=True) == {"go-1.26": "sha256:4"}
    machine.now += LOOK_S - 0.1
    assert looks.available() == {"go-1.26": "sha256:4"}, "any look begins the pause anew"


def test_what_is_fetched_while_a_look_goes_on_is_seen_by_the_next_one() -> None:
    machine = Machine()

    def look() -> dict[str, str]:
        machine.fetched += machine.count == 0
        return machine.look()

    looks = Looks(look, lambda: machine.fetched, lambda: machine.now)
    looks.available()
    assert (looks.available(), looks.available(), machine.count) == ({"go-1.26": "sha256:2"}, looks.available(), 2)


def test_a_look_that_fails_is_no_answer() -> None:
    machine = Machine()

    def look() -> dict[str, str]:
        machine.look()
        if machine.count == 2:
            raise OSError(5, "Input/output error")
        return {}

    looks = Looks(look, lambda: machine.fetched, lambda: machine.now)
    looks.available()
    machine.now += LOOK_S
    with pytest.raises(OSError):
        looks.available()
    looks.available()
    assert machine.count == 3


def test_a_look_that_was_asked_for_and_failed_is_made_again_at_the_next_call() -> None:
    """A build found a toolchain gone: the node asks once, and offers that toolchain until somebody looked."""
    machine = Machine()
    failing = [False]

    def look() -> dict[str, str]:
        machine.look()
        if failing[0]:
            raise OSError(5, "Input/output error")
        return {}

    looks = Looks(look, lambda: machine.fetched, lambda: machine.now)
    looks.available()
    failing[0] = True
    with pytest.raises(OSError):
        looks.available(again=True)
    failing[0] = False
    looks.available()
    assert machine.count == 3


def test_a_fetched_image_and_a_fetched_package_each_change_the_stamp(tmp_path: Path) -> None:
    images, copies = images_of(tmp_path / "node"), tmp_path / "node/toolchains"
    stamps = [fetched_in(copies, images)]
    store_base(images, tmp_path, "zig")
    stamps.append(fetched_in(copies, images))
    copies.mkdir()
    stamps.append(fetched_in(copies, images))
    (copies / "deno-2.7").mkdir()
    os.utime(copies, ns=(1, 1))  # a tick of the kernel's clock may not have passed
    stamps.append(fetched_in(copies, images))
    images.remove("zig")
    stamps.append(fetched_in(copies, images))
    assert len(set(stamps)) == len(stamps) and fetched_in(copies, images) == stamps[-1]


class File:
    """A file, and how often it is read."""

    def __init__(self, path: Path) -> None:
        self.path, self.count = path, 0
        self.kept: Kept[str] = Kept()

    def text(self) -> str:
        def read() -> str:
            self.count += 1
            return self.path.read_text()

        return self.kept.get(str(self.path), self.path, read)


@pytest.fixture
def file(tmp_path: Path) -> File:
    (tmp_path / "VERSION").write_text("go1.26.0")
    return File(tmp_path / "VERSION")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**9)


@pytest.mark.usefixtures("later")
def test_a_file_is_read_once_in_each_state(file: File) -> None:
    assert [file.text() for _ in range(3)] == ["go1.26.0"] * 3 and file.count == 1
    before = file.path.stat()
    fresh = file.path.with_name("fresh")
    fresh.write_text("go1.26.1")
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))  # as tar and rsync set it
    fresh.rename(file.path)
    assert [file.text() for _ in range(3)] == ["go1.26.1"] * 3 and file.count == 2
    file.path.unlink()
    with pytest.raises(FileNotFoundError):
        file.text()


def test_a_file_that_changed_a_moment_ago_is_read_each_time(file: File) -> None:
    """Another write of as many bytes within the same tick leaves its state as it was."""
    for text in ("go1.26.1", "go1.26.2", "go1.26.3"):
        file.path.write_text(text)
        assert file.text() == text


def test_what_is_read_for_longer_than_a_tick_is_not_kept_of_a_file_that_changed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write in that tick leaves the state as it was, also while the file is read."""
    path, count, kept = tmp_path / "VERSION", itertools.count(1), Kept[int]()
    path.write_text("go1.26.0")
    changed = path.stat().st_ctime_ns

    def read() -> int:
        monkeypatch.setattr(time, "time_ns", lambda: changed + 10**9)
        return next(count)

    monkeypatch.setattr(time, "time_ns", lambda: changed + 1)
    assert [kept.get(str(path), path, read) for _ in range(3)] == [1, 2, 2]
