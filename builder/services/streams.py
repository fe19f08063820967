"""`StreamBuildLogs`: where a stream begins, its pages, its end. A page is read and encoded once for all its readers.

A reader at the edge of a log is served from the page that the process just read. One that cannot keep up, or begins
far behind, is served from pages of the store. Nothing is buffered for a reader but the page it is sending.
"""

from __future__ import annotations

import asyncio
import bisect
import functools
import json.encoder
import time
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import anyio
import anyio.to_thread

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.auth import Caller, require
from builder.services.errors import not_found
from builder.services.parts import Parts, find_build
from builder.services.records import shown
from builder.services.shares import Share
from builder.services.tails import Feed, Tails
from builder.store import builds, logs
from builder.store.transitions import TERMINAL

PAGE_LINES = 1000
"""Lines of one read."""
PAGE_BYTES = 256 * 1024
"""Encoded bytes of a page, unless its one line has more: what a reader that stalls holds."""
CACHED_BYTES = 16 * 1024 * 1024
KEEP_ALIVE_S = 15.0  # proxies and clients cut a connection that is silent for 30 s or 60 s
EDGE_THREADS = 2
HISTORY_THREADS = 2

Line = logs.Line
Encode = Callable[[Line], bytes]
"""A stored line as the transport sends it."""
EncodeEnd = Callable[[pb.LogEntry], bytes]
"""The same of the entry with `eof`."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a stream is: the build, the last sequence that its reader has, how many lines the log had.

    `is_over`: the id that its reader had last is behind all lines of a log that has ended.
    """

    build_id: str
    after: int
    log_lines: int
    is_over: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """Consecutive encoded lines `first` … `last`; `ends` has the offset behind each. `eof`: the encoded entry, behind
    which nothing follows."""

    first: int
    last: int
    data: bytes
    ends: array[int]
    eof: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it keeps: a short log is smaller than the record at its end."""
        return len(self.data) + len(self.eof)

    def behind(self, after: int) -> bytes:
        """The lines after a sequence."""
        skipped = after - self.first + 1
        return self.data[self.ends[skipped - 1] :] if skipped > 0 else self.data


class Pages:
    """The encoded pages of this process, bounded in bytes; the least recently used go first. For the event loop."""

    def __init__(self, budget: int = CACHED_BYTES) -> None:
        self._budget = budget
        self._pages: OrderedDict[tuple[str, int], Page] = OrderedDict()
        self._firsts: dict[str, list[int]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    def find(self, build_id: str, after: int) -> Page | None:
        """The page that holds the line behind `after`."""
        firsts = self._firsts.get(build_id, [])
        index = bisect.bisect_right(firsts, after + 1) - 1
        page = self._pages[build_id, firsts[index]] if index >= 0 else None
        if page is None or page.last <= after:
            return None
        self._pages.move_to_end((build_id, page.first))
        return page

    def put(self, build_id: str, page: Page) -> None:
        """Keep a page with lines."""
        self._remove(build_id, page.first)
        self._pages[build_id, page.first] = page
        bisect.insort(self._firsts.setdefault(build_id, []), page.first)
        self.bytes += page.size
        while self.bytes > self._budget and len(self._pages) > 1:
            self._remove(*next(iter(self._pages)))

    def forget(self, build_id: str) -> None:
        """Drop the pages of a build that nobody follows."""
        for first in tuple(self._firsts.get(build_id, ())):
            self._remove(build_id, first)

    def _remove(self, build_id: str, first: int) -> None:
        page = self._pages.pop((build_id, first), None)
        if page is None:
            return
        self.bytes -= page.size
        firsts = self._firsts[build_id]
        firsts.remove(first)
        if not firsts:
            del self._firsts[build_id]


class LogStreams:
    """The streaming half of `BuildService` that answers; one for each process and encoding. `share`: of open streams,
    which a transport counts from before `open` to the end."""

    def __init__(self, parts: Parts, tails: Tails, encode: Encode, encode_end: EncodeEnd) -> None:
        self._parts, self._tails, self._encode, self._encode_end = parts, tails, encode, encode_end
        self.pages = Pages()
        self.share = Share("log streams", parts.settings.log_streams)
        self._filling: dict[tuple[str, int, int], asyncio.Future[Page]] = {}
        # Own threads: heartbeats and claims must not wait for tails, nor the edge of a log for who reads history.
        self._edge = anyio.CapacityLimiter(EDGE_THREADS)
        self._history = anyio.CapacityLimiter(HISTORY_THREADS)

    async def open(self, caller: Caller, request: pb.StreamBuildLogsRequest, last_event_id: str = "") -> Place:
        """Where the stream begins: behind the last event that its reader has; else from a sequence, the start, or now.

        Raises `CallRefused`, `BuildError` and `Malformed`.
        """
        require(caller, "read")
        after = _after(request, last_event_id)
        row = await anyio.to_thread.run_sync(find_build, self._parts, caller, request.build_id, limiter=self._edge)
        lines = row["log_lines"]
        return Place(
            build_id=row["build_id"],
            after=lines if after is None else after,
            log_lines=lines,
            is_over=bool(last_event_id) and row["status"] in TERMINAL and after is not None and after > lines,
        )

    async def stream(self, place: Place) -> AsyncIterator[bytes | None]:
        """Each sequence once, in order, as encoded lines; then the entry with `eof`. None: nothing for a while.

        Without `eof` the stream is not at its end: this process stops, and another one goes on.
        """
        after, spoke = place.after, time.monotonic()
        with self._tails.follow(place.build_id) as feed:
            feed.edge = max(feed.edge, place.log_lines)
            try:
                while not self._tails.ended:
                    seen = feed.generation
                    page = await self._page(feed, place, after)
                    if page.last > after:
                        yield page.behind(after)
                        after, spoke = page.last, time.monotonic()
                    if page.eof:
                        yield page.eof
                        return
                    if page.last <= after and time.monotonic() - spoke >= KEEP_ALIVE_S:
                        yield None
                        spoke = time.monotonic()
                    if after >= feed.edge and feed.read >= seen:
                        await feed.changed(seen)
            finally:
                if feed.readers == 1:
                    self.pages.forget(place.build_id)

    async def _page(self, feed: Feed, place: Place, after: int) -> Page:
        """The page behind a sequence, which may be empty: of the cache, or read once for all who wait for it."""
        page = self.pages.find(place.build_id, after)
        if page is not None:
            return page
        # A read that began before the last wake-up may have missed what that was about; so may one that has ended. And
        # what has ended is awaited without a pause: a reader that asks again and again would never let the loop go on.
        key = (place.build_id, after, feed.generation)
        filling = self._filling.get(key)
        if filling is None or filling.done():
            filling = self._filling[key] = asyncio.ensure_future(self._fill(feed, place, after))
            filling.add_done_callback(lambda done: self._filled(key, done))
        return await asyncio.shield(filling)  # a reader that leaves does not take the page from the others

    def _filled(self, key: tuple[str, int, int], done: asyncio.Future[Page]) -> None:
        if self._filling.get(key) is done:
            del self._filling[key]
        if not done.cancelled():
            done.exception()  # every reader that waited raises it; without one it is of no interest

    async def _fill(self, feed: Feed, place: Place, after: int) -> Page:
        generation, limiter = feed.generation, self._edge if after >= feed.edge else self._history
        read = functools.partial(self._read, place.build_id, after)
        pages, log_lines = await anyio.to_thread.run_sync(read, limiter=limiter)
        for page in reversed(pages):  # the first is the next one that is asked for, so it is evicted last
            if page.last >= page.first and feed.readers:
                self.pages.put(place.build_id, page)
        feed.edge = max(feed.edge, pages[-1].last, log_lines)
        if pages[-1].last >= log_lines:
            feed.read = max(feed.read, generation)
        return pages[0]

    def _read(self, build_id: str, after: int) -> tuple[list[Page], int]:
        """In a thread: the pages of one read, one at least, and the number of lines. The record is read first: a final
        one counts all there are."""
        found = logs.read_on(self._parts.store, build_id, after, PAGE_LINES)
        if found is None:
            raise not_found(f"there is no build {build_id} any more")
        lines, status, log_lines = found
        last = lines[-1]["s"] if lines else after
        eof = b""
        if status in TERMINAL and (last >= log_lines or not lines):  # lines of an old build may be gone
            # Not `last`: a reader that asks for what comes after a sequence that never was must not hear that it was.
            end = pb.LogEntry(sequence=log_lines, eof=True, status=pb.BuildStatus.Value("BUILD_STATUS_" + status))
            if (row := builds.by_id(self._parts.store, build_id)) is not None:
                end.build.CopyFrom(shown(row))
            eof = self._encode_end(end)
        parts = [self._encode(line) for line in lines]
        return _pages(parts, [line["s"] for line in lines] or [after], after, eof), log_lines


def _pages(parts: Sequence[bytes], lasts: Sequence[int], after: int, eof: bytes) -> list[Page]:
    """Encoded lines with their sequences as pages of `PAGE_BYTES`, one at least; the last one has the end."""
    pages: list[Page] = []
    start, size = 0, 0
    for index, part in enumerate(parts):
        if size and size + len(part) > PAGE_BYTES:
            pages.append(_page(parts[start:index], after, lasts[index - 1], b""))
            start, size, after = index, 0, lasts[index - 1]
        size += len(part)
    return [*pages, _page(parts[start:], after, lasts[-1], eof)]


def _page(parts: Sequence[bytes], after: int, last: int, eof: bytes) -> Page:
    ends = array("I", accumulate(map(len, parts)))
    return Page(first=after + 1, last=last, data=b"".join(parts), ends=ends, eof=eof)


def entry_json(line: Line) -> str:
    """The `LogEntry` of a stored line as `codec.dump` writes it, without the message: this runs for every line."""
    parts = []
    if line["t"]:
        parts.append(f'"timestampMs":"{line["t"]}"')
    parts.append(f'"sequence":"{line["s"]}"')
    if line["p"]:
        parts.append(f'"phase":"BUILD_PHASE_{line["p"]}"')
    parts.append(f'"stream":"LOG_STREAM_{line["o"]}"')
    if line["l"]:
        parts.append(f'"line":{_quoted(line["l"])}')
    return "{" + ",".join(parts) + "}"


_quoted: Callable[[str], str] = json.encoder.encode_basestring_ascii


def _after(request: pb.StreamBuildLogsRequest, last_event_id: str) -> int | None:
    """The last sequence that the reader has; None: it wants only what comes from now on."""
    if last_event_id:
        return codec.number(last_event_id, "Last-Event-ID")
    if request.HasField("from_sequence"):
        if request.from_sequence < 0:
            raise codec.Malformed(f"fromSequence takes 0 or more, not {request.from_sequence}", "fromSequence")
        return max(0, request.from_sequence - 1)
    return 0 if request.from_start else None
