"""Calls to a registry side by side: what a push waits for is mostly the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
AT_ONCE = 4
"""As many as `docker push` has at once, so that one build leaves room for others'."""


class Halted(Exception):
    """Another of the calls has failed."""


def together(calls: Iterable[Callable[[Callable[[], None]], T]]) -> list[T]:
    """The answers, in the order of the calls. `AT_ONCE` of them run at once, each on a thread.

    Each call gets a function to call between its pieces and within its waits; it raises `Halted` once another call has
    failed, and no call begins after that. Raises what the first failure raised, when no call runs any more. What is
    raised in the caller's thread meanwhile counts as a failure.
    """
    waiting = list(calls)
    failures: list[BaseException] = []

    def check() -> None:
        if failures:
            raise Halted

    def run(call: Callable[[Callable[[], None]], T]) -> T:
        check()
        try:
            return call(check)
        except BaseException as error:
            failures.append(error)
            raise

    if len(waiting) < 2:
        return [run(call) for call in waiting]
    with ThreadPoolExecutor(min(AT_ONCE, len(waiting)), thread_name_prefix="registry") as pool:
        running = [pool.submit(run, call) for call in waiting]
        try:
            wait(running)
        except BaseException as error:  # an interrupt: the pool would wait for every byte of the others
            failures.append(error)
            raise
    if failures:
        raise failures[0]
    return [each.result() for each in running]
