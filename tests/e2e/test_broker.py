"""Whoever can write to Redis can put anything into a queue: no message ends a worker, and only signed bodies count."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis

from builder.contract.messages import RUN, run_message
from builder.local import embedded
from tests.broker_fixtures import KEY, QUEUE, Worker, hint, worker
from tests.build_fixtures import until
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e

PLAIN = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")


def build_id(number: int) -> str:
    return f"k7m2xq9d4t1zv6wh5r{number:02}"


@dataclass(frozen=True)
class Parts:
    url: str
    redis: redis.Redis
    serve: Serve
    worker: Worker

    def dropped(self) -> float:
        return self.serve.metrics()["ignite_messages_dropped_total"]

    def sent(self, number: int) -> bytes:
        """A hint as it lies in the queue, of which the worker sees nothing."""
        hint(self.url, build_id(number), queue="elsewhere")
        found = self.redis.rpop("elsewhere")
        assert isinstance(found, bytes)
        return found


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("broker")
    with (
        embedded.private_redis(folder / "redis") as (_, url),
        serving(folder / "serve", url) as serve,
        worker(folder / "worker", serve, url) as running,
        redis.Redis.from_url(url) as client,
    ):
        hint(url, build_id(0))
        assert running.took(build_id(0)), running.said()
        yield Parts(url, client, serve, running)


def test_neither_side_leaves_a_core_file_with_what_it_knows(parts: Parts) -> None:
    for pid in (parts.serve.process.pid, parts.worker.process.pid, *parts.worker.children()):
        limits = Path(f"/proc/{pid}/limits").read_text(encoding="utf-8").splitlines()
        (core,) = [line.split()[4:6] for line in limits if line.startswith("Max core file size")]
        assert core == ["0", "0"]


def of_a_task(named: object, task: object = RUN, **more: object) -> dict[str, Any]:
    """A message as kombu writes it."""
    return {
        "body": base64.b64encode(json.dumps(named).encode()).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": task, "id": "one", "lang": "py"},
        "properties": {"body_encoding": "base64", "delivery_tag": "one", "delivery_info": {}},
        **more,
    }


GARBAGE: list[bytes] = [
    b"{not json",
    b"",
    b'"x"',
    b"[]",
    b"1",
    b"null",
    b"\xff\xfe\x00",
    b'{"body": 5}',
    b'{"body": "x", "headers": null, "properties": null}',
    b"[" * 9000,
    b"9" * 5000,
    b" " * 1_000_000,
    json.dumps(of_a_task(5)).encode(),
    json.dumps(of_a_task([1, 2])).encode(),
    json.dumps(of_a_task([[], [], {}])).encode(),
    json.dumps(of_a_task([["x"], {"a": 1}, {}], task=[RUN])).encode(),
    json.dumps(of_a_task([[], {}, {}], body={"a": 1})).encode(),
    json.dumps(of_a_task([[[1]], {"task": {"task": RUN}, "it": [[1]]}, {}], task="celery.map")).encode(),
    json.dumps(of_a_task([[], {}, {}], task="celery.backend_cleanup")).encode(),
    json.dumps(of_a_task([[], {**run_message(build_id(99), "another key")}, {}])).encode(),
]


def test_no_message_ends_a_worker_and_each_is_dropped_and_counted(parts: Parts) -> None:
    before, children = parts.dropped(), parts.worker.children()
    for message in GARBAGE:
        parts.redis.lpush(QUEUE, message)
    hint(parts.url, build_id(1))
    assert parts.worker.took(build_id(1)), parts.worker.said()
    assert parts.worker.process.poll() is None and parts.worker.children() == children
    assert until(lambda: parts.dropped() == before + len(GARBAGE)), (parts.dropped(), before)
    assert until(lambda: parts.worker.said().count("message-dropped") == before + len(GARBAGE))
    assert build_id(99) not in parts.worker.said()


def test_only_the_body_of_a_hint_counts(parts: Parts) -> None:
    """Each of these made Celery wait, drop the hint or kill its owner."""
    message = json.loads(parts.sent(2))
    message["headers"] |= {
        "eta": "2099-01-01T00:00:00+00:00",
        "expires": "2001-01-01T00:00:00+00:00",
        "timelimit": [0.000001, 0.000001],
        "retries": 99,
        "group": "g",
        "ignore_result": False,
    }
    message["properties"] |= {"delivery_tag": ["no", "hash"], "delivery_info": 5, "reply_to": {}, "priority": "x"}
    message["content-encoding"], message["content-type"] = "binary", "application/x-python-serialize"
    [_, named, _] = json.loads(base64.b64decode(message["body"]))
    kwargs = run_message(build_id(4), KEY)
    then: dict[str, Any] = {"task": RUN, "args": [], "kwargs": kwargs, "options": {}, "subtask_type": None}
    embed = {"callbacks": [then], "errbacks": [then], "chain": [then], "chord": then}
    message["body"] = base64.b64encode(json.dumps([["positional"], named, embed]).encode()).decode()
    children = parts.worker.children()
    parts.redis.lpush(QUEUE, json.dumps(message))
    assert parts.worker.took(build_id(2)), parts.worker.said()
    hint(parts.url, build_id(3))
    assert parts.worker.took(build_id(3)), parts.worker.said()
    assert parts.worker.children() == children, "a child was killed"
    assert "Hard time limit" not in parts.worker.said() and build_id(4) not in parts.worker.said()


def test_a_hint_that_celery_dates_is_taken_at_once(parts: Parts) -> None:
    hint(parts.url, build_id(5), eta=datetime(2099, 1, 1, tzinfo=UTC), expires=datetime(2098, 1, 1, tzinfo=UTC))
    assert parts.worker.took(build_id(5)), parts.worker.said()


def test_a_queue_that_is_no_list_is_read_again_when_it_is_one(parts: Parts) -> None:
    parts.redis.set(QUEUE, "x")
    assert until(lambda: parts.worker.said().count("action=queues-refused") > 1), parts.worker.said()
    parts.redis.delete(QUEUE)
    hint(parts.url, build_id(8))
    assert parts.worker.took(build_id(8)), parts.worker.said()


def test_a_hint_that_was_taken_is_noted_nowhere_in_redis(parts: Parts) -> None:
    """A list of what is not yet acknowledged would be two round trips a hint, and be read with trust."""
    hint(parts.url, build_id(6))
    assert parts.worker.took(build_id(6)), parts.worker.said()
    keys = {key.decode() for key in parts.redis.keys("*")}  # type: ignore[union-attr]
    assert not keys, keys
    asked = set(parts.redis.info("commandstats"))
    noting = {"cmdstat_zadd", "cmdstat_hset", "cmdstat_zrem", "cmdstat_sadd", "cmdstat_smembers"}
    assert "cmdstat_brpop" in asked and not asked & noting


def test_the_private_redis_answers_nobody_without_its_password(tmp_path: Path) -> None:
    with embedded.private_redis(tmp_path) as (process, url):
        address = url.rpartition("@")[2]
        with redis.Redis.from_url(f"redis://{address}") as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis.from_url(url) as owner:
            assert owner.ping()
        password = url.removeprefix("redis://:").partition("@")[0]
        assert len(password) > 20
        assert password.encode() not in Path(f"/proc/{process.pid}/cmdline").read_bytes()


def test_a_child_that_dies_when_the_worker_starts_is_replaced(parts: Parts, tmp_path: Path) -> None:
    """Celery asks once, before the first message, whether all children live, and else ends the whole worker."""
    command = (sys.executable, "-m", "celery", "--app", "tests.killing_app", "worker", *PLAIN)
    queue = "compile.killed"
    with worker(tmp_path, parts.serve, parts.url, *command, NODE_ID="node-2", QUEUES=queue) as running:
        hint(parts.url, build_id(7), queue=queue)
        assert running.took(build_id(7)), running.said()
        assert "killed " in running.said() and running.process.poll() is None
        assert until(lambda: len(running.children()) == 1)
