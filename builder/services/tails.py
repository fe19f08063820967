"""Who follows a build in this process, and when it changed. Other processes hear of it over Redis.

Only "build X has new lines" travels, as a message that gathers all builds of a moment; the lines come from the store.
So a lost message or Redis costs at most the second after which a feed looks by itself. While no other process
subscribes nothing is published but one message a second, whose answer says how many do.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import redis

from builder.contract.protocol import CHANGED_CHANNEL

LOOK_S = 1.0
GATHER_S = 0.02
"""Between two messages: the first of a burst travels at once, the rest together."""
LISTEN_S = 1.0
"""How late the reader sees that it shall end."""
ALONE_S = 1.0
"""How long a process takes itself for the only one after a message that nobody else received."""


class Feed:
    """One build that is followed here, shared by all its readers. Lives in the event loop.

    `generation` counts the wake-ups, so that a reader can tell whether one came since it last looked; `read` is the
    one in which the end of the log was last reached, `edge` the newest sequence that was seen.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.readers = 0
        self.generation = 0
        self.read = -1
        self.edge = 0
        self._changed = asyncio.Event()
        self._loop = loop
        self._timer = loop.call_later(LOOK_S, self.wake)

    def wake(self) -> None:
        """Let every reader look again; without a wake-up they do so after `LOOK_S`."""
        self.generation += 1
        self._changed.set()
        self._changed.clear()  # who waited goes on all the same
        self._timer.cancel()
        self._timer = self._loop.call_later(LOOK_S, self.wake)

    async def changed(self, since: int) -> None:
        """Wait for a wake-up after the generation `since`."""
        if self.generation == since:
            await self._changed.wait()

    def close(self) -> None:
        """No reader is left."""
        self._timer.cancel()


class Tails:
    """The feeds of this process; the loop is the one that `bind` was called in. `ended`: follow no longer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._origin = uuid.uuid4().hex.encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._feeds: dict[str, Feed] = {}
        self._stop = threading.Event()
        self._told: set[str] = set()
        self._news = threading.Condition()
        self._alone_until = 0.0
        self.ended = False

    @property
    def alone(self) -> bool:
        """Whether the last message reached no other process."""
        return self._alone_until > 0

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remember the loop that readers run in."""
        self._loop = loop

    @contextlib.contextmanager
    def follow(self, build_id: str) -> Iterator[Feed]:
        """In the loop: the feed of a build, for one reader more."""
        feed = self._feeds.get(build_id)
        if feed is None:
            feed = self._feeds[build_id] = Feed(asyncio.get_running_loop())
        feed.readers += 1
        try:
            yield feed
        finally:
            feed.readers -= 1
            if not feed.readers:
                feed.close()
                del self._feeds[build_id]

    def tell(self, build_id: str) -> None:
        """Any thread: wake this process's feed at once, the other processes' through Redis. Waits for nothing."""
        self._wake(build_id)
        with self._news:
            if build_id not in self._told and time.monotonic() >= self._alone_until:
                self._told.add(build_id)
                self._news.notify()

    def publish(self) -> None:
        """A thread: publish to the other processes, until `stop`."""
        while not self._stop.is_set():
            with self._news:
                self._news.wait_for(lambda: self._told or self._stop.is_set())
                told, self._told = self._told, set()
            if not told:
                continue
            try:
                heard = int(self._redis.publish(CHANGED_CHANNEL, b" ".join((self._origin, *map(str.encode, told)))))
            except Exception:  # Redis is away, or answers what it should not: feeds look by themselves meanwhile
                self._alone_until = 0.0
            else:
                self._alone_until = time.monotonic() + ALONE_S if heard <= 1 else 0.0
            self._stop.wait(GATHER_S)

    def read(self) -> None:
        """A thread: hear what other processes publish, until `stop`."""
        while not self._stop.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CHANGED_CHANNEL)
                    while not self._stop.is_set():
                        message: Any = channel.get_message(timeout=LISTEN_S)
                        if message:
                            self._heard(message["data"])
            except Exception:  # as above; a thread that ended would leave every feed to its own look until a restart
                self._stop.wait(0.5)

    def _heard(self, data: bytes) -> None:
        origin, *build_ids = data.split(b" ")
        if origin != self._origin:
            self._alone_until = 0.0
            for build_id in build_ids:
                self._wake(build_id.decode("utf-8", "replace"))

    def end(self) -> None:
        """In the loop: let every reader end now. Each resumes elsewhere, from the last event's id."""
        self.ended = True
        for feed in self._feeds.values():
            feed.wake()

    def stop(self) -> None:
        """End both threads."""
        self._stop.set()
        with self._news:
            self._news.notify()

    def _wake(self, build_id: str) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed() and build_id in self._feeds:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake_here, build_id)

    def _wake_here(self, build_id: str) -> None:
        feed = self._feeds.get(build_id)
        if feed is not None:
            feed.wake()
