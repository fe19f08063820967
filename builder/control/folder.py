"""The data folder of this machine: who serves it, and where.

A `dev` or `serve` has the lock `<data>/lock` while it lives; its address is in `<data>/address` beside it. Commands of
the same data folder are its clients. A lock of a process that died is free, so an address alone means nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from builder.errors import PlatformError

LOCK_TRIES, LOCK_PAUSE_S = 600, 0.1
SERVE_TRIES = 5
"""Whoever looks for a server has the lock for a moment."""


def make_private(data_dir: str, node_dir: str) -> None:
    """Make the data folder, and close it and what lies in it to every other user, whatever the umask.

    Requests, logs, sources and artifacts of all organizations are in there. Where root's node folder is below it, the
    build users pass through and list nothing. What belongs to another user stays as its owner made it.
    """
    if not data_dir:
        return
    data, node = Path(data_dir), Path(node_dir)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    shared = {node, *node.parents} if node_dir and os.geteuid() == 0 else set()
    _close(data, 0o711 if data in shared else 0o700)
    for entry in os.scandir(data):
        if Path(entry.path) in shared or entry.is_symlink():
            continue
        if entry.is_dir():
            _close(Path(entry.path), 0o700)
        elif entry.is_file():
            _close(Path(entry.path), 0o600)


def _close(path: Path, mode: int) -> None:
    with suppress(PermissionError, FileNotFoundError):
        if stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


@contextmanager
def exclusive(data: Path, tries: int = LOCK_TRIES) -> Iterator[None]:
    """The lock of a data folder: two servers would both be its reconciler. Raises `PlatformError` Internal."""
    with (data / "lock").open("w") as lock:
        for _ in range(tries):
            with suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            time.sleep(LOCK_PAUSE_S)
        else:
            raise PlatformError("Internal", f"another ignite-builder has been using {data} for a minute")
        yield


@contextmanager
def published(data: Path, url: str, token: str) -> Iterator[None]:
    """The address of whoever has the lock, for this user alone: the token lets its reader build."""
    path, fresh = data / "address", data / "address.new"
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump({"url": url, "token": token}, file)
    fresh.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def served(data: Path, url: str, token: str) -> Iterator[None]:
    """Lock and address for a control process. Several may share a data folder: the first one is found in it."""
    with ExitStack() as stack:
        data.mkdir(parents=True, exist_ok=True)
        with suppress(PlatformError):
            stack.enter_context(exclusive(data, SERVE_TRIES))
            stack.enter_context(published(data, url, token))
        yield


def server_of(data: Path) -> tuple[str, str] | None:
    """(URL, token) of the server that has this data folder; None: there is none."""
    try:
        with (data / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once find no server
        return None
    except FileNotFoundError:
        return None
    except BlockingIOError:
        pass
    try:
        found = json.loads((data / "address").read_text(encoding="utf-8"))
        return str(found["url"]), str(found["token"])
    except (OSError, ValueError, KeyError):  # it starts, or ends
        return None
