"""The kept log lines. The public `sequence` (from 1, dense for each build) is given here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, insert, select, update

from builder.store.engine import Store
from builder.store.schema import builds, log_chunks
from builder.store.transitions import RUNNING

Line = dict[str, Any]
"""{"s": sequence, "t": ms, "p": phase, "o": stream, "l": text}"""


def append(
    store: Store, build_id: str, claim: int, first_index: int, lines: Sequence[Line]
) -> tuple[bool, int, list[Line]]:
    """Keep a batch: the fence, what is kept already, the next sequences, the chunk. One transaction.

    Returns (stale, kept until this index of the claim, the lines that are new with their sequences).
    """
    with store.transaction() as tx:
        same = and_(builds.c.build_id == build_id, builds.c.claim == claim, builds.c.status == RUNNING)
        query = select(builds).where(same)
        if tx.dialect.name != "sqlite":  # a batch sent twice may be here twice at once
            query = query.with_for_update()
        row = tx.execute(query).mappings().first()
        if row is None:
            return True, 0, []
        kept = row["claim_lines"]
        if first_index > kept:  # a gap would lose lines for ever: the owner sends again from `kept`
            return False, kept, []
        fresh = list(lines[kept - first_index :])
        numbered = _insert(tx, row, fresh)
        tx.execute(update(builds).where(same).values(claim_lines=kept + len(fresh)))
    return False, kept + len(fresh), numbered


def system(tx: Connection, now: int, row: RowMapping, text: str) -> None:
    """A line of the control side, inside the transaction that it tells of."""
    _insert(tx, row, [{"t": now, "p": row["phase"], "o": "SYSTEM", "l": text}])


def _insert(tx: Connection, row: RowMapping, lines: Sequence[Line]) -> list[Line]:
    if not lines:
        return []
    build_id = row["build_id"]
    last = tx.execute(select(builds.c.log_lines).where(builds.c.build_id == build_id)).scalar_one()
    numbered = [{**line, "s": last + index} for index, line in enumerate(lines, 1)]
    values = {"build_id": build_id, "first_sequence": last + 1, "count": len(numbered)}
    tx.execute(insert(log_chunks).values(**values, lines=json.dumps(numbered)))
    tx.execute(update(builds).where(builds.c.build_id == build_id).values(log_lines=last + len(numbered)))
    return numbered


def read(store: Store, build_id: str, after: int, limit: int = 2000) -> list[Line]:
    """Lines whose sequence is greater than `after`, in order, about `limit` of them."""
    end = log_chunks.c.first_sequence + log_chunks.c.count
    query = select(log_chunks.c.lines).where(log_chunks.c.build_id == build_id, end > after + 1)
    found: list[Line] = []
    with store.transaction() as tx:
        for text in tx.execute(query.order_by(log_chunks.c.first_sequence).limit(200)).scalars():
            found.extend(line for line in json.loads(text) if line["s"] > after)
            if len(found) >= limit:
                break
    return found
