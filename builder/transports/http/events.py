"""Log streams as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.streams import Line, LogStreams, Place, entry_json


def log_event(line: Line) -> bytes:
    """One line."""
    return f"id: {line['s']}\nevent: log\ndata: {entry_json(line)}\n\n".encode("ascii")


async def events(streams: LogStreams, place: Place) -> AsyncIterator[bytes]:
    """The body of a stream; many lines travel in one piece."""
    async for part in streams.stream(place):
        if part is None:
            yield b": keep-alive\n\n"
        elif isinstance(part, pb.LogEntry):
            # One more than the last line's: a reader that comes again with it had the end (`Place.is_over`).
            yield b"id: %d\nevent: eof\ndata: %s\n\n" % (part.sequence + 1, codec.dump(part))
        else:
            yield part
