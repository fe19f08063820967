"""Request bodies as they come: bounded, given up after a silence, readable from a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import anyio
import anyio.from_thread
from starlette.requests import ClientDisconnect, Request

from builder.errors import BuildError
from builder.services.errors import CallRefused

DRAINED_BYTES = 64 * 1024 * 1024
SILENCE_S = 60.0  # a client that sends nothing of its body for so long has gone, or does not mean it


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises `CallRefused` DEADLINE_EXCEEDED when nothing does."""
    stream = request.stream()
    while True:
        try:
            with anyio.fail_after(SILENCE_S):
                chunk = await anext(stream, None)
        except TimeoutError:
            message = f"nothing of the body came for {SILENCE_S:.0f} s; send it again"
            raise CallRefused("DEADLINE_EXCEEDED", message) from None
        if chunk is None:
            return
        yield chunk


async def drain(body: AsyncIterator[bytes]) -> None:
    """Within reason, read a refused body to its end: a client that still sends when the connection closes gets a
    reset in place of our error."""
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > DRAINED_BYTES:
            return


async def whole(request: Request, limit: int) -> bytes:
    """The whole body; nothing of one beyond the limit is kept."""
    data, body = bytearray(), chunks(request)
    async for chunk in body:
        data += chunk
        if len(data) <= limit:
            continue
        data.clear()
        await drain(body)
        raise BuildError("ArchiveTooLarge", f"the body has more than {limit} bytes; upload the source", where="body")
    return bytes(data)


def in_thread(body: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The chunks of a body for a thread that anyio started. Raises `ClientDisconnect` when the server stops."""
    stopped = False

    async def following() -> bytes | None:
        nonlocal stopped
        try:
            return await anext(body, None)
        except asyncio.CancelledError:  # the thread that waits for this must not mistake it for the end
            stopped = True
            return None

    while (chunk := anyio.from_thread.run(following)) is not None:
        yield chunk
    if stopped:
        raise ClientDisconnect
