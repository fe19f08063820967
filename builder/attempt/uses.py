"""What of the node's bases, toolchains and caches a build uses: the node's disk budget removes none of it meanwhile.

A unit is a path below the node's folder, of a folder or of an image by its digest. Each has a lock file: a build has a
shared lock on it until its end, whoever removes the unit takes an exclusive one and does not wait for it. The kernel
ends a lock with its process. The time of the file is that of the last use.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

FOLDER = "uses"


class Uses:
    """The shared locks of one build of the node `node_dir`."""

    def __init__(self, node_dir: Path) -> None:
        self._node_dir = node_dir
        self._locks: dict[str, IO[bytes]] = {}

    def add(self, *units: str) -> None:
        """Use these until `close`. Waits while one of them is being renamed away, and no longer."""
        for unit in units:
            if unit not in self._locks:
                file = lock_file(self._node_dir, unit).open("ab")
                fcntl.flock(file, fcntl.LOCK_SH)
                os.utime(file.fileno())
                self._locks[unit] = file

    def close(self) -> None:
        """Use none any more."""
        while self._locks:
            self._locks.popitem()[1].close()

    def __del__(self) -> None:
        self.close()


def lock_file(node_dir: Path, unit: str) -> Path:
    """The lock file of a unit; its folder is made."""
    folder = node_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder / quote(unit, safe="")


def used_at(node_dir: Path, unit: str) -> float:
    """When a unit was last used (seconds since the epoch); 0: by no build that is known."""
    try:
        return lock_file(node_dir, unit).stat().st_mtime
    except FileNotFoundError:
        return 0.0


@contextmanager
def unused(node_dir: Path, unit: str) -> Iterator[bool]:
    """Whether no build uses a unit; inside nobody begins to."""
    with lock_file(node_dir, unit).open("ab") as file:
        is_free = True
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # over when this yields: what fails inside must not seem to come of it
            is_free = False
        yield is_free
