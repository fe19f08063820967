"""Bytes of a pipe into lines. Nothing is lost: a last line without newline counts, a long line is split."""

from __future__ import annotations

LINE_LIMIT = 16 * 1024


class LineSplitter:
    """Feed it what was read; it gives back whole lines without their newline, none longer than `limit` bytes."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes, in order."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [piece for line in whole for piece in self._pieces(line)]
        while len(self._rest) > self._limit:
            lines.append(self._rest[: self._limit])
            self._rest = self._rest[self._limit :]
        return lines

    def close(self) -> list[bytes]:
        """What is left at the end of the file: the last line, when it had no newline."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []

    def _pieces(self, line: bytes) -> list[bytes]:
        if len(line) <= self._limit:
            return [line]
        return [line[start : start + self._limit] for start in range(0, len(line), self._limit)]
