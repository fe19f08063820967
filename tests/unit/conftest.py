"""Unit tests cannot touch the world: opening a connection or starting a process raises."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

SOCKET = ("connect", "connect_ex", "bind", "sendto", "sendmsg")
PROCESS = (
    "fork", "forkpty", "posix_spawn", "posix_spawnp", "system",
    "execv", "execve", "execl", "execle", "execlp", "execlpe", "execvp", "execvpe",
)  # fmt: skip


def _refused(*args: object, **kwargs: object) -> None:
    raise AssertionError("a unit test tried to open a socket or start a process; move it to tests/e2e")


@pytest.fixture(autouse=True)
def no_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise where a socket connects or binds, and where a process starts."""
    for name in SOCKET:
        monkeypatch.setattr(socket.socket, name, _refused)
    monkeypatch.setattr(socket, "getaddrinfo", _refused)
    monkeypatch.setattr(subprocess.Popen, "_execute_child", _refused)
    for name in PROCESS:
        monkeypatch.setattr(os, name, _refused)
    yield
