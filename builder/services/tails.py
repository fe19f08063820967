"""Wake the tails of a build when lines were kept. A hint over a Redis Stream, one reader for each API process.

Only "build X has new lines" travels; a tail reads the lines from the store. So a flushed or lost Redis costs at most
the second after which a tail looks by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import redis

from builder.contract.protocol import KEPT_STREAM

KEEP = 1000


class Tails:
    """The followers of this process; the loop is the one that `bind` was called in. `ended`: follow no longer."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._stop = threading.Event()
        self.ended = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Remember the loop that followers run in."""
        self._loop = loop

    @contextlib.contextmanager
    def follow(self, build_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the build has new lines or changed."""
        event = asyncio.Event()
        self._events[build_id].add(event)
        try:
            yield event
        finally:
            self._events[build_id].discard(event)
            if not self._events[build_id]:
                del self._events[build_id]

    def tell(self, build_id: str) -> None:
        """Any thread: wake this process's followers at once, the other processes' through Redis."""
        self._wake(build_id)
        with contextlib.suppress(redis.RedisError):
            self._redis.xadd(KEPT_STREAM, {"build_id": build_id}, maxlen=KEEP, approximate=True)

    def read(self) -> None:
        """A thread: follow the stream until `stop`."""
        last = "$"
        while not self._stop.is_set():
            try:
                answer: Any = self._redis.xread({KEPT_STREAM: last}, count=KEEP, block=500)
            except redis.RedisError:
                self._stop.wait(0.5)
                continue
            for _, entries in answer or []:
                for last, fields in entries:  # noqa: B007 - `last` goes on from here
                    self._wake(fields[b"build_id"].decode())

    def end(self) -> None:
        """In the loop: let every follower end now. Whoever reads resumes elsewhere, from the last event's id."""
        self.ended = True
        for events in self._events.values():
            for event in events:
                event.set()

    def stop(self) -> None:
        """End the reader; an entry that names no build wakes it."""
        self._stop.set()
        self.tell("")

    def _wake(self, build_id: str) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed() and build_id in self._events:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._set, build_id)

    def _set(self, build_id: str) -> None:
        for event in self._events.get(build_id, ()):
            event.set()
