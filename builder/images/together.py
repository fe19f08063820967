"""Calls to a registry side by side: what a push waits for is mostly the way there and back."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")
AT_ONCE = 4
"""As many as `docker push` has at once, so that one build leaves room for others'."""
THREADS = 64
"""As many has a process at most, for all its pushes. They stay: to start them anew takes a tenth of a small push."""


class Halted(Exception):
    """Another of the calls has failed."""


_pools: list[ThreadPoolExecutor] = []


def together(calls: Iterable[Callable[[Callable[[], None]], T]]) -> list[T]:
    """The answers, in the order of the calls. `AT_ONCE` of them run at once: one on this thread, and others on threads
    of the process as far as it has free ones.

    Each call gets a function to call between its pieces and within its waits; it raises `Halted` once another call has
    failed, and no call begins after that. Raises what the first failure raised, when no call runs any more. What is
    raised in the caller's thread meanwhile counts as a failure.
    """
    waiting = deque(enumerate(calls))
    answers: dict[int, T] = {}
    failures: list[BaseException] = []

    def check() -> None:
        if failures:
            raise Halted

    def work() -> None:
        while waiting and not failures:
            try:
                number, call = waiting.popleft()
            except IndexError:  # another thread was first
                return
            try:
                answers[number] = call(check)
            except BaseException as error:
                failures.append(error)

    others: list[Future[None]] = []
    try:
        for _ in range(min(AT_ONCE, len(waiting)) - 1):
            others.append(_pool().submit(work))
        work()
        wait([other for other in others if not other.cancel()])  # what no thread was free for, this one has done
    except BaseException as error:  # an interrupt: the others must not go on to their last byte
        failures.append(error)
        wait([other for other in others if not other.cancel()])
    if failures:
        raise failures[0]
    return [answers[number] for number in sorted(answers)]


def _pool() -> ThreadPoolExecutor:
    if not _pools:
        _pools.append(ThreadPoolExecutor(THREADS, thread_name_prefix="registry"))
    return _pools[0]


os.register_at_fork(after_in_child=_pools.clear)
