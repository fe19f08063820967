"""The fast way of a cancel: a real Redis that tells, that comes late, that is not there."""

from __future__ import annotations

import threading
from contextlib import closing
from pathlib import Path

import pytest
import redis

from builder.contract.protocol import CANCEL_CHANNEL
from builder.local import embedded
from builder.local.ports import free_port
from builder.node import cancels
from tests.build_fixtures import closed_port

pytestmark = pytest.mark.e2e

LONG_S = 300.0


def publish_until(url: str, build_id: str, heard: threading.Event) -> None:
    """Publish as long as nobody has heard it: a subscription is made in its own time."""
    with redis.Redis.from_url(url) as client:
        for _ in range(int(LONG_S / 0.05)):
            client.publish(CANCEL_CHANNEL, build_id)
            if heard.wait(0.05):
                return
    raise AssertionError("the cancel was not heard")


def test_a_cancel_is_heard_by_the_owner_of_its_build_only_and_one_subscription_serves_all(tmp_path: Path) -> None:
    mine, other = threading.Event(), threading.Event()
    with embedded.private_redis(tmp_path / "redis") as (_, url), closing(cancels.Cancels(url)) as listener:
        with listener.listening("mine", mine.set):
            publish_until(url, "mine", mine)
            with listener.listening("other", other.set):
                with redis.Redis.from_url(url) as client:
                    assert client.publish(CANCEL_CHANNEL, "mine") == 1
                publish_until(url, "other", other)
        mine.clear()
        with listener.listening("next", other.set):
            other.clear()
            with redis.Redis.from_url(url) as client:
                client.publish(CANCEL_CHANNEL, "mine")
            publish_until(url, "next", other)
        assert not mine.is_set(), "its build has ended"


def test_a_redis_that_comes_late_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cancels, "AGAIN_S", 0.05)
    heard, port, password = threading.Event(), free_port(), "p" * 32
    url = f"redis://:{password}@127.0.0.1:{port}/0"
    with (
        closing(cancels.Cancels(url)) as listener,
        listener.listening("b", heard.set),
        embedded.private_redis(tmp_path / "redis", port, password),
    ):
        publish_until(url, "b", heard)


def test_a_listener_ends_whether_redis_is_there_or_not() -> None:
    before = set(threading.enumerate())
    with (
        closed_port() as port,
        closing(cancels.Cancels(f"redis://127.0.0.1:{port}/0")) as listener,
        listener.listening("b", lambda: None),
    ):
        pass
    for thread in set(threading.enumerate()) - before:
        thread.join(LONG_S)
        assert not thread.is_alive()
