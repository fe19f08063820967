"""The fast way of a cancel: over Redis. Without it the next heartbeat learns of the cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import redis

from builder.contract.protocol import CANCEL_CHANNEL

AGAIN_S = 2.0
LISTEN_S = 0.5
"""How late a listener sees that it shall end."""
PING_S = 30
"""A connection that is silent for so long is asked whether it still lives."""


@dataclass
class Cancels:
    """The cancels of all builds, on one subscription for each process; made after the fork."""

    redis_url: str
    _builds: dict[str, Callable[[], None]] = field(default_factory=dict)
    _thread: threading.Thread | None = None
    _done: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def listening(self, build_id: str, on_cancel: Callable[[], None]) -> Iterator[None]:
        """Call `on_cancel` at each cancel of the build. A Redis that is away or hangs delays nothing."""
        self._builds[build_id] = on_cancel
        if self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="cancels", daemon=True)
            self._thread.start()
        try:
            yield
        finally:
            del self._builds[build_id]

    def close(self) -> None:
        """End the subscription; a listener that waits for Redis ends later, and nothing waits for it."""
        self._done.set()

    def _listen(self) -> None:
        while not self._done.is_set():
            try:
                client = redis.Redis.from_url(self.redis_url, socket_timeout=5, health_check_interval=PING_S)
                with client, client.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CANCEL_CHANNEL)
                    while not self._done.is_set():
                        message: Any = channel.get_message(timeout=LISTEN_S)
                        if message and (on_cancel := self._builds.get(message["data"].decode("utf-8", "replace"))):
                            on_cancel()
            except Exception:  # Redis is away, or answers what it should not: heartbeats have the cancels meanwhile
                self._done.wait(AGAIN_S)
