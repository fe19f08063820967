"""What control processes tell each other of new log lines, over a real Redis: nothing while there is only one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from builder.local import embedded
from builder.services.tails import Tails
from tests.build_fixtures import until

pytestmark = pytest.mark.e2e

LONG_S = 300.0


class Heard(Tails):
    """The tails of a process; `woken` gets the builds whose feeds it wakes."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self.woken: queue.SimpleQueue[str] = queue.SimpleQueue()

    def _wake(self, build_id: str) -> None:
        self.woken.put(build_id)


@contextmanager
def process(url: str) -> Iterator[Heard]:
    with redis.Redis.from_url(url) as client:
        tails = Heard(client)
        threads = [threading.Thread(target=work) for work in (tails.read, tails.publish)]
        for thread in threads:
            thread.start()
        try:
            yield tails
        finally:
            tails.stop()
            for thread in threads:
                thread.join(LONG_S)
                assert not thread.is_alive()


def test_a_process_publishes_next_to_nothing_until_there_is_another_one(tmp_path: Path) -> None:
    with embedded.private_redis(tmp_path / "redis") as (_, url), redis.Redis.from_url(url) as admin:

        def published() -> int:
            return int(admin.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"])

        with process(url) as first:
            assert until(lambda: first.alone, LONG_S, before=lambda: first.tell("b1")), "nobody else listens"
            before = published()
            for number in range(1000):
                first.tell(f"c{number}")
            assert published() - before <= 100, "what comes together travels together, if at all"
            with process(url) as second:
                assert until(lambda: not second.woken.empty(), LONG_S, before=lambda: first.tell("b2"))
                assert second.woken.get(timeout=LONG_S) == "b2"
                assert until(lambda: not first.alone, LONG_S, before=lambda: first.tell("b2"))
                second.tell("b3")
                assert until(lambda: "b3" in iter_of(first), LONG_S), "it hears the other one, too"


def iter_of(tails: Heard) -> list[str]:
    found = []
    while not tails.woken.empty():
        found.append(tails.woken.get())
    return found
