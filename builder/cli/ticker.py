"""Let a view's clock run while the thread that draws it works or waits: a timer's signal, no thread.

Whoever forks later forks a process of one thread.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EVERY_S = 0.1


class Ticker:
    """Calls `tick` ten times a second, between two steps of the main thread."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._busy = False

    @contextmanager
    def running(self) -> Iterator[Ticker]:
        """Tick inside the block. Does nothing in another thread than the main one, which alone gets signals."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        began = time.monotonic()
        former = signal.signal(signal.SIGALRM, self._on_alarm)
        left, every = signal.setitimer(signal.ITIMER_REAL, EVERY_S, EVERY_S)
        try:
            yield self
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, former)
            if left:  # somebody else's timer goes on
                rest = max(left - (time.monotonic() - began), 0.001)
                signal.setitimer(signal.ITIMER_REAL, rest, every)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """No tick inside the block: it draws itself."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if not self._busy:
            with self.held_back():
                self._tick()
