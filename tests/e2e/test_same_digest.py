"""The same source gives the same digest: later, and on a node that differs in all that must not travel into it."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import uids
from tests.build_fixtures import (
    DENO_PACKAGES,
    GO_MODULE,
    PYTHON_WITH_A_WHEEL,
    RUST_PACKAGE,
    Files,
    Server,
    processes_below,
    status_of,
    tar_gz_of,
    until,
    zip_of,
)

pytestmark = pytest.mark.e2e
APART_MS = 3000
OTHER_HOST = "another-host.example"
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUTS = 0x04000000  # linux/sched.h
ONE_UMASK, OTHER_UMASK = 0o022, 0o077
# Python takes C for C.UTF-8, so only a real other locale makes a difference.
LOCALE = "de_DE.UTF-8"
ONE = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
OTHER = {"TZ": "Asia/Tokyo", "LC_ALL": LOCALE, "LANG": LOCALE, "PYTHONUTF8": "0"}
NAMES = {name: "x\n" for name in ("ä.txt", "B.txt", "a.txt")}
"""Files that the two locales order in different ways."""


@contextmanager
def host_named(name: str) -> Iterator[None]:
    """What this thread starts meanwhile is on a host of another name; nothing changes for who is not root."""
    if not name or os.geteuid() != 0:
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


@contextmanager
def conditions(cores: set[int], umask: int, environ: dict[str, str]) -> Iterator[None]:
    """What this process starts meanwhile inherits them."""
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


@pytest.fixture(scope="module")
def all_cores() -> set[int]:
    """All there are; where that is one, the nodes still differ in everything else."""
    return os.sched_getaffinity(0)


@pytest.fixture(scope="module")
def here(start: Callable[..., object], all_cores: set[int]) -> Iterator[Server]:
    """A node with all cores, and the package caches of earlier sessions."""
    yield from started(start, all_cores, ONE_UMASK, ONE, own_caches=False, build_uid=uids.SERVER)


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of locales (LOCPATH) with the other one, made from the system's sources."""
    folder = tmp_path_factory.mktemp("locales")
    argv = ("localedef", "--no-archive", "-i", "de_DE", "-f", "UTF-8", str(folder / LOCALE))
    subprocess.run(argv, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def elsewhere(start: Callable[..., object], all_cores: set[int], locales: Path) -> Iterator[Server]:
    """A node with one core, one slot, empty caches, and another umask, time zone, locale, path and host name."""
    flags = {"slots": 1, "node_prefix": "another-node-with-a-much-longer-name-", "host_name": OTHER_HOST}
    yield from started(start, {min(all_cores)}, OTHER_UMASK, OTHER | {"LOCPATH": str(locales)}, **flags)


def started(
    start: Callable[..., object], cores: set[int], umask: int, environ: dict[str, str], **flags: object
) -> Iterator[Server]:
    with conditions(cores, umask, environ), host_named(str(flags.pop("host_name", ""))):
        context = start(**flags)
        server = context.__enter__()  # type: ignore[attr-defined]
    try:
        yield server
    finally:
        context.__exit__(None, None, None)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Condition:
    """What a process of a worker lives under, as the kernel tells it."""

    cores: int
    umask: int
    environ: dict[str, str]

    @classmethod
    def of(cls, pid: int) -> Condition:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        environ = dict(pair.partition("=")[::2] for pair in pairs)
        umask = int(status_of(pid)["Umask"][0], 8)
        return cls(len(os.sched_getaffinity(pid)), umask, {name: environ.get(name, "") for name in ONE})


def conditions_of(server: Server) -> list[Condition]:
    """Of the worker's parent process and of each that builds, once all of these are forked."""
    assert server.embedded.worker is not None
    parent, count = server.embedded.worker.pid, 1 + server.embedded.settings.slots

    def owners() -> list[int]:
        return [pid for pid in processes_below(parent) if command_line(pid) == command_line(parent)]

    found: list[int] = []

    def are_all_there() -> bool:
        found[:] = owners()
        return len(found) == count

    assert until(are_all_there), found
    return [Condition.of(pid) for pid in found]


@contextmanager
def host_of(pid: int) -> Iterator[None]:
    """This thread meanwhile sees the host name that a process sees."""
    before, there = (os.open(f"/proc/{one}/ns/uts", os.O_RDONLY) for one in ("thread-self", pid))
    try:
        assert LIBC.setns(there, CLONE_NEWUTS) == 0, os.strerror(ctypes.get_errno())
        yield
    finally:
        LIBC.setns(before, CLONE_NEWUTS)
        os.close(before)
        os.close(there)


def command_line(pid: int) -> bytes:
    """Of a process that may have ended meanwhile."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_the_nodes_differ_in_all_that_could_leak(here: Server, elsewhere: Server, all_cores: set[int]) -> None:
    assert set(map(repr, conditions_of(here))) == {repr(Condition(len(all_cores), ONE_UMASK, ONE))}
    assert set(map(repr, conditions_of(elsewhere))) == {repr(Condition(1, OTHER_UMASK, OTHER))}
    one, other = here.embedded.settings, elsewhere.embedded.settings
    assert len(one.node_dir) != len(other.node_dir)
    assert (one.slots, other.slots) == (2, 1)
    assert one.build_uid != other.build_uid
    if os.geteuid() == 0:
        assert elsewhere.embedded.worker is not None
        with host_of(elsewhere.embedded.worker.pid):
            assert socket.gethostname() == OTHER_HOST
        assert socket.gethostname() != OTHER_HOST


def test_the_locales_order_names_in_different_ways(locales: Path) -> None:
    def ordered(environ: dict[str, str]) -> list[str]:
        argv, env = ("sort",), environ | {"PATH": os.environ["PATH"], "LOCPATH": str(locales)}
        done = subprocess.run(argv, input="\n".join(NAMES), env=env, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert ordered(ONE) == ["B.txt", "a.txt", "ä.txt"]
    assert ordered(OTHER) == ["a.txt", "ä.txt", "B.txt"]


@pytest.mark.parametrize(
    ("runtime", "files"),
    [("python", PYTHON_WITH_A_WHEEL), ("go", GO_MODULE), ("deno", DENO_PACKAGES), ("rust", RUST_PACKAGE)],
    ids=["python", "go", "deno", "rust"],
)
def test_the_same_source_gives_the_same_digest(here: Server, elsewhere: Server, runtime: str, files: Files) -> None:
    files = {**files, **NAMES}
    first = here.build("same", zip_of(files), runtime, no_cache=True)
    time.sleep(max(0.0, (first.created_at_ms + APART_MS) / 1000 - time.time()))
    again = here.build("same", zip_of(files), runtime, no_cache=True)
    other = elsewhere.build("same", tar_gz_of(files), runtime, no_cache=True)
    assert again.created_at_ms - first.created_at_ms >= APART_MS
    assert other.created_at_ms - again.created_at_ms > 0
    for later in (again, other):
        assert not later.from_cache_of
        assert not later.attached_to
    assert first.image_digest == again.image_digest == other.image_digest
