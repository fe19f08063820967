"""Log streams as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.streams import Line, LogStreams, Place, entry_json


def log_event(line: Line) -> bytes:
    """One line."""
    return f"id: {line['s']}\nevent: log\ndata: {entry_json(line)}\n\n".encode("ascii")


def end_event(entry: pb.LogEntry) -> bytes:
    """The entry with `eof`. Its id is one more than the last line's: a reader that comes again with it had the end
    (`Place.is_over`)."""
    return b"id: %d\nevent: eof\ndata: %s\n\n" % (entry.sequence + 1, codec.dump(entry))


async def events(streams: LogStreams, place: Place) -> AsyncIterator[bytes]:
    """The body of a stream; many lines travel in one piece."""
    async for part in streams.stream(place):
        yield b": keep-alive\n\n" if part is None else part
