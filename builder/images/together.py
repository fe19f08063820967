"""Calls to a registry side by side: what a push waits for is mostly the way there and back."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
AT_ONCE = 4
"""As many as `docker push` has at once, so that one build leaves room for others'."""


class Halted(Exception):
    """Another of the calls has failed."""


def together(calls: Iterable[Callable[[Callable[[], None]], T]]) -> list[T]:
    """The answers, in the order of the calls. `AT_ONCE` of them run at once, each on a thread.

    Each call gets a function to call between its pieces; it raises `Halted` once another call has failed, and no call
    begins after that. Raises what the first failure raised, when no call runs any more.
    """
    waiting = list(calls)
    failed = threading.Event()

    def check() -> None:
        if failed.is_set():
            raise Halted

    def run(call: Callable[[Callable[[], None]], T]) -> T:
        check()
        try:
            return call(check)
        except BaseException:
            failed.set()
            raise

    if len(waiting) < 2:
        return [run(call) for call in waiting]
    with ThreadPoolExecutor(min(AT_ONCE, len(waiting)), thread_name_prefix="registry") as pool:
        running = [pool.submit(run, call) for call in waiting]
    errors = [error for each in running if (error := each.exception()) is not None]
    for error in errors:
        if not isinstance(error, Halted):
            raise error
    return [each.result() for each in running]
