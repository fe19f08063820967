"""Followers of containers' logs: through cuts, restarts of the API server and adoption, each line once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress

from builder.errors import PlatformError
from builder.kube.api import Api, ClusterRefused
from builder.kube.logs import Cursor, Line, Reading

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
PART = 16 * 1024
"""Bytes that become one batch of lines, each with the cursor behind it: a few hundred lines at most."""


async def follow(
    api: Api,
    namespace: str,
    pod: str,
    container: str,
    cursor: Cursor,
    is_over: Callable[[], bool],
    is_gone: Callable[[], Awaitable[bool]],
    ended: asyncio.Event,
) -> AsyncGenerator[tuple[list[Line], Cursor], None]:
    """New lines with the cursor behind them, until the container has ended and all of its log was read.

    `is_over` is whether the container has ended, or its pod is gone, as the watch knows it. `is_gone` is whether the
    pod is, as the API has it now. `ended` is set once the container's end is known: its log ends before that, and
    nobody waits out a pause for it.
    """
    pause = FIRST_PAUSE_S
    while True:
        over = ended.is_set() or is_over()  # before the read: what is written after it is not missed
        reading = Reading(cursor)
        was_cut = False
        try:
            log = api.log(namespace, pod, container, since=cursor.since_time, follow=not over)
            async with aclosing(log):
                async for piece in log:
                    pause = FIRST_PAUSE_S
                    for part in _parts(piece):
                        if lines := reading.feed(part):
                            yield lines, reading.cursor
        except PlatformError:
            was_cut = True
        except ClusterRefused as refused:
            # 400: the container waits to start, and of one that is over it never did. 404: the pod is gone, or the
            # kubelet started again and does not know it yet, also where the container is over. 5xx: no answer.
            was_cut = True
            if (refused.code == 400 and over) or (refused.code == 404 and await is_gone()):
                return
        cursor = reading.cursor
        if over and not was_cut:
            if lines := reading.end():
                yield lines, reading.cursor
            return
        if over:
            await asyncio.sleep(pause)
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


async def read_so_far(
    api: Api,
    namespace: str,
    pod: str,
    container: str,
    cursor: Cursor,
    tries: int,
    is_gone: Callable[[], Awaitable[bool]],
) -> AsyncGenerator[tuple[list[Line], Cursor], None]:
    """The whole lines behind the cursor that are there now, with the cursor behind each batch.

    After so many `tries` in a row without a line it ends without them: a kubelet may never answer again. `is_gone` as
    for `follow`.
    """
    pause, left = FIRST_PAUSE_S, tries
    while left:
        left -= 1
        reading = Reading(cursor)
        try:
            async with aclosing(api.log(namespace, pod, container, since=cursor.since_time, follow=False)) as log:
                async for piece in log:
                    for part in _parts(piece):
                        if lines := reading.feed(part):
                            left = tries
                            yield lines, reading.cursor
            return
        except PlatformError:
            pass
        except ClusterRefused as refused:
            if refused.code == 400 or (refused.code == 404 and await is_gone()):  # it has not started; its log is gone
                return
        cursor = reading.cursor
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _parts(piece: bytes) -> Iterator[bytes]:
    for start in range(0, len(piece), PART):
        yield piece[start : start + PART]
