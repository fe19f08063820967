"""Unit tests cannot touch the world: opening a connection or starting a process raises."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest


def _refused(*args: object, **kwargs: object) -> None:
    raise AssertionError("a unit test tried to open a socket or start a process; move it to tests/e2e")


@pytest.fixture(autouse=True)
def no_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise where a socket connects or binds, and where a process starts."""
    monkeypatch.setattr(socket.socket, "connect", _refused)
    monkeypatch.setattr(socket.socket, "connect_ex", _refused)
    monkeypatch.setattr(socket.socket, "bind", _refused)
    monkeypatch.setattr(subprocess.Popen, "_execute_child", _refused)
    monkeypatch.setattr(os, "fork", _refused)
    monkeypatch.setattr(os, "posix_spawn", _refused)
    monkeypatch.setattr(os, "system", _refused)
    yield
