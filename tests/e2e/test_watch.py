"""A child that lost its claim and does not return is killed by the worker's main process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from builder.node.watch import Watch
from tests.attempt_fixtures import Clock


class Children:
    """Children of this process that share a watch with it and then hang, stopped."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def start(self, work: Callable[[], object]) -> int:
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                work()
                os.write(tell, b"x")
                while True:
                    time.sleep(3600)
            finally:
                os._exit(1)
        self.pids.append(pid)
        assert os.read(ready, 1) == b"x"
        os.close(ready)
        os.close(tell)
        return pid

    def end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def children() -> Iterator[Children]:
    made = Children()
    yield made
    made.end()


def test_who_lost_its_claim_is_killed_after_the_grace_and_nobody_else(children: Children) -> None:
    clock = Clock()
    watch = Watch(5, clock)
    lost = children.start(lambda: watch.claimed(0, 10))
    owner = children.start(lambda: watch.claimed(1, 1000))

    def claim_and_return() -> None:
        watch.claimed(2, 10)
        watch.returned(2)

    idle = children.start(claim_and_return)
    os.kill(lost, signal.SIGSTOP)
    for now, killed in ((0, ()), (10, ()), (11, ()), (16, ()), (16.5, (lost,)), (30, ())):
        clock.seconds = now
        assert watch.look() == killed, now
    assert os.waitpid(lost, 0) == (lost, signal.SIGKILL)
    children.pids = [owner, idle]
    assert [os.waitpid(pid, os.WNOHANG) for pid in children.pids] == [(0, 0), (0, 0)]


def test_after_a_pause_of_everybody_a_child_has_the_grace_to_hear_of_its_claim(children: Children) -> None:
    clock = Clock()
    watch = Watch(5, clock)
    children.start(lambda: watch.claimed(0, 10))
    for now in (0, 1000, 1004):
        clock.seconds = now
        assert watch.look() == ()
    watch.claimed(0, 1010)  # it heard, and goes on
    clock.seconds = 1009
    assert watch.look() == ()


def test_a_number_that_is_another_process_by_now_is_left_alone(children: Children) -> None:
    clock = Clock()
    watch = Watch(5, clock)
    watch.claimed(0, 10)  # this process is no child of itself
    for now in (20, 30, 40):
        clock.seconds = now
        assert watch.look() == ()
