"""What each organization has open in this process: one that has its share opens no more, whatever the others do."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from builder.services.errors import QuotaExceeded

RETRY_AFTER_S = 5


@dataclass
class Share:
    """At most `limit` of something at once for each organization. Threads share it."""

    what: str
    limit: int
    _open: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, organization: str) -> None:
        """Count one more, until `give_back`. Raises `QuotaExceeded`."""
        with self._lock:
            if self._open[organization] >= self.limit:
                message = f'"{organization}" has {self.limit} {self.what} open, which is all it may have at once'
                raise QuotaExceeded(message, RETRY_AFTER_S)
            self._open[organization] += 1

    def give_back(self, organization: str) -> None:
        """One has ended."""
        with self._lock:
            self._open[organization] -= 1
            if not self._open[organization]:
                del self._open[organization]

    @contextmanager
    def one(self, organization: str) -> Iterator[None]:
        """Count one more meanwhile."""
        self.take(organization)
        try:
            yield
        finally:
            self.give_back(organization)


@dataclass
class Memory:
    """The bytes of bodies that a process has in memory: `limit` of all, a quarter of it for each owner.

    What an owner has alone is never refused here, so that the largest single call always passes.
    """

    limit: int
    _of: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        """The bytes that count now."""
        return self._of.total()

    def take(self, owner: str, size: int, has: int = 0) -> None:
        """Count so many bytes more for a call that `has` some already. Raises `QuotaExceeded`."""
        with self._lock:
            others = self._of[owner] - has
            if others and self._of[owner] + size > self.limit // 4:
                message = "the calls of yours that are being read are as large as they may be at once"
                raise QuotaExceeded(message, RETRY_AFTER_S)
            if self._of.total() > has and self._of.total() + size > self.limit:
                raise QuotaExceeded("the server reads as much at once as it may", RETRY_AFTER_S)
            self._of[owner] += size

    def give_back(self, owner: str, size: int) -> None:
        """They are gone."""
        with self._lock:
            self._of[owner] -= size
            if not self._of[owner]:
                del self._of[owner]
