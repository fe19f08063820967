"""What tests of one process have: opening a connection or starting a process raises, and their stores are copies."""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from sqlalchemy import Engine

from builder import logs
from builder.store import engine

SOCKET = ("connect", "connect_ex", "bind", "sendto", "sendmsg")
PROCESS = (
    "fork", "forkpty", "posix_spawn", "posix_spawnp", "system",
    "execv", "execve", "execl", "execle", "execlp", "execlpe", "execvp", "execvpe",
)  # fmt: skip


def _refused(*args: object, **kwargs: object) -> None:
    raise AssertionError("a unit test tried to open a socket or start a process; move it to tests/e2e")


@pytest.fixture(autouse=True, scope="module")
def no_world() -> Iterator[None]:
    """Raise where a socket connects or binds, and where a process starts. Once for a module: no test takes it away."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SOCKET:
            patch.setattr(socket.socket, name, _refused)
        patch.setattr(socket, "getaddrinfo", _refused)
        patch.setattr(subprocess.Popen, "_execute_child", _refused)
        for name in PROCESS:
            patch.setattr(os, name, _refused)
        yield


@functools.cache
def empty_store() -> bytes:
    """The file of a store without records, as the migrations make it, once for each process of the tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.db"
        engine.open_store(f"sqlite:///{path}").engine.dispose()
        return path.read_bytes()


@pytest.fixture(autouse=True, scope="module")
def schema_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let a new store begin as a copy: the migrations take some fifty times as long. `migrates`: a module of tests of
    them. Once for a module: to patch for each of 8,000 tests takes seconds."""
    if request.node.get_closest_marker("migrates"):
        yield
        return
    data, make_private = empty_store(), engine._make_private

    def with_schema(database: Path) -> None:
        make_private(database)
        if not database.stat().st_size:
            database.write_bytes(data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_make_private", with_schema)
        yield


@pytest.fixture
def nothing_logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that has written nothing yet, so plainly on standard error: another test may have it write to a
    file."""
    monkeypatch.setattr(logs, "_process", logs._Process())
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


FIRST_ENGINE: list[Engine] = []
"""The first engine of this process, once there is one."""


@pytest.fixture(autouse=True, scope="module")
def compiled_once() -> Iterator[None]:
    """Let all stores of a process share the statements that SQLAlchemy compiled: an engine begins with none, and a
    third of what a small test of the store costs is to compile them."""
    prepare, first = engine._prepare_sqlite, FIRST_ENGINE

    def sharing(made: Engine) -> None:
        prepare(made)
        if first:
            made.dialect = made.pool._dialect = first[0].dialect
            made._compiled_cache = first[0]._compiled_cache
        else:
            first.append(made)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_prepare_sqlite", sharing)
        yield
