"""Tokens of nodes that were forgotten: whoever calls with one is refused with that reason."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from builder.errors import BuildError
from builder.services.auth import Caller
from builder.store import membership
from builder.store.engine import Store

STALE_S = 2.0
"""How long a process may take a token for good that another one has revoked; RegisterNode looks anew each time."""
REMEMBERED = 10_000  # nodes


def forgotten(node_id: str) -> BuildError:
    """The answer to a node that was forgotten."""
    return BuildError("NodeForgotten", f'the node "{node_id[:80]}" was forgotten; its token is revoked', where="token")


@dataclass
class Revocations:
    """Which tokens of nodes are revoked, asked of the store at most every `STALE_S` for each node. Threads share it."""

    store: Store
    monotonic: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, str], tuple[float, bool]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, caller: Caller, named: str = "") -> None:
        """Raises `BuildError` NodeForgotten when the token may not act as its node, or as the one that the call names
        where the token names none."""
        node = caller.node or named
        if not node:
            return
        key, now = (node, caller.token_sha256), self.monotonic()
        with self._lock:
            at, revoked = self._known.get(key, (float("-inf"), False))
        if now - at >= STALE_S:
            revoked = membership.is_revoked(self.store, *key)
            with self._lock:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[key] = (now, revoked)
        if revoked:
            raise forgotten(node)
