"""Watch one started command to its end: lines, limits, time, cancel. Knows no sandbox, only a `Target`."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Protocol

from builder.sandbox.lines import LineSplitter
from builder.sandbox.shapes import OnLine, Stream

POLL_S = 0.05
READ = 64 * 1024
LINGER_S = 2.0
UNKILLABLE = 128 + signal.SIGKILL
DEATH_S = 10.0


class Target(Protocol):
    """What is watched. `kill` ends every process of it at once; `term` asks the command."""

    @property
    def ended_fd(self) -> int:
        """Readable once `poll` has an exit code (pidfd_open(2))."""
        ...

    def poll(self) -> int | None: ...

    def term(self) -> None: ...

    def kill(self) -> None: ...


Check = Callable[[], str | None]
"""Asked about twenty times a second; a reason ends the command."""


@dataclass
class Ending:
    """Why and when a command is being ended. `kill_at`: monotonic s; 0 while it may run."""

    reason: str | None = None
    kill_at: float = 0.0


@dataclass(kw_only=True)
class Supervision:
    """One command being watched. `gentle` reasons get TERM and `grace_s` first, others are killed."""

    target: Target
    pipes: Mapping[Stream, IO[bytes]]
    on_line: OnLine
    check: Check
    cancelled: Callable[[], bool]
    wall_s: float
    grace_s: float
    ending: Ending = field(default_factory=Ending)

    def run(self) -> int:
        """Read to the end of both pipes, then wait. Returns the exit code; `ending.reason` says what ended it."""
        deadline = time.monotonic() + self.wall_s
        splitters = {stream: LineSplitter() for stream in self.pipes}
        opened = len(self.pipes)
        gone_at = 0.0
        with selectors.DefaultSelector() as ready:
            for stream, pipe in self.pipes.items():
                os.set_blocking(pipe.fileno(), False)
                ready.register(pipe, selectors.EVENT_READ, stream)
            ready.register(self.target.ended_fd, selectors.EVENT_READ)
            next_check = time.monotonic() + POLL_S  # the first look at all processes is not free; a short step has none
            while True:
                for key, _ in ready.select(max(0.0, next_check - time.monotonic())):
                    if key.data is None:
                        ready.unregister(key.fileobj)  # the loop ends with its pipes
                    elif not self._read(key.fd, key.data, splitters[key.data]):
                        ready.unregister(key.fileobj)
                        opened -= 1
                code = self.target.poll()
                if code is not None and not opened:
                    return code
                now = time.monotonic()
                killed_at = self.ending.kill_at or (gone_at and gone_at + LINGER_S)
                if killed_at and now - killed_at > DEATH_S:
                    return code or UNKILLABLE  # whoever ends the target finds out and says so
                if code is not None:
                    # Whoever still holds a pipe is about to die with the namespace; help after two seconds.
                    gone_at = gone_at or now
                    if now - gone_at > LINGER_S:
                        self.target.kill()
                if now >= next_check:
                    next_check = now + POLL_S
                    self._judge(now, deadline)

    def _read(self, fd: int, stream: Stream, splitter: LineSplitter) -> bool:
        """Whether more may come."""
        try:
            data = os.read(fd, READ)
        except BlockingIOError:
            return True
        for line in splitter.feed(data) if data else splitter.close():
            self.on_line(stream, line)
        return bool(data)

    def _judge(self, now: float, deadline: float) -> None:
        ending = self.ending
        if ending.kill_at:
            if now >= ending.kill_at:
                self.target.kill()
            return
        if reason := self.check():
            ending.reason, ending.kill_at = reason, now
            self.target.kill()
        elif self.cancelled() or now >= deadline:
            ending.reason = "Timeout" if now >= deadline else "Cancelled"
            ending.kill_at = now + self.grace_s
            self.target.term()


def signal_of(exit_code: int) -> int | None:
    """The signal behind an exit code above 128, as shells and bubblewrap report it."""
    with contextlib.suppress(ValueError):
        if exit_code > 128:
            return int(signal.Signals(exit_code - 128))
    return None
