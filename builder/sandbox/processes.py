"""The processes of a run as seen from outside, for hosts without control groups."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.sandbox.disk import deleted_but_open


@dataclass(frozen=True, kw_only=True)
class Usage:
    """`memory`: bytes of anonymous and shared memory (file pages can be dropped, so they do not count), what lies in
    their tmpfs, and in memory files they hold open. A page that several processes share counts for each."""

    memory: int
    tasks: int


def tree(first: int) -> tuple[int, ...]:
    """`first` and everything below it. Orphans of a PID namespace belong to its first process, so none is missed."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [first]
    for pid in found:
        found += children.get(pid, ())
    return tuple(found)


def children(pid: int) -> tuple[int, ...]:
    """The children of a process with one thread that is starting none now (proc(5), children)."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
            return tuple(map(int, file.read().split()))
    except OSError:  # no such file in this kernel, or no such process
        fields = ((int(name), _stat(int(name))) for name in os.listdir("/proc") if name.isdigit())
        return tuple(child for child, stat in fields if stat and int(stat[1]) == pid)


def usage(pids: Sequence[int], first: int, tmpfs: Iterable[str]) -> Usage:
    """What `pids` use now; `tmpfs` are paths inside, seen through the first process's root."""
    memory = tasks = 0
    for pid in pids:
        if fields := _stat(pid):
            tasks += int(fields[17])
        memory += _resident(pid)
    for path in tmpfs:
        with contextlib.suppress(OSError):
            info = os.statvfs(f"/proc/{first}/root{path}")
            memory += (info.f_blocks - info.f_bfree) * info.f_frsize
    memory += deleted_but_open(pids, _memory_device())
    return Usage(memory=memory, tasks=tasks)


def tasks_of_user(uid: int) -> int:
    """How many tasks (threads) `uid` has on this host: an rlimit on processes counts them all."""
    total = 0
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == uid and (fields := _stat(int(name))):
                total += int(fields[17])
    return total


def _resident(pid: int) -> int:
    """Anonymous and shared memory of a process in bytes; proc(5), status."""
    total = 0
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", "rb") as file:
        for line in file:
            if line.startswith((b"RssAnon:", b"RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


@functools.cache
def _memory_device() -> int:
    """The kernel keeps all memory files (memfd_create(2)) on one device of its own."""
    fd = os.memfd_create("ignite")
    try:
        return os.fstat(fd).st_dev
    finally:
        os.close(fd)


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat after the name (which may hold anything): state, parent, …; proc(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].decode().split()
    except OSError:
        return []
