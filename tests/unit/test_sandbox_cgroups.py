"""Control groups v2 against the kernel's rules (cgroup-v2.rst), played by a folder; the real ones: tests/e2e."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from builder.process import process_start
from builder.sandbox import Limits, cgroups
from builder.sandbox.check import _groups

LIMITS = Limits(memory=1 << 30, cpus=1.5, pids=100, disk=1, wall_ms=1)
FILES = {
    "memory": ("memory.max", "memory.swap.max", "memory.oom.group", "memory.events", "memory.peak"),
    "pids": ("pids.max", "pids.events", "pids.current", "pids.peak"),
    "cpu": ("cpu.max",),
}
ALL = "memory pids cpu"


class Kernel:
    """The rules for writes below `top`. Threaded controllers are taken by a group with processes, as in the kernel."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.writes: list[str] = []
        self.refuses_cpu = False

    def make(self, folder: Path) -> None:
        folder.mkdir()
        handed = (folder.parent / "cgroup.subtree_control").read_text()
        self.fill(folder, handed)
        (folder / "cgroup.type").write_text("domain")

    def fill(self, folder: Path, controllers: str) -> None:
        values = {"cgroup.controllers": controllers, "cgroup.subtree_control": "", "cgroup.procs": ""}
        for name, text in values.items():
            (folder / name).write_text(text)
        for name in controllers.split():
            for file in FILES[name]:
                (folder / file).write_text("")

    def write(self, file: Path, value: str) -> None:
        if not file.exists():
            raise FileNotFoundError(errno.ENOENT, "no such file", str(file))
        self.writes.append(f"{file.relative_to(self.top)}={value}")
        if file.name == "cgroup.subtree_control":
            self._enable(file.parent, [word.removeprefix("+") for word in value.split()])
        elif file.name == "cgroup.procs":
            self._move(file, value)
        else:
            file.write_text(value, encoding="utf-8")

    def _enable(self, folder: Path, names: list[str]) -> None:
        words = cgroups._words
        if not set(names) <= set(words(folder / "cgroup.controllers")):
            raise OSError(errno.ENOENT, "not available")
        if self.refuses_cpu and "cpu" in names:
            raise OSError(errno.EINVAL, "realtime tasks")
        if (folder / "cgroup.type").exists() and words(folder / "cgroup.procs"):
            if "memory" in names:
                raise OSError(errno.EBUSY, "no internal processes")
            (folder / "cgroup.type").write_text("domain threaded")
        control = folder / "cgroup.subtree_control"
        control.write_text(" ".join([*words(control), *names]))

    def _move(self, file: Path, pid: str) -> None:
        below_top = file.parent != self.top
        if below_top and cgroups._words(file.parent / "cgroup.subtree_control"):
            raise OSError(errno.EBUSY, "no internal processes")
        for other in self.top.rglob("cgroup.procs"):
            other.write_text("\n".join(word for word in other.read_text().split() if word != pid))
        file.write_text(file.read_text(encoding="utf-8") + f"\n{pid}", encoding="utf-8")


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """An empty hierarchy whose real top has all controllers."""
    top = tmp_path / "cgroup"
    top.mkdir()
    kernel = Kernel(top)
    kernel.fill(top, ALL)
    monkeypatch.setattr(cgroups, "_make", kernel.make)
    monkeypatch.setattr(cgroups, "_write", kernel.write)
    return kernel


def service(kernel: Kernel, path: str, handed: str = ALL, pids: str = "7\n8") -> Path:
    """A service's folder with processes, controllers handed down to it."""
    folder = kernel.top
    for name in path.split("/"):
        (folder / "cgroup.subtree_control").write_text(handed)
        folder = folder / name
        kernel.make(folder)
    (folder / "cgroup.procs").write_text(pids)
    return folder


def find(kernel: Kernel, own: str, ours: tuple[str, ...]) -> cgroups.Hierarchy | None:
    folders = {kernel.top / name for name in ours}
    return cgroups.find(f"0::/{own}\n", kernel.top, lambda folder, mount_point: folder in folders)


def test_the_real_top_hands_down_although_it_has_processes(kernel: Kernel) -> None:
    (kernel.top / "cgroup.procs").write_text("1\n2")
    found = find(kernel, "", ("",))
    assert found is not None
    assert (found.version, dict(found.parents)) == (2, dict.fromkeys(ALL.split(), kernel.top))
    assert kernel.writes == ["cgroup.subtree_control=+memory +pids +cpu"], "one write: all or nothing"


def test_a_service_that_was_given_its_folder_moves_into_a_leaf(kernel: Kernel) -> None:
    folder = service(kernel, "system/ignite")
    found = find(kernel, "system/ignite", ("system/ignite",))
    assert found is not None
    assert set(found.parents.values()) == {folder}
    assert cgroups._words(folder / "ignite-worker/cgroup.procs") == ["7", "8"]
    assert cgroups._words(folder / "cgroup.procs") == []
    assert (folder / "cgroup.type").read_text() == "domain"
    again = find(kernel, "system/ignite/ignite-worker", ("system/ignite", "system/ignite/ignite-worker"))
    assert again == found, "whoever starts in the leaf finds the same folder"


def test_a_leaf_takes_the_folder_above_and_stays_as_it_is(kernel: Kernel) -> None:
    leaf = service(kernel, "svc/worker", handed="memory pids cpu")
    found = find(kernel, "svc/worker", ("svc", "svc/worker"))
    assert found is not None
    assert set(found.parents.values()) == {kernel.top / "svc"}
    assert (leaf / "cgroup.type").read_text() == "domain", "threaded controllers alone must not be enabled here"
    assert cgroups._words(leaf / "cgroup.subtree_control") == []
    assert kernel.writes == []


def test_nothing_is_touched_that_was_not_given(kernel: Kernel) -> None:
    service(kernel, "system/ignite")
    assert find(kernel, "system/ignite", ()) is None
    assert kernel.writes == []


@pytest.mark.parametrize("handed", ["pids cpu", "memory cpu", ""])
def test_without_memory_or_pids_nobody_is_moved(kernel: Kernel, handed: str) -> None:
    folder = service(kernel, "svc", handed=handed)
    assert find(kernel, "svc", ("svc",)) is None
    assert cgroups._words(folder / "cgroup.procs") == ["7", "8"]


def test_processes_that_cannot_be_moved_leave_no_hierarchy(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of another PID namespace shows as 0 and cannot be named."""
    service(kernel, "svc", pids="0")
    real = kernel.write

    def write(file: Path, value: str) -> None:
        if value == "0":
            raise OSError(errno.EINVAL, "no such process here")
        real(file, value)

    monkeypatch.setattr(cgroups, "_write", write)
    assert find(kernel, "svc", ("svc",)) is None


def test_cpu_that_is_refused_alone_leaves_the_others_and_is_said(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel.refuses_cpu = True
    found = find(kernel, "", ("",))
    assert found is not None
    assert set(found.parents) == {"memory", "pids"}
    monkeypatch.setattr(cgroups, "available", lambda: found)
    found_here = _groups()
    assert not found_here.ok
    assert "CPU is not limited" in found_here.detail
    monkeypatch.setattr(cgroups, "available", lambda: None)
    assert "CPU is not limited" in _groups().detail


def test_the_mount_point_is_never_left(kernel: Kernel) -> None:
    kernel.fill(kernel.top, "")
    (kernel.top.parent / "cgroup.controllers").write_text(ALL)
    (kernel.top.parent / "cgroup.subtree_control").write_text(ALL)
    assert cgroups.find("0::/\n", kernel.top, lambda folder, mount_point: True) is None


# --- whose folder it is


def test_beside_systemd_root_manages_only_what_it_delegated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "system/ignite/leaf"
    folder.mkdir(parents=True)
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    marks = {tmp_path / "system/ignite": b"1", tmp_path / "system": b"0"}

    def getxattr(path: Path, name: str) -> bytes:
        if name == "user.delegate" and path in marks:
            return marks[path]
        raise OSError(errno.ENODATA, "none")

    monkeypatch.setattr(os, "getxattr", getxattr)
    assert cgroups.delegated(folder, tmp_path)
    assert cgroups.delegated(folder.parent, tmp_path)
    assert not cgroups.delegated(folder.parent.parent, tmp_path)
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "gone")
    assert cgroups.delegated(folder.parent.parent, tmp_path)


# --- one group


def parents(version: int, folder: Path) -> cgroups.Hierarchy:
    return cgroups.Hierarchy(version=version, parents=dict.fromkeys(("memory", "pids", "cpu"), folder))


def test_a_groups_limits_are_written_before_a_process_enters(kernel: Kernel) -> None:
    (kernel.top / "cgroup.subtree_control").write_text(ALL)
    group = cgroups.Group(parents(2, kernel.top), LIMITS, "one")
    group.add(42)
    assert kernel.writes == [
        f"one/memory.max={1 << 30}",
        "one/memory.swap.max=0",
        "one/memory.oom.group=1",
        "one/pids.max=102",
        "one/cpu.max=150000 100000",
        "one/cgroup.procs=42",
    ]


@pytest.mark.parametrize(("version", "found"), [(1, ["one/tasks"]), (2, [])])
def test_a_process_enters_by_itself_where_a_thread_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, found: list[str]
) -> None:
    """A group of v2 takes whole processes alone."""
    monkeypatch.setattr(cgroups, "_write", lambda file, value: None)
    group = cgroups.Group(parents(version, tmp_path), LIMITS, "one")
    assert [path.relative_to(tmp_path).as_posix() for path in group.entrances()] == found


def test_each_hierarchy_of_v1_has_an_entrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_write", lambda file, value: None)
    folders = {name: tmp_path / name for name in ("memory", "pids", "cpu")}
    for folder in folders.values():
        folder.mkdir()
    group = cgroups.Group(cgroups.Hierarchy(version=1, parents=folders), LIMITS, "one")
    assert {path.parent.parent for path in group.entrances()} == set(folders.values())


def test_a_limit_that_the_kernel_does_not_know_is_no_limit(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    (kernel.top / "cgroup.subtree_control").write_text("pids cpu")
    monkeypatch.setattr(cgroups, "_remove", lambda folder: None)
    with pytest.raises(FileNotFoundError, match=r"memory\.max"):
        cgroups.Group(parents(2, kernel.top), LIMITS, "one")


def test_a_kernel_without_swap_has_no_file_for_it(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES, "memory", ("memory.max",))
    (kernel.top / "cgroup.subtree_control").write_text(ALL)
    cgroups.Group(parents(2, kernel.top), LIMITS, "one")
    assert "one/memory.swap.max=0" not in kernel.writes


@pytest.mark.parametrize(("version", "memory"), [(1, "memory.oom_control"), (2, "memory.events")])
def test_events_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, memory: str) -> None:
    monkeypatch.setattr(cgroups, "_write", lambda file, value: None)
    group = cgroups.Group(parents(version, tmp_path), LIMITS, "one")
    (tmp_path / "one" / memory).write_text("under_oom 0\noom 7\noom_kill 2\n")
    (tmp_path / "one/pids.events").write_text("max 41\n")
    (tmp_path / "one/pids.current").write_text("12\n")
    (tmp_path / "one/cgroup.procs").write_text("11\n12\n")
    assert group.events() == cgroups.Events(oom_kills=2, forks_refused=41)
    assert (group.pids(), group.tasks(), group.peaks()) == ((11, 12), 10, (0, 0))


# --- what a killed worker left


def test_only_groups_of_dead_processes_of_our_own_pid_namespace_are_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker 7 may be dead here and alive in another container on the same hierarchy."""
    own = cgroups._own_name()
    start = process_start(os.getpid())
    dead = [f"{own}{os.getpid()}-{int(start) - 1}-1", f"{own}{2**30}-5-1"]
    names = [f"{cgroups.name_of(os.getpid())}1", f"{cgroups.PREFIX}1234-7-5-1", f"{cgroups.PREFIX}7-1", cgroups.LEAF]
    for name in [*dead, *names]:
        (tmp_path / name).mkdir()
    cgroups._sweep(tmp_path)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == sorted(names)


def test_without_a_proc_of_ours_nothing_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{cgroups._own_name()}{2**30}-5-1"
    (tmp_path / name).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "readlink", lambda path: "1")
        cgroups._sweep(tmp_path)
    assert list(tmp_path.iterdir())
    cgroups._sweep(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_groups_name_tells_its_worker_and_its_pid_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "_write", lambda file, value: None)
    cgroups.Group(parents(2, tmp_path), LIMITS)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith(f"{cgroups._own_name()}{os.getpid()}-{process_start(os.getpid())}-")
    cgroups._sweep(tmp_path)
    assert folder.is_dir(), "we live"
