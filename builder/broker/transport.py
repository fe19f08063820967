"""The broker connection of a worker: Redis in kombu's protocol, read with distrust.

Whoever can write to Redis can put anything into a queue. A hint is one task with a signed body
(`builder/contract/messages.py`). That body alone is extracted from a message and put into an envelope made here. No
header of Celery's (time limit, eta, expiry, callbacks, chain, compression) and no task of its own can be asked for from
outside. What is no such message is dropped. It never reaches kombu's or Celery's parsers, which raise where nobody
catches.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import redis
from kombu.transport import redis as kombu_redis

from builder.contract.messages import RUN
from builder.logs import logger

MOST_BYTES = 16 * 1024
"""A hint has less than 1 KiB; a longer message is not parsed."""

REFUSED_S = 1.0
"""Between two pops that Redis refuses."""

Dropped = Callable[[str, str], None]
"""Called with the queue and why its message was dropped."""

log = logger("broker")


def envelope(item: bytes, queue: str) -> bytes:
    """The message with the body of `item` and nothing else of it. Raises ValueError, with the reason, where it is no
    message of the one task with arguments by name."""
    if len(item) > MOST_BYTES:
        raise ValueError(f"{len(item)} bytes, limit {MOST_BYTES}")
    task = str(uuid.uuid4())
    headers = {"lang": "py", "task": RUN, "id": task, "root_id": task, "parent_id": None, "group": None}
    properties = {
        "body_encoding": "base64",
        "correlation_id": task,
        "delivery_info": {"exchange": queue, "routing_key": queue},
        "delivery_tag": task,
    }
    body = json.dumps([[], arguments(item), {}])
    return json.dumps(
        {
            "body": base64.b64encode(body.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {**headers, "argsrepr": "()", "kwargsrepr": "{}", "retries": 0},
            "properties": properties,
        }
    ).encode()


def arguments(item: bytes) -> Mapping[str, object]:
    """The arguments by name of a message of the one task. Raises ValueError."""
    try:
        message = json.loads(item.decode())
        if message["headers"]["task"] != RUN:
            raise ValueError("of another task")
        [_, named, _] = json.loads(base64.b64decode(message["body"], validate=True))
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"no message of a task: {error!r}"[:200]) from None
    if not isinstance(named, dict):
        raise ValueError("arguments that have no names")
    return named


class Client(redis.Redis):
    """A Redis client whose pops yield envelopes. A message without one is dropped, as if nothing had been there.

    Nor does a refusal (a key that is no list, a replica, a missing permission) leave here: it would end the worker.
    """

    def __init__(self, *, popped: Callable[[bytes, bytes], bytes | None], **options: Any) -> None:
        super().__init__(**options)
        self._popped = popped

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        try:
            answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if command_name != "BRPOP":
                raise
            log.error("the queues cannot be read", action="queues-refused", error=str(error))
            time.sleep(REFUSED_S)  # a refusal, unlike an empty queue, comes at once
            return None
        if command_name != "BRPOP" or not answer:
            return answer
        found = self._popped(*answer)
        return None if found is None else (answer[0], found)


class Channel(kombu_redis.Channel):
    """Takes hints and nothing else. The transport option `on_dropped` hears of each message that was dropped.

    A queue is a list of its own name. kombu's table of bindings in Redis is neither written nor read, so whoever can
    write to Redis changes no route, and each role needs two commands less.
    """

    from_transport_options = (*kombu_redis.Channel.from_transport_options, "on_dropped")  # type: ignore[assignment]

    _sender: Client | None = None

    on_dropped: Dropped = staticmethod(
        lambda queue, why: log.warning("a message was dropped", action="message-dropped", queue=queue, why=why)
    )

    def _get_client(self) -> Callable[..., Client]:
        super()._get_client()  # type: ignore[no-untyped-call] # refuses a redis-py that is too old
        return partial(Client, popped=self._take)

    def _create_client(self, asynchronous: bool = False) -> Client:
        """One client for all that is sent: kombu makes one for each message, a fifth of the time that sending takes."""
        if asynchronous or self._sender is None or self._sender.connection_pool is not self.pool:
            made: Client = super()._create_client(asynchronous=asynchronous)  # type: ignore[no-untyped-call]
            if asynchronous:
                return made
            self._sender = made
        return self._sender

    def _take(self, key: bytes, item: bytes) -> bytes | None:
        queue = key.decode("utf-8", "replace").rsplit(self.sep, 1)[0]
        try:
            return envelope(item, queue)
        except ValueError as error:
            self._queue_cycle.rotate(queue)  # a queue full of rubbish is not asked before the others
            self.on_dropped(queue, str(error))
            return None

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """The one binding of an exchange: the queue of its name."""
        return [(exchange, "", exchange)]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Note what is broadcast, so that it is not listened to; other bindings are `get_table`'s."""
        if self.typeof(exchange).type == "fanout":  # type: ignore[no-untyped-call]
            self._fanout_queues[queue] = (exchange, routing_key)

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """What is broadcast (gossip of plain Celery) is not listened to: its readers trust every field."""
        if queue in self._fanout_queues:
            return None
        return super().basic_consume(queue, *args, **kwargs)  # type: ignore[no-untyped-call]


class Transport(kombu_redis.Transport):
    """kombu's Redis transport with our channel."""

    Channel = Channel
