"""Two nodes on one machine that differ in all that must not travel into an artifact, and the proof that they do.

They differ in host name, build users, umask, time zone, locale, length of the node folder's path, cores, slots and
package caches; what is built on the second one is built seconds later, and its source comes in another archive.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import uids
from tests.build_fixtures import Server, processes_below, status_of, until

Start = Callable[..., AbstractContextManager[Server]]
APART_MS = 3000
"""More than the two seconds that a ZIP archive resolves."""
OTHER_HOST = "another-host.example"
OTHER_PREFIX = "another-node-with-a-much-longer-name-"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUTS = 0x04000000  # linux/sched.h
ONE_UMASK, OTHER_UMASK = 0o022, 0o077
# Python takes C for C.UTF-8, so only a real other locale makes a difference.
LOCALE = "de_DE.UTF-8"
ONE = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
OTHER = {"TZ": "Asia/Tokyo", "LC_ALL": LOCALE, "LANG": LOCALE, "PYTHONUTF8": "0"}


def make_locales(folder: Path) -> Path:
    """Make the other locale in a folder of locales (LOCPATH), from the system's sources."""
    argv = ("localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", str(folder / LOCALE))
    subprocess.run(argv, check=True, capture_output=True)
    return folder


@contextmanager
def as_one() -> Iterator[None]:
    """What this thread starts meanwhile has all cores and lives under the first conditions."""
    with _conditions(os.sched_getaffinity(0), ONE_UMASK, ONE):
        yield


@contextmanager
def as_other(locales: Path) -> Iterator[None]:
    """What this thread starts meanwhile has one core and the other conditions."""
    environ = OTHER | {"LOCPATH": str(locales)}
    with _conditions({min(os.sched_getaffinity(0))}, OTHER_UMASK, environ), _host_named(OTHER_HOST):
        yield


@contextmanager
def one_node(start: Start) -> Iterator[Server]:
    """A node with all cores, and the package caches of earlier sessions."""
    with as_one():
        context = start(own_caches=False, build_uid=uids.SERVER)
        server = context.__enter__()
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


@contextmanager
def other_node(start: Start, locales: Path) -> Iterator[Server]:
    """A node with one core, one slot, empty caches, and another of everything else."""
    with as_other(locales):
        context = start(slots=1, node_prefix=OTHER_PREFIX)
        server = context.__enter__()
    try:
        yield server
    finally:
        context.__exit__(None, None, None)


@contextmanager
def _conditions(cores: set[int], umask: int, environ: dict[str, str]) -> Iterator[None]:
    before, kept = os.sched_getaffinity(0), os.umask(umask)
    try:
        os.sched_setaffinity(0, cores)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            yield
    finally:
        os.sched_setaffinity(0, before)
        os.umask(kept)


@contextmanager
def _host_named(name: str) -> Iterator[None]:
    """Another host name (a UTS namespace of this thread); nothing changes for who is not root."""
    if os.geteuid() != 0:
        yield
        return
    before = os.open("/proc/thread-self/ns/uts", os.O_RDONLY)
    try:
        assert LIBC.unshare(CLONE_NEWUTS) == 0, os.strerror(ctypes.get_errno())
        socket.sethostname(name)
        yield
    finally:
        assert LIBC.setns(before, CLONE_NEWUTS) == 0, os.strerror(ctypes.get_errno())
        os.close(before)


@dataclass(frozen=True)
class Condition:
    """What a process of a worker lives under, as the kernel reports it."""

    cores: int
    umask: int
    environ: dict[str, str]

    @classmethod
    def of(cls, pid: int) -> Condition:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        environ = dict(pair.partition("=")[::2] for pair in pairs)
        umask = int(status_of(pid)["Umask"][0], 8)
        return cls(len(os.sched_getaffinity(pid)), umask, {name: environ.get(name, "") for name in ONE})


def assert_apart(here: Server, elsewhere: Server) -> None:
    """The processes of the two nodes, as the kernel reports them, differ in everything that this module names."""
    cores = len(os.sched_getaffinity(0))  # where that is one, the nodes still differ in everything else
    assert set(map(repr, _conditions_of(here))) == {repr(Condition(cores, ONE_UMASK, ONE))}
    assert set(map(repr, _conditions_of(elsewhere))) == {repr(Condition(1, OTHER_UMASK, OTHER))}
    one, other = here.embedded.settings, elsewhere.embedded.settings
    assert len(one.node_dir) != len(other.node_dir)
    assert (one.slots, other.slots) == (2, 1)
    assert one.build_uid != other.build_uid
    if os.geteuid() == 0:
        assert elsewhere.embedded.worker is not None
        with _host_of(elsewhere.embedded.worker.pid):
            assert socket.gethostname() == OTHER_HOST
        assert socket.gethostname() != OTHER_HOST


def _conditions_of(server: Server) -> list[Condition]:
    """The conditions of the worker's parent process and of each that builds, once all of these are forked."""
    assert server.embedded.worker is not None
    parent, count = server.embedded.worker.pid, 1 + server.embedded.settings.slots

    def owners() -> list[int]:
        return [pid for pid in processes_below(parent) if _line(pid) == _line(parent)]

    found: list[int] = []

    def are_all_there() -> bool:
        found[:] = owners()
        return len(found) == count

    assert until(are_all_there), found
    return [Condition.of(pid) for pid in found]


@contextmanager
def _host_of(pid: int) -> Iterator[None]:
    """This thread meanwhile sees the host name that a process sees."""
    before, there = (os.open(f"/proc/{one}/ns/uts", os.O_RDONLY) for one in ("thread-self", pid))
    try:
        assert LIBC.setns(there, CLONE_NEWUTS) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        LIBC.setns(before, CLONE_NEWUTS)
        os.close(before)
        os.close(there)


def _line(pid: int) -> bytes:
    """The command line of a process, which may have ended meanwhile. Readers have that of the process that builds,
    which forks them with its first build, and count for nothing."""
    try:
        is_reader = Path(f"/proc/{pid}/comm").read_text(errors="replace").startswith("ignite-reader")
        return b"" if is_reader else Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pause_after(first: pb.Build) -> None:
    """Let the clock show another time: it is what the next build must not depend on."""
    time.sleep(max(0.0, (first.created_at_ms + APART_MS) / 1000 - time.time()))
