"""Calls side by side: answers in order, the first failure ends the rest."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import pytest

from builder.images import together as together_module
from builder.images.together import AT_ONCE, Halted, together

LONG_S = 120.0


def test_answers_are_in_the_order_of_the_calls_whatever_ends_first() -> None:
    last_ended = threading.Event()

    def first(check: Callable[[], None]) -> str:
        assert last_ended.wait(LONG_S), "the calls follow one another"
        return "first"

    def last(check: Callable[[], None]) -> str:
        last_ended.set()
        return "last"

    assert together([first, last]) == ["first", "last"]
    assert together([lambda check: "alone"]) == ["alone"]
    assert together([]) == []


def test_no_more_than_a_few_run_at_once() -> None:
    running, most = threading.Semaphore(AT_ONCE), list[bool]()

    def call(check: Callable[[], None]) -> None:
        most.append(running.acquire(blocking=False))
        running.release()

    together([call] * (3 * AT_ONCE))
    assert most == [True] * (3 * AT_ONCE)


def test_the_first_failure_is_raised_and_ends_the_others_between_their_pieces() -> None:
    begins, failed = threading.Event(), threading.Event()
    halted = list[bool]()

    def fails(check: Callable[[], None]) -> None:
        assert begins.wait(LONG_S)
        failed.set()
        raise ValueError("no")

    def goes_on(check: Callable[[], None]) -> None:
        begins.set()
        assert failed.wait(LONG_S)
        try:
            while True:
                check()
        except Halted:
            halted.append(True)
            raise

    with pytest.raises(ValueError, match="no"):
        together([fails, goes_on])
    assert halted == [True]
    with pytest.raises(ValueError, match="alone"):
        together([_raise_alone])


def test_of_two_failures_the_first_in_time_is_raised() -> None:
    def late(check: Callable[[], None]) -> None:
        try:
            while True:
                check()
        except Halted:
            raise ValueError("late") from None

    def early(check: Callable[[], None]) -> None:
        raise ValueError("early")

    with pytest.raises(ValueError, match="early"):
        together([late, early])


def _raise_alone(check: Callable[[], None]) -> None:
    raise ValueError("alone")


def test_no_call_begins_after_a_failure() -> None:
    everybody, began = threading.Barrier(AT_ONCE), list[int]()

    def fails(check: Callable[[], None]) -> None:
        everybody.wait(LONG_S)
        raise ValueError("no")

    def late(check: Callable[[], None]) -> None:
        began.append(1)

    with pytest.raises(ValueError, match="no"):
        together([*[fails] * AT_ONCE, *[late] * 5])
    assert began == [], "each thread is free only once its call has failed"


@pytest.mark.parametrize("where", ["in its own call", "while it waits for the others"])
def test_an_interrupt_of_the_caller_ends_the_calls_between_their_pieces(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    both, caller, halted = threading.Barrier(2), threading.current_thread(), list[bool]()
    waits = wait

    def interrupted(futures: list[Future[None]]) -> object:
        monkeypatch.setattr(together_module, "wait", waits)
        raise KeyboardInterrupt

    def call(check: Callable[[], None]) -> None:
        both.wait(LONG_S)  # so each thread has one
        if threading.current_thread() is caller:
            if where == "in its own call":
                raise KeyboardInterrupt
            return
        try:
            while True:
                check()
        except Halted:
            halted.append(True)
            raise

    if where == "while it waits for the others":
        monkeypatch.setattr(together_module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        together([call, call])
    assert halted == [True], "nobody runs any more"


def test_where_no_thread_is_free_the_caller_makes_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, pool = threading.Event(), ThreadPoolExecutor(1)
    monkeypatch.setattr(together_module, "_pools", [pool])
    pool.submit(busy.wait, LONG_S)
    try:
        threads = together([lambda check: threading.current_thread()] * 6)
        assert threads == [threading.current_thread()] * 6
    finally:
        busy.set()
        pool.shutdown()
