"""Server-sent events, as a log stream has them (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LINE_LIMIT = 8 * 1024 * 1024


class LineTooLong(Exception):
    """A stream that has no end of line for `LINE_LIMIT` bytes."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event."""

    name: str
    data: str
    id: str = ""


def events(lines: Iterable[str]) -> Iterator[Event]:
    """Events of a stream of lines; comments and unknown fields are skipped, an unfinished last event is dropped."""
    name, id_ = "", ""
    data: list[str] = []
    for line in lines:
        if not line:
            if data or name:
                yield Event(name=name or "message", data="\n".join(data), id=id_)
            name, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id":
            id_ = value


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Lines of a byte stream. Not httpx's `iter_lines`: it also splits at U+2028, which a log line may hold."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > LINE_LIMIT:
            raise LineTooLong("a line of the stream is longer than 8 MiB")
        for line in whole:
            yield line.removesuffix(b"\r").decode("utf-8", "replace")
