"""Request bodies as they come: of a known type, bounded in size and memory, no slower than a least rate."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence

import anyio
from starlette.requests import ClientDisconnect, Request

from builder.errors import BuildError
from builder.services.errors import CallRefused
from builder.services.shares import Memory
from builder.text import size as in_words
from builder.text import visible

DRAINED_BYTES = 64 * 1024 * 1024
WINDOW_S = 10.0
"""The rate is that of any so many seconds, after the first so many."""
TICKS = 10  # parts of a window

JSON = ("application/json",)
SOURCES = (
    "application/octet-stream", "application/zip", "application/x-zip-compressed", "application/gzip",
    "application/x-gzip", "application/x-tar", "application/x-compressed-tar", "application/x-gtar", "text/plain",
)  # fmt: skip


def check_type(request: Request, accepted: Sequence[str]) -> None:
    """Refuse a body that would be read as something else than it is. None named is the first one accepted."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        message = f"Content-Encoding: {visible(encoding, limit=40)} is not read here; send the body as it is"
        raise BuildError("UnsupportedMediaType", message, where="Content-Encoding")
    named, _, parameters = request.headers.get("content-type", accepted[0]).partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if named.strip().lower() not in accepted or (accepted is JSON and charset not in ("", "utf-8")):
        whole = visible(named + (";" if parameters else "") + parameters, limit=80)
        message = f"Content-Type: {whole} is not read here; this call takes {accepted[0]}"
        raise BuildError("UnsupportedMediaType", message, where="Content-Type")


def announced(request: Request) -> int:
    """The size that the head announces; 0 for one that comes in chunks."""
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def waits(request: Request) -> bool:
    """Whether a client sends nothing of its body before it is told to go on (RFC 9110, 10.1.1)."""
    return request.headers.get("expect", "").lower() == "100-continue"


class Pace:
    """How quickly a body comes. Only the time that passes while its client is waited for counts."""

    def __init__(self, least: int) -> None:
        self._least, self._window, self._tick = least * WINDOW_S, WINDOW_S, WINDOW_S / TICKS
        self._sizes: deque[int] = deque(maxlen=TICKS)
        self._ticks, self._size, self._waited = 0, 0, 0.0

    @property
    def remaining(self) -> float:
        """Seconds to wait before the next look."""
        return max(self._tick - self._waited, 0.001)

    def waited(self, seconds: float, size: int) -> None:
        """So many bytes came after so long. Raises `CallRefused` DEADLINE_EXCEEDED when that was too slow."""
        self._waited += seconds
        while self._waited >= self._tick:
            self._waited -= self._tick
            self._sizes.append(self._size)
            self._size = 0
            self._ticks += 1
            if self._ticks >= 2 * TICKS and sum(self._sizes) < self._least:
                rate = in_words(int(self._least / self._window))
                message = f"less than {rate} a second of the body came for {self._window:g} s; send it again"
                raise CallRefused("DEADLINE_EXCEEDED", message, where="body")
        self._size += size


async def chunks(request: Request, least: int) -> AsyncIterator[bytes]:
    """The body as it comes, at `least` so many bytes a second. Raises as `Pace`, and `ClientDisconnect`."""
    pace = Pace(least)
    while True:
        began = time.monotonic()
        try:
            with anyio.fail_after(pace.remaining):
                message = await request.receive()
        except TimeoutError:
            pace.waited(time.monotonic() - began, 0)
            continue
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        if more:
            pace.waited(time.monotonic() - began, len(body))
        if body:
            yield body
        if not more:
            return


async def drain(body: AsyncIterator[bytes]) -> None:
    """Within reason, read a refused body to its end: a client that still sends when the connection closes gets a
    reset in place of our error."""
    size = 0
    async for chunk in body:
        size += len(chunk)
        if size > DRAINED_BYTES:
            return


@contextlib.asynccontextmanager
async def whole(request: Request, limit: int, memory: Memory, owner: str, least: int) -> AsyncIterator[bytes]:
    """The whole body, which counts in `memory` meanwhile; nothing of one beyond the limit stays.

    Raises `BuildError` ArchiveTooLarge, `QuotaExceeded` before anything is kept where the size is announced.
    """
    body = chunks(request, least)
    if announced(request) > limit:
        if not waits(request):
            with contextlib.suppress(CallRefused):
                await drain(body)
        raise _too_large(limit)
    counted = announced(request)
    memory.take(owner, counted)
    try:
        data = bytearray()
        async for chunk in body:
            data += chunk
            if len(data) > limit:
                data.clear()
                await drain(body)
                raise _too_large(limit)
            if (more := len(data) - counted) > 0:
                memory.take(owner, more, counted)
                counted += more
        yield bytes(data)
    finally:
        memory.give_back(owner, counted)


def _too_large(limit: int) -> BuildError:
    message = f"the body has more than {limit} bytes; upload the source"
    return BuildError("ArchiveTooLarge", message, where="body")
