"""The connections of the server: how many there may be, and how long each may let us wait. Pure but for their closing.

Whoever is not in the middle of a request owes us something: a head, or the rest of a body that was refused. Such a
connection has a time, which no byte of it renews, and makes room when a new one comes while all places are taken. So
no client without a token keeps another one out; one with a token has the shares of its organization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

MOST = 4096
"""Connections of one process. No setting: an operator who wants fewer lowers the hard limit of descriptors (`places`),
and where more are needed another control process has as many of its own."""
RESERVED = 256
"""Descriptors that are not for connections: the store, Redis, sources that are read, uploads."""
LEAST = 64
HEAD_S = 30.0
"""From the opening of a connection, or the end of an answer, to the end of the next head."""
REST_S = 300.0
"""The same for one that still sends the body of a call that was refused: who is reset there may not see the answer."""
LEAVING_S = 2.0
"""How long one that is refused may take to read why."""
STALL_S = 60.0
"""How long a client may take nothing of what is sent to it."""


class Connection(Protocol):
    """One of them, as its protocol shows it."""

    def is_waiting(self) -> bool:
        """Whether no request of it is under way."""

    def is_sending(self) -> bool:
        """Whether it still sends the body of a request that is answered."""

    def unsent(self) -> int:
        """Bytes that its client has not taken yet."""

    def too_slow(self) -> None:
        """Say that the head came too slowly, and close."""

    def abort(self) -> None:
        """Close at once; what is unsent goes."""


def places(descriptors: int) -> int:
    """How many connections a process with so many descriptors may have; -1 descriptors is no limit."""
    return MOST if descriptors < 0 else min(MOST, max(LEAST, descriptors - RESERVED))


@dataclass
class _Seen:
    waiting_since: float
    unsent: int = 0
    stalled_since: float = 0.0


class Connections:
    """Those that are open, the one that waited longest first. Times are seconds of one monotonic clock."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._seen: dict[Connection, _Seen] = {}
        self._leaving: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def opened(self, connection: Connection, now: float) -> bool:
        """Count a new one. False: all places are taken by requests that are under way, and it is to be refused."""
        if len(self._seen) >= self.most and not self._make_room():
            return False
        self._seen[connection] = _Seen(waiting_since=now)
        return True

    def refused(self, connection: Connection, now: float) -> bool:
        """Let one that was refused read why. False: too many do, and it is to be closed at once."""
        if len(self._leaving) >= LEAST:
            return False
        self._leaving[connection] = now
        return True

    def answered(self, connection: Connection, now: float) -> None:
        """An answer has ended: the time for the next head begins."""
        if self._seen.pop(connection, None):
            self._seen[connection] = _Seen(waiting_since=now)

    def closed(self, connection: Connection) -> None:
        """It is gone."""
        self._seen.pop(connection, None)
        self._leaving.pop(connection, None)

    def look(self, now: float) -> None:
        """Close those that let us wait too long."""
        for connection, seen in list(self._seen.items()):
            unsent = connection.unsent()
            if not unsent or unsent != seen.unsent:
                seen.unsent, seen.stalled_since = unsent, now
            elif now - seen.stalled_since >= STALL_S:
                self._drop(connection)
                continue
            patience = REST_S if connection.is_sending() else HEAD_S
            if connection.is_waiting() and now - seen.waiting_since >= patience and not unsent:
                connection.too_slow()
        for connection, since in list(self._leaving.items()):
            if now - since >= LEAVING_S:
                self._drop(connection)

    def _make_room(self) -> bool:
        oldest = next((each for each in self._seen if each.is_waiting()), None)
        if oldest is None:
            return False
        self._drop(oldest)
        return True

    def _drop(self, connection: Connection) -> None:
        self.closed(connection)
        connection.abort()
