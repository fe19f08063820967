"""What a caller with time does: repeat what may be repeated, resume a log where it broke.

Every wait goes through `Clock`, the wire through an httpx transport, so unit tests open no socket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from google.protobuf.message import Message

from builder.client.api import Api, ApiError, ApiUnreachable, StreamIdle
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb

PATIENCE_S = 600.0
LONGEST_WAIT_S = 30.0
FIRST_CONTACT_TRIES = 3


class Clock(Protocol):
    """Seconds, and waiting for some."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The steady clock of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Watcher(Protocol):
    """Receives the events of the connection. `after` is the last line that arrived."""

    def lost(self, seconds: int, after: int) -> None: ...

    def back(self, after: int) -> None: ...

    def called(self, method: str, path: str, status: int, took_ms: int) -> None: ...


class NullWatcher:
    """Ignores the events of the connection."""

    def lost(self, seconds: int, after: int) -> None:
        return

    def back(self, after: int) -> None:
        return

    def called(self, method: str, path: str, status: int, took_ms: int) -> None:
        return


class OutOfPatience(Exception):
    """The server is away for good. `reached`: it was there once; `after`: the last line of a log that arrived;
    `is_mistake` as of `ApiUnreachable`."""

    def __init__(self, why: str, *, reached: bool, after: int, is_mistake: bool = False) -> None:
        super().__init__(why)
        self.reached, self.after, self.is_mistake = reached, after, is_mistake


class PatientApi:
    """Repeats the calls of an `Api`. Raises `ApiError`, where there is no build yet also for a 429 that stays, and
    `OutOfPatience`.

    Until the first answer three tries are made (a wrong URL shows in seconds); afterwards ten minutes of them.
    """

    def __init__(self, api: Api, clock: Clock, watcher: Watcher) -> None:
        self._api, self._clock, self._watcher = api, clock, watcher

    def call(self, name: str, request: Message, *, known: bool = False) -> Any:
        """A unary call that carries its own key against doubling. About a build that is `known` to exist it is
        repeated even when the server has an error of its own."""
        tries, since = 0, self._clock.now()
        while True:
            try:
                return self._api.call(name, request, repeatable=known)
            except ApiUnreachable as error:
                self._wait(error, tries, since, 0, None if known else error.refusal)
                tries += 1

    def upload(self, chunks: Callable[[], Iterable[bytes]]) -> pb.UploadBuildContextResponse:
        """A source, sent anew while the caller has as many uploads open as it may. A broken one is not repeated: it
        creates no build."""
        tries, since = 0, self._clock.now()
        while True:
            try:
                return self._api.upload(chunks())
            except ApiUnreachable as error:
                if not error.is_quota:
                    raise
                self._wait(error, tries, since, 0, error.refusal)
                tries += 1

    def follow(self, build_id: str, after: int = 0) -> Iterator[pb.LogEntry]:
        """Every log line after sequence `after`, each once and in order, then the entry with `eof`."""
        last, tries, since, broke = after, 0, self._clock.now(), False
        while True:
            try:
                for entry in self._api.log(build_id, last):
                    if broke:
                        self._watcher.back(last)
                    tries, broke = 0, False
                    if entry.eof:
                        yield entry
                        return
                    if entry.sequence <= last:
                        continue  # a server that replays too much
                    last = entry.sequence
                    yield entry
                why = ApiUnreachable("the stream ended early")
            except StreamIdle:
                continue
            except ApiUnreachable as error:
                why = error
            since = self._clock.now() if not broke else since
            broke = True
            self._wait(why, tries, since, last)
            tries += 1

    def _wait(self, why: ApiUnreachable, tries: int, since: float, after: int, refusal: ApiError | None = None) -> None:
        """Wait 1, 2, 4 … 30 s, or as long as the server asks; raises the refusal, or `OutOfPatience`, in the end."""
        wait = min(max(2.0**tries, why.wait_s), LONGEST_WAIT_S)
        over = self._clock.now() + wait - since > PATIENCE_S
        if over or (not self._api.answered and tries + 1 >= FIRST_CONTACT_TRIES):
            if refusal is not None:
                raise refusal
            raise OutOfPatience(str(why), reached=self._api.answered, after=after, is_mistake=why.is_mistake)
        self._watcher.lost(round(wait), after)
        self._clock.sleep(wait)
