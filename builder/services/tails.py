"""Who follows a build in this process, and when it changed. A hint over a Redis Stream, one reader for each process.

Only "build X has new lines" travels; the lines come from the store. So a flushed or lost Redis costs at most the
second after which a feed looks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import redis

from builder.contract.protocol import KEPT_STREAM

KEEP = 1000
LOOK_S = 1.0


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
        self.ended = False

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
        """Any thread: wake this process's feed at once, the other processes' through Redis."""
        self._wake(build_id)
        with contextlib.suppress(redis.RedisError):
            fields: dict[Any, Any] = {"build_id": build_id, "origin": self._origin}
            self._redis.xadd(KEPT_STREAM, fields, maxlen=KEEP, approximate=True)

    def read(self) -> None:
        """A thread: follow the stream until `stop`. What this process wrote itself it knows already."""
        last = "$"
        while not self._stop.is_set():
            try:
                answer: Any = self._redis.xread({KEPT_STREAM: last}, count=KEEP, block=500)
            except redis.RedisError:
                self._stop.wait(0.5)
                continue
            found: set[str] = set()
            for _, entries in answer or []:
                for last, fields in entries:  # noqa: B007 - `last` goes on from here
                    if fields.get(b"origin") != self._origin:
                        found.add(fields[b"build_id"].decode())
            for build_id in found:
                self._wake(build_id)

    def end(self) -> None:
        """In the loop: let every reader end now. Each resumes elsewhere, from the last event's id."""
        self.ended = True
        for feed in self._feeds.values():
            feed.wake()

    def stop(self) -> None:
        """End the reader of Redis; an entry that names no build wakes it."""
        self._stop.set()
        self.tell("")

    def _wake(self, build_id: str) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed() and build_id in self._feeds:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._wake_here, build_id)

    def _wake_here(self, build_id: str) -> None:
        feed = self._feeds.get(build_id)
        if feed is not None:
            feed.wake()
