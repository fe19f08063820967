"""How much is queued."""

from __future__ import annotations

from sqlalchemy import func, select

from builder.store.engine import Store
from builder.store.schema import builds
from builder.store.transitions import PENDING


def lengths(store: Store) -> dict[str, int]:
    """Queue → builds that wait in it for a slot (attached ones wait for another build). Read from an index alone."""
    query = select(builds.c.queue, func.count()).where(builds.c.status == PENDING, builds.c.attached_to == "")
    with store.read() as tx:
        return {row[0]: int(row[1]) for row in tx.execute(query.group_by(builds.c.queue))}


def oldest_ms(store: Store) -> dict[str, int]:
    """Queue → ms since the oldest build that waits in it for a slot was queued; a backoff is no waiting."""
    query = select(builds.c.queue, func.min(builds.c.queued_at))
    query = query.where(builds.c.status == PENDING, builds.c.attached_to == "").group_by(builds.c.queue)
    with store.read() as tx:
        now = store.now(tx)
        return {row[0]: max(0, now - int(row[1])) for row in tx.execute(query)}
