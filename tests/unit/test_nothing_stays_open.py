"""What was opened is closed where the next step fails: no room for a process, a thread or a descriptor."""

from __future__ import annotations

import errno
import io
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from builder.attempt import downloads, reader, sshagent
from builder.images.mounts import Mounts
from builder.pipelines.catalog import Catalog
from builder.plan import WantedFile
from builder.sandbox import Command, Limits, Root, launch, serve, unsandboxed

LIMITS = Limits(memory=1 << 30, cpus=1.0, pids=10, disk=1 << 30, wall_ms=1000)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Every socket that is made."""
    made: list[socket.socket] = []
    pair, new = socket.socketpair, socket.socket

    def paired(*args: Any) -> tuple[socket.socket, socket.socket]:
        made.extend(both := pair(*args))
        return both

    def one(*args: Any) -> socket.socket:
        made.append(found := new(*args))
        return found

    monkeypatch.setattr(socket, "socketpair", paired)
    monkeypatch.setattr(socket, "socket", one)
    yield made
    for each in made:
        each.close()


def full(*args: object, **kwargs: object) -> Any:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_readers_that_cannot_be_forked_keep_no_socket(
    opened: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fork", full)
    readers = reader.Readers((), Catalog(rows=()))
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            readers.start()
    assert opened and all(each.fileno() == -1 for each in opened)
    readers.close()


def test_an_ssh_agent_without_a_folder_keeps_no_socket(opened: list[socket.socket], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), sshagent.serving(tmp_path / "none" / "agent", cast(Any, None), None):
        raise AssertionError
    assert opened and all(each.fileno() == -1 for each in opened)


def test_an_app_whose_thread_cannot_start_keeps_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outside = socket.socket()
    monkeypatch.setattr(socket, "create_server", lambda address: outside)
    monkeypatch.setattr(threading.Thread, "start", full)
    with pytest.raises(BlockingIOError):
        serve(Command(argv=("app",), work=tmp_path), Root(), LIMITS, uid=1, gid=1, port=8080)
    assert outside.fileno() == -1


class Started:
    pid = 4711

    def __init__(self) -> None:
        self.stdout, self.stderr, self.waited = io.BytesIO(), io.BytesIO(), False

    def wait(self) -> int:
        self.waited = True
        return -9


def test_a_command_of_the_host_that_cannot_be_watched_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    process, killed = Started(), list[tuple[int, int]]()
    monkeypatch.setattr(launch, "program", lambda name: name)
    monkeypatch.setattr(launch, "start", lambda *_: cast("subprocess.Popen[bytes]", process))
    monkeypatch.setattr(os, "pidfd_open", full)
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append((pid, number)))
    command = Command(argv=("true",), work=tmp_path)
    with (
        pytest.raises(BlockingIOError),
        unsandboxed.on_host(command, Root(), LIMITS, uid=1, gid=1, use_cgroups=False, proxied=False),
    ):
        raise AssertionError
    assert killed == [(4711, signal.SIGKILL)] and process.waited
    assert process.stdout.closed and process.stderr.closed


def test_a_download_of_an_unknown_digest_leaves_no_file(tmp_path: Path) -> None:
    wanted = WantedFile(cache="c", source="a", path="a", digest="md17:00")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ValueError, match="md17"):
        downloads._copy(io.BytesIO(b"a"), tmp_path, wanted, 10, lambda: None)
    assert not list(tmp_path.iterdir()) and len(os.listdir("/proc/self/fd")) <= before


def test_a_note_of_a_blob_that_is_interrupted_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Mounts(folder=tmp_path, host="h", organization="o").remember("sha256:00", "repository")
    assert not list(tmp_path.iterdir())
