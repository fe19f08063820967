"""A queue of one reader that a signal handler may write to, and whose timeout holds."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items of many threads and of signal handlers, for one reader.

    Not `queue.Queue`: a handler that runs while the reader holds its lock would wait for itself. Not
    `queue.SimpleQueue` either: when its deadline passes between two looks (a busy machine, a slow handler), CPython
    3.11 takes the negative rest for "for ever", and a signal of that moment waits with it. `Lock.acquire`
    looks at its deadline again.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._filled = threading.Lock()
        self._filled.acquire()

    def put(self, item: T) -> None:
        """Add one item and wake the reader."""
        self._items.append(item)
        with suppress(RuntimeError):  # it is awake already
            self._filled.release()

    def get(self, timeout: float) -> T | None:
        """The oldest item; None when none came within `timeout` seconds, and now and then earlier."""
        if not self._items:
            self._filled.acquire(timeout=timeout)
        return self._items.popleft() if self._items else None
