"""Control groups: memory, processes and CPU of one run, on v1 (also beside v2, "hybrid") and v2.

Sources: Documentation/admin-guide/cgroup-v1/memory.rst, pids.rst, and cgroup-v2.rst of the kernel; for who may make
groups where, docs/CGROUP_DELEGATION.md of systemd.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.process import process_start
from builder.sandbox.shapes import Limits

CONTROLLERS = ("memory", "pids", "cpu")
REQUIRED = ("memory", "pids")
# Missing where the kernel has no swap, or is older than 4.19.
OPTIONAL_FILES = frozenset({"memory.memsw.limit_in_bytes", "memory.swap.max", "memory.oom.group"})
MOUNT_POINT = Path("/sys/fs/cgroup")
PERIOD_US = 100_000
OWN_TASKS = 2
"""bubblewrap, and the first process of its PID namespace: in the group, not the build's."""
PREFIX = "ignite-"
LEAF = "ignite-worker"
SYSTEMD = Path("/run/systemd/system")
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


def find(
    proc_cgroup: str, mount_point: Path = MOUNT_POINT, ours: Callable[[Path, Path], bool] | None = None
) -> Hierarchy | None:
    """The hierarchy that this process may make groups in; None when memory or pids cannot be limited.

    `proc_cgroup` is the text of /proc/self/cgroup; `ours` says whether a v2 folder below the mount point is ours to
    manage. A v2 group with processes cannot hand controllers down, so the folder beside ours is taken where ours is a
    leaf; where we were put into the folder that was given to us, its processes move into a leaf below it.
    """
    own = {}
    for line in proc_cgroup.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            own[name] = path.strip("/")
    v1 = {name: _first_writable(mount_point / name, own.get(name)) for name in CONTROLLERS if name in own}
    parents = {name: folder for name, folder in v1.items() if folder}
    if set(REQUIRED) <= set(parents):
        return Hierarchy(version=1, parents=parents)
    if not (mount_point / "cgroup.controllers").is_file():
        return None
    here = mount_point / own.get("", "")
    allowed = ours or delegated
    for folder, move in ((here, False), (here.parent, False), (here, True)):
        if not folder.is_relative_to(mount_point) or not allowed(folder, mount_point):
            continue
        if move and not _empty(folder):
            continue
        if given := _handed_down(folder):
            return Hierarchy(version=2, parents=dict.fromkeys(given, folder))
    return None


def delegated(folder: Path, mount_point: Path) -> bool:
    """Whether groups in a folder are ours to manage. Where systemd runs it is the only writer of what it has not
    delegated, and root could write everywhere: then only a folder that it marked so, or one below, will do."""
    if not os.access(folder, os.W_OK):
        return False
    if os.geteuid() != 0 or not SYSTEMD.is_dir():
        return True
    return any(_marked(above) for above in (folder, *folder.parents) if above.is_relative_to(mount_point))


def _marked(folder: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


@functools.cache
def available() -> Hierarchy | None:
    """`find` for this process, once; also removes empty groups that a killed process of ours left."""
    hierarchy = find(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
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
    """Controllers that children of this v2 folder get; hands down what is missing.

    One write for all: they succeed or fail together. One by one pids and cpu, which are threaded controllers, would
    be taken by a group with processes; that makes it the top of a threaded subtree, where no process may enter.
    """
    listed = _words(folder / "cgroup.controllers")
    for wanted in (CONTROLLERS, REQUIRED):  # a kernel may refuse cpu alone, for realtime tasks
        given = _words(folder / "cgroup.subtree_control")
        missing = [f"+{name}" for name in wanted if name in listed and name not in given]
        if missing and (_is_top(folder) or not _words(folder / "cgroup.procs")):
            with contextlib.suppress(OSError):
                _write(folder / "cgroup.subtree_control", " ".join(missing))
    given = _words(folder / "cgroup.subtree_control")
    return tuple(name for name in CONTROLLERS if name in given) if set(REQUIRED) <= set(given) else ()


def _is_top(folder: Path) -> bool:
    """Whether this is the real top of the hierarchy, which alone may hold processes and hand controllers down."""
    return not (folder / "cgroup.type").exists()


def _empty(folder: Path) -> bool:
    """Move the processes of a v2 folder into a leaf below it; whether none is left there. Not where it is no use."""
    leaf = folder / LEAF
    if not set(REQUIRED) <= set(_words(folder / "cgroup.controllers")):
        return False
    try:
        if not leaf.is_dir():
            _make(leaf)
        for _ in range(10):  # what forks meanwhile is born where its parent is
            pids = _words(folder / "cgroup.procs")
            if not pids:
                return True
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    _write(leaf / "cgroup.procs", pid)
    except OSError:
        pass
    return False


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _write(file: Path, value: str) -> None:
    """Never makes the file: one that the kernel does not have is a limit that would not hold."""
    fd = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _make(folder: Path) -> None:
    folder.mkdir()


def _remove(folder: Path) -> None:
    """Remove a group, and kill what is in it; the kernel may need a moment after the last process."""
    for _ in range(50):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno == errno.EBUSY:
                _kill(folder)
            time.sleep(0.01)
        else:
            return


def _kill(folder: Path) -> None:
    """KILL all in a group: at once where the kernel can (v2 since 5.14), else one by one."""
    with contextlib.suppress(OSError):
        _write(folder / "cgroup.kill", "1")
        return
    for pid in _words(folder / "cgroup.procs"):
        if pid.isdigit() and int(pid) > 1:
            with contextlib.suppress(OSError):
                os.kill(int(pid), signal.SIGKILL)


def _own_name() -> str:
    """What names of groups of this PID namespace begin with; empty where /proc does not know us.

    Its inode is part of it: containers may share a hierarchy, and a process number of another one says nothing here.
    """
    try:
        return f"{PREFIX}{os.stat('/proc/self/ns/pid').st_ino}-"
    except OSError:
        return ""


def name_of(pid: int) -> str:
    """What the names of a process's groups begin with: its PID namespace, its number, its start time.

    The kernel gives the number and the namespace's inode to others later; the three together name one process.
    """
    return f"{_own_name() or PREFIX + '0-'}{pid}-{process_start(pid) or 0}-"


def _sweep(parent: Path) -> None:
    """Remove the groups of processes that have ended. /proc may be mounted for another PID namespace: then none."""
    own = _own_name() if process_start(os.getpid()) and os.readlink("/proc/self") == str(os.getpid()) else ""
    for folder in parent.glob(f"{own}*-*-*") if own else ():
        pid, start, _ = folder.name.removeprefix(own).split("-")
        if pid.isdigit() and process_start(int(pid)) != start:
            _remove(folder)


class Group:
    """One run's group. Raises OSError where the kernel refuses, or does not know a limit that is asked for."""

    def __init__(self, hierarchy: Hierarchy, limits: Limits, name: str = "") -> None:
        self._version = hierarchy.version
        name = name or f"{name_of(os.getpid())}{next(_numbers)}"
        self._folders = {controller: parent / name for controller, parent in hierarchy.parents.items()}
        try:
            for folder in set(self._folders.values()):
                _make(folder)
            for controller, file, value in _limit_files(self._version, limits):
                if controller in self._folders:
                    try:
                        _write(self._folders[controller] / file, value)
                    except FileNotFoundError:
                        if file not in OPTIONAL_FILES:
                            raise
        except OSError:
            self.close()
            raise

    def entrances(self) -> tuple[Path, ...]:
        """The files through which a process with one thread enters by itself (v1; it writes 0). Empty on v2.

        The kernel moves another process only after every processor has passed a point of rest (percpu_down_write in
        cgroup_procs_write_start), which takes 10 ms and more. A thread that moves itself has nobody to wait for.
        """
        return tuple(sorted(folder / "tasks" for folder in set(self._folders.values()))) if self._version == 1 else ()

    def add(self, pid: int) -> None:
        """Move a process in; what it starts afterwards is born there."""
        for folder in set(self._folders.values()):
            _write(folder / "cgroup.procs", str(pid))

    def pids(self) -> tuple[int, ...]:
        return tuple(int(line) for line in self._read("pids", "cgroup.procs").split())

    def tasks(self) -> int:
        """Processes and threads of the build now."""
        return max(0, _number(self._read("pids", "pids.current")) - OWN_TASKS)

    def events(self) -> Events:
        memory = "memory.oom_control" if self._version == 1 else "memory.events"
        return Events(
            oom_kills=_field(self._read("memory", memory), "oom_kill"),
            forks_refused=_field(self._read("pids", "pids.events"), "max"),
        )

    def peaks(self) -> tuple[int, int]:
        """Memory in bytes and processes at their highest; 0 where the kernel does not say."""
        memory = "memory.max_usage_in_bytes" if self._version == 1 else "memory.peak"
        tasks = _number(self._read("pids", "pids.peak")) - OWN_TASKS
        return _number(self._read("memory", memory)), max(0, tasks)

    def close(self) -> None:
        """Remove it, and whatever might still live in it."""
        for folder in set(self._folders.values()):
            _remove(folder)

    def _read(self, controller: str, file: str) -> str:
        try:
            return (self._folders[controller] / file).read_text(encoding="utf-8")
        except OSError:
            return ""


def _limit_files(version: int, limits: Limits) -> tuple[tuple[str, str, str], ...]:
    """(controller, file, value), in the order to write: on v1 memory before memory and swap."""
    quota = str(max(1000, int(limits.cpus * PERIOD_US)))
    pids = ("pids", "pids.max", str(limits.pids + OWN_TASKS))
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
