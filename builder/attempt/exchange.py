"""The channel between a reader (`reading.py`) and its owner (`reader.py`): one message, one answer, within a budget."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from builder.attempt.reading import HEADER, NOTE_BYTES, Bounds, framed
from builder.errors import PlatformError
from builder.text import size as in_words
from builder.text import visible

LOOK_S = 0.05
"""Between two looks whether the attempt must stop. An answer wakes its owner at once."""
MOST_LOOK_S = 1.0
"""What one look counts at most."""
MOST_ANSWER = 16 * 1024 * 1024
"""Bytes of an answer."""

Check = Callable[[], None]
"""Called while its owner waits; it may raise to end it all."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What reading may cost. `cpu_ms`, `wall_ms` of one answer; `unpack_ms` of processor time; `memory` in bytes."""

    cpu_ms: int
    unpack_ms: int
    wall_ms: int
    memory: int


class OverBudget(Exception):
    """A reader was ended, or gave up. `what`: a verb phrase ("took more than …"); `where`: the file it read, or ""."""

    def __init__(self, what: str, where: str, limit: int = 0) -> None:
        super().__init__(what)
        self.what, self.where, self.limit = what, where, limit


class Exchange:
    """Messages over the channel to a reader."""

    def __init__(
        self, channel: socket.socket, note: int, budget: Budget, check: Check, ended: Callable[[], int]
    ) -> None:
        self._channel, self._note, self._budget, self._check, self._ended = channel, note, budget, check, ended
        self._waited = 0.0

    def ask(self, message: bytes, bounds: Bounds) -> dict[str, Any]:
        """Send a message and wait for its answer.

        Raises what `check` raises, `OverBudget`, and `PlatformError` Internal where the reader ended by itself.
        """
        self._waited = 0.0
        rest = memoryview(framed(message))
        while rest:
            self._wait(select.POLLOUT)
            try:
                rest = rest[self._channel.send(rest) :]
            except OSError:
                self._judge_end(bounds)
        size = HEADER.unpack(self._received(HEADER.size, bounds))[0]
        if size > MOST_ANSWER:
            raise OverBudget(f"makes an answer of {in_words(size)}, limit {in_words(MOST_ANSWER)}", self.where())
        answer: dict[str, Any] = json.loads(self._received(size, bounds))
        return answer

    def _received(self, size: int, bounds: Bounds) -> bytes:
        """So many bytes of the answer."""
        data = bytearray()
        while len(data) < size:
            self._wait(select.POLLIN)
            try:
                part = self._channel.recv(min(size - len(data), 1 << 20))
            except OSError:
                part = b""
            if not part:
                self._judge_end(bounds)
            data += part
        return bytes(data)

    def _wait(self, event: int) -> None:
        """Until the channel is ready. Looks after the attempt and the time meanwhile.

        Time in which this process did not run (its machine was suspended) counts for nobody.
        """
        poll = select.poll()
        poll.register(self._channel, event)
        while True:
            began = time.monotonic()
            if poll.poll(LOOK_S * 1000):
                return
            self._check()
            self._waited += min(time.monotonic() - began, MOST_LOOK_S)
            if self._waited * 1000 > (wall_ms := self._budget.wall_ms):
                raise OverBudget(f"took more than {_seconds(wall_ms)}", self.where(), wall_ms)

    def _judge_end(self, bounds: Bounds) -> NoReturn:
        """A reader ended without an answer."""
        status = self._ended()
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if number == signal.SIGXCPU:
            cpu_ms = int(bounds.cpu_s * 1000)
            raise OverBudget(f"took more than {_seconds(cpu_ms)} of processor time", self.where(), cpu_ms)
        if number == signal.SIGXFSZ:
            raise OverBudget(f"wrote a file of more than {in_words(bounds.file)}", self.where(), bounds.file)
        ended = signal.Signals(number).name if number else f"exit status {os.waitstatus_to_exitcode(status)}"
        at = f", at {self.where()}" if self.where() else ""
        raise PlatformError("Internal", f"the process that reads the source ended by itself ({ended}){at}")

    def where(self) -> str:
        """The file that the reader read last."""
        return visible(os.pread(self._note, NOTE_BYTES, 0).rstrip(b"\0").decode("utf-8", "replace"), limit=200)


def _seconds(ms: int) -> str:
    return f"{ms / 1000:g} s"
