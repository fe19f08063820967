"""The queue between threads, signal handlers and the loop of a command."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

import pytest

from builder.cli.inbox import Inbox

TIMEOUT_S = 0.05


@pytest.fixture
def alarm() -> Iterator[None]:
    former = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


@pytest.mark.usefixtures("alarm")
def test_a_wait_ends_though_its_deadline_passed_while_a_handler_ran() -> None:
    calls = []

    def slow(number: int, frame: FrameType | None) -> None:
        calls.append(number)
        assert len(calls) == 1, "the reader still waits, long after its deadline"
        until = time.monotonic() + 2 * TIMEOUT_S
        while time.monotonic() < until:
            pass

    signal.signal(signal.SIGALRM, slow)
    signal.setitimer(signal.ITIMER_REAL, TIMEOUT_S / 5, 60.0)
    assert Inbox[str]().get(TIMEOUT_S) is None


@pytest.mark.usefixtures("alarm")
def test_a_handler_wakes_the_reader_that_it_interrupts() -> None:
    inbox: Inbox[str] = Inbox()
    signal.signal(signal.SIGALRM, lambda number, frame: inbox.put("came"))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert inbox.get(60) == "came"


def test_items_of_many_threads_come_once_and_in_their_order() -> None:
    inbox: Inbox[tuple[int, int]] = Inbox()

    def put(who: int) -> None:
        for number in range(500):
            inbox.put((who, number))

    threads = [threading.Thread(target=put, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    came: list[tuple[int, int]] = []
    while len(came) < 2000:
        item = inbox.get(60)
        if item is not None:
            came.append(item)
    for who in range(4):
        assert [number for each, number in came if each == who] == list(range(500))
    assert inbox.get(0) is None
