"""Control groups: memory, processes and CPU of one run, on v1 (also beside v2, "hybrid") and v2.

Sources: Documentation/admin-guide/cgroup-v1/memory.rst, pids.rst, and cgroup-v2.rst of the kernel.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.sandbox.shapes import Limits

CONTROLLERS = ("memory", "pids", "cpu")
MOUNT_POINT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
PREFIX = "ignite-"
_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """Where groups of ours can be made: a parent folder for each controller; v2 has the same one for all."""

    version: int
    parents: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Events:
    """What the limits did so far: processes killed for memory, forks refused."""

    oom_kills: int
    forks_refused: int


def find(proc_cgroup: str, mount_point: Path = MOUNT_POINT) -> Hierarchy | None:
    """The hierarchy that this process may make groups in; None when memory or pids cannot be limited.

    `proc_cgroup` is the text of /proc/self/cgroup. On v2 a group with processes cannot hand controllers down, so the
    folder beside ours is taken when ours is a leaf (systemd: `Delegate=yes` and `DelegateSubgroup=`).
    """
    own = {}
    for line in proc_cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path.strip("/")
    v1 = {name: _first_writable(mount_point / name, own.get(name)) for name in CONTROLLERS if name in own}
    parents = {name: folder for name, folder in v1.items() if folder}
    if "memory" in parents and "pids" in parents:
        return Hierarchy(version=1, parents=parents)
    if (mount_point / "cgroup.controllers").is_file():
        here = mount_point / own.get("", "")
        for folder in (here, here.parent):
            if folder.is_relative_to(mount_point) and (given := _handed_down(folder)):
                return Hierarchy(version=2, parents=dict.fromkeys(given, folder))
    return None


@functools.cache
def available() -> Hierarchy | None:
    """`find` for this process, once; also removes empty groups that a killed process of ours left."""
    hierarchy = find(Path("/proc/self/cgroup").read_text())
    if hierarchy:
        for parent in set(hierarchy.parents.values()):
            _sweep(parent)
    return hierarchy


def _first_writable(base: Path, own: str | None) -> Path | None:
    """Our own group, or the hierarchy's top where a container shows only that."""
    for folder in (base / (own or ""), base):
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    return None


def _handed_down(folder: Path) -> tuple[str, ...]:
    """Controllers that children of this v2 folder get; tries to hand down what is missing."""
    control = folder / "cgroup.subtree_control"
    if not control.is_file() or not os.access(folder, os.W_OK):
        return ()
    for name in CONTROLLERS:
        if name not in control.read_text().split():
            with contextlib.suppress(OSError):
                control.write_text(f"+{name}")
    given = tuple(name for name in CONTROLLERS if name in control.read_text().split())
    return given if {"memory", "pids"} <= set(given) else ()


def _sweep(parent: Path) -> None:
    for folder in parent.glob(PREFIX + "*-*"):
        pid = folder.name.removeprefix(PREFIX).split("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            with contextlib.suppress(OSError):
                folder.rmdir()


class Group:
    """One run's group. `close` must come after everything in it is dead. Raises OSError where the kernel refuses."""

    def __init__(self, hierarchy: Hierarchy, limits: Limits, name: str = "") -> None:
        self._version = hierarchy.version
        name = name or f"{PREFIX}{os.getpid()}-{next(_numbers)}"
        self._folders = {controller: parent / name for controller, parent in hierarchy.parents.items()}
        try:
            for folder in set(self._folders.values()):
                folder.mkdir()
            for controller, file, value in _limit_files(self._version, limits):
                if controller in self._folders:
                    self._write(controller, file, value)
        except OSError:
            self.close()
            raise

    def add(self, pid: int) -> None:
        """Move a process in; what it starts afterwards is born there."""
        for folder in set(self._folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def pids(self) -> tuple[int, ...]:
        return tuple(int(line) for line in self._read("pids", "cgroup.procs").split())

    def tasks(self) -> int:
        """Processes and threads now."""
        return _number(self._read("pids", "pids.current"))

    def events(self) -> Events:
        memory = "memory.oom_control" if self._version == 1 else "memory.events"
        return Events(
            oom_kills=_field(self._read("memory", memory), "oom_kill"),
            forks_refused=_field(self._read("pids", "pids.events"), "max"),
        )

    def peaks(self) -> tuple[int, int]:
        """Memory in bytes and processes at their highest; 0 where the kernel does not say."""
        memory = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        return _number(self._read("memory", memory)), _number(self._read("pids", "pids.peak"))

    def close(self) -> None:
        """Remove it; the kernel may need a moment after the last process."""
        for folder in set(self._folders.values()):
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)
                else:
                    break

    def _write(self, controller: str, file: str, value: str) -> None:
        path = self._folders[controller] / file
        if path.exists():
            path.write_text(value)

    def _read(self, controller: str, file: str) -> str:
        try:
            return (self._folders[controller] / file).read_text()
        except OSError:
            return ""


def _limit_files(version: int, limits: Limits) -> tuple[tuple[str, str, str], ...]:
    """(controller, file, value), in the order to write: on v1 memory before memory and swap."""
    quota = str(max(1000, int(limits.cpus * PERIOD_US)))
    pids = ("pids", "pids.max", str(limits.pids + 1))  # and the namespace's own first process
    if version == 1:
        return (
            ("memory", "memory.limit_in_bytes", str(limits.memory)),
            ("memory", "memory.memsw.limit_in_bytes", str(limits.memory)),
            pids,
            ("cpu", "cpu.cfs_period_us", str(PERIOD_US)),
            ("cpu", "cpu.cfs_quota_us", quota),
        )
    return (
        ("memory", "memory.max", str(limits.memory)),
        ("memory", "memory.swap.max", "0"),
        ("memory", "memory.oom.group", "1"),
        pids,
        ("cpu", "cpu.max", f"{quota} {PERIOD_US}"),
    )


def _field(text: str, name: str) -> int:
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return _number(value)
    return 0


def _number(text: str) -> int:
    text = text.strip()
    return int(text) if text.isdigit() else 0
