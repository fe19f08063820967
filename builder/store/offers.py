"""What the dispatcher's marks are worth: hints that lie in their queue are kept, those that vanished forgotten."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import select, update

from builder.store.engine import Store
from builder.store.schema import builds
from builder.store.sweeps import OFFER_AGAIN_MS
from builder.store.transitions import PENDING

SETTLE_MS = 1_000  # between the mark and the list, and between the list and the claim, a hint is nowhere to be seen
LOOKED_AT = 1_000


def compare(store: Store, queue: str, listed: Collection[str]) -> int:
    """Compare the offers of a queue with the ids in its list. Returns how many vanished: they can be offered at once.

    A hint in the list is not offered again however long it lies there. One that is neither there nor claimed was lost,
    or its taker is slow: offered again at once the first time, then after the pauses of `offerable`.
    """
    with store.transaction() as tx:
        now = store.now(tx)
        query = select(builds.c.build_id, builds.c.offers).where(
            builds.c.status == PENDING,
            builds.c.queue == queue,
            builds.c.offered_at > 0,
            builds.c.offered_at <= now - SETTLE_MS,
        )
        rows = tx.execute(query.limit(LOOKED_AT)).all()
        here = [row.build_id for row in rows if row.build_id in listed]
        gone = [row.build_id for row in rows if row.build_id not in listed and row.offers == 1]
        kept = {"offered_at": now, "offer_from": now + OFFER_AGAIN_MS[0], "offers": 1}
        for ids, values in ((here, kept), (gone, {"offered_at": 0, "offer_from": now})):
            same = (builds.c.build_id.in_(ids), builds.c.status == PENDING)
            tx.execute(update(builds).where(*same).values(**values))
    return len(gone)
