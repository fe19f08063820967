"""What runs in the transaction that ends a build, in this order. One that raises undoes the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from builder.store import outbox

Listener = Callable[[Connection, int, Mapping[Any, Any], Mapping[Any, Any]], None]
"""(transaction, the store's time, the build before, the build after); the build's row is already written."""

LISTENERS: tuple[Listener, ...] = (outbox.report,)
