"""What is read out of a file, kept for as long as the file stays in the same state.

A node asks for the same few values each time that it registers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")
State = tuple[int, int, int, int, int]
"""Device, inode, size, time of the last write and of the last change in ns. Nobody sets the last one back."""

TICK_NS = 50_000_000
"""Two writes within one tick of the kernel's clock give one time; a tick has 10 ms at most."""


class Kept(Generic[Value]):
    """Values by key, each with the state of the file that it is of."""

    def __init__(self) -> None:
        self._values: dict[Hashable, tuple[State, Value]] = {}

    def get(self, path: str, key: Hashable, read: Callable[[], Value]) -> Value:
        """The value of `key`: what `read` returned last in this state of the file at `path`.

        A file that changed a moment ago is read at each call. Raises `OSError` where it is not there, and as `read`.
        """
        at = time.time_ns()
        state = state_of(path)
        known = self._values.get(key)
        if known is not None and known[0] == state:
            return known[1]
        value = read()
        if is_settled(state, at):
            self._values[key] = state, value
        return value


def state_of(path: str) -> State:
    """The state of the file at `path`, its links followed. Raises `OSError`."""
    return state_in(os.stat(path))


def state_in(info: os.stat_result) -> State:
    """The state of the file that `info` is of."""
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def is_settled(state: State, at: int) -> bool:
    """Whether each later change of the file gives another state. `at` is a time in ns before the state was taken."""
    return at - state[-1] > TICK_NS
