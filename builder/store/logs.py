"""The kept log lines. The public `sequence` (from 1, dense for each build) is given here and nowhere else.

A log takes up `log_limit` bytes over all claims of its build. What is beyond nine tenths of it is held back without a
sequence, and of that only the last tenth, which follows when the build ends: one marker stands for the rest.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, and_, delete, func, insert, select, update

from builder.store.engine import Store
from builder.store.schema import builds, held_lines, log_chunks
from builder.store.transitions import RUNNING

Line = dict[str, Any]
"""{"s": sequence, "t": ms, "p": phase, "o": stream, "l": text}"""

TAIL = 10  # a tenth of the limit is for the last lines
LINE_OVERHEAD = 64  # what a held line costs beside its text, so that empty lines are bounded as well
CHUNK = 500  # lines, when the held ones follow


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
        numbered = _keep(tx, build_id, fresh)
        tx.execute(update(builds).where(same).values(claim_lines=kept + len(fresh)))
    return False, kept + len(fresh), numbered


def system(tx: Connection, now: int, row: RowMapping, text: str) -> None:
    """A line of the control side, inside the transaction that it tells of."""
    _keep(tx, row["build_id"], [_line_of(now, row, text)])


def final(tx: Connection, now: int, row: RowMapping, text: str) -> None:
    """The last line of a build, in the transaction that ends it, after the lines that were held back."""
    build_id = row["build_id"]
    query = select(held_lines.c.lines).where(held_lines.c.build_id == build_id).order_by(held_lines.c.number)
    held = [line for chunk in tx.execute(query).scalars() for line in json.loads(chunk)]
    if held:
        tx.execute(delete(held_lines).where(held_lines.c.build_id == build_id))
    held.append(_line_of(now, row, text))
    for start in range(0, len(held), CHUNK):
        _insert(tx, build_id, held[start : start + CHUNK])


def _line_of(now: int, row: RowMapping, text: str) -> Line:
    return {"t": now, "p": row["phase"], "o": "SYSTEM", "l": text}


def _keep(tx: Connection, build_id: str, lines: Sequence[Line]) -> list[Line]:
    """Number and keep what is within the limit, hold back what is beyond. Its cost does not grow with the log."""
    if not lines:
        return []
    columns = (builds.c.log_limit, builds.c.log_bytes, builds.c.held_bytes, builds.c.log_cut)
    query = select(*columns).where(builds.c.build_id == build_id)
    if tx.dialect.name != "sqlite":  # whoever writes lines, the next sequence is given to one at a time
        query = query.with_for_update()
    limit, written, held, cut = tx.execute(query).one()
    within = 0
    if not held:  # from the first line held back on, all are: their order stays
        for line in lines:
            if written + _size(line) > limit - limit // TAIL:
                break
            written += _size(line)
            within += 1
    numbered = _insert(tx, build_id, lines[:within])
    values = {"log_bytes": written}
    if beyond := lines[within:]:
        held, dropped = _hold(tx, build_id, beyond, held, limit // TAIL)
        if dropped and not cut:
            text = f"... the log reached its limit of {limit} bytes; its last lines follow when the build ends ..."
            numbered += _insert(tx, build_id, [{**beyond[0], "o": "SYSTEM", "l": text}])
        values |= {"held_bytes": held, "log_cut": cut or dropped}
    tx.execute(update(builds).where(builds.c.build_id == build_id).values(**values))
    return numbered


def _size(line: Line) -> int:
    return len(line["l"].encode())


def _hold(tx: Connection, build_id: str, lines: Sequence[Line], held: int, room: int) -> tuple[int, bool]:
    """Hold lines back, in place of the oldest held ones. Returns (bytes held now, whether lines were dropped)."""
    sizes = [_size(line) + LINE_OVERHEAD for line in lines]
    start, total = 0, sum(sizes)
    while total > room and start < len(lines) - 1:  # the very last line stays, whatever its size
        total -= sizes[start]
        start += 1
    mine = held_lines.c.build_id == build_id
    newest = tx.execute(select(func.max(held_lines.c.number)).where(mine)).scalar() or 0
    gone = 0
    oldest = select(held_lines.c.number, held_lines.c.bytes).where(mine).order_by(held_lines.c.number).limit(100)
    while held and held + total > room:
        for number, size in tx.execute(oldest.where(held_lines.c.number > gone)):
            held, gone = held - size, number
            if held + total <= room:
                break
    if gone:
        tx.execute(delete(held_lines).where(mine, held_lines.c.number <= gone))
    values = {"build_id": build_id, "number": newest + 1, "bytes": total, "lines": json.dumps(lines[start:])}
    tx.execute(insert(held_lines).values(**values))
    return held + total, bool(start or gone)


def _insert(tx: Connection, build_id: str, lines: Sequence[Line]) -> list[Line]:
    if not lines:
        return []
    last = tx.execute(select(builds.c.log_lines).where(builds.c.build_id == build_id)).scalar_one()
    numbered = [{**line, "s": last + index} for index, line in enumerate(lines, 1)]
    values = {"build_id": build_id, "first_sequence": last + 1, "count": len(numbered)}
    tx.execute(insert(log_chunks).values(**values, lines=json.dumps(numbered)))
    tx.execute(update(builds).where(builds.c.build_id == build_id).values(log_lines=last + len(numbered)))
    return numbered


def read(store: Store, build_id: str, after: int, limit: int = 2000) -> list[Line]:
    """Lines whose sequence is greater than `after`, in order, about `limit` of them."""
    mine, first = log_chunks.c.build_id == build_id, log_chunks.c.first_sequence
    # The chunk that holds the next line; from it on. Without it a tail would read the whole log again each time.
    here = select(func.max(first)).where(mine, first <= after + 1).scalar_subquery()
    query = select(log_chunks.c.lines).where(mine, first >= func.coalesce(here, 0)).order_by(first)
    found: list[Line] = []
    with store.transaction() as tx:
        for text in tx.execute(query.limit(200)).scalars():
            found.extend(line for line in json.loads(text) if line["s"] > after)
            if len(found) >= limit:
                break
    return found
