"""The stored log lines. The public `sequence` (from 1, dense for each build) is assigned here and nowhere else.

A log takes up `log_limit` bytes over all claims of its build; a line counts as 64 of them at least. What is beyond nine
tenths of it is held back without a sequence, and of that only the last tenth, which follows when the build ends: one
marker stands for the rest.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Update,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningDelete

from builder.store.engine import Store
from builder.store.schema import builds, held_lines, log_chunks
from builder.store.transitions import JOB, OWNED, RUNNING, furthest
from builder.text import log_line

Line = dict[str, Any]
"""{"s": sequence, "t": ms, "p": phase, "o": stream, "l": text}"""

Counters = Mapping[Any, Any]
"""A locked build, or what of it a line needs: `_COUNTERS`."""
Columns = dict[str, Any]
"""Columns of the build that the caller writes with its own, in one UPDATE."""
_COUNTERS = (
    builds.c.build_id, builds.c.claim_lines, builds.c.log_lines, builds.c.log_limit, builds.c.log_bytes,
    builds.c.held_bytes, builds.c.log_cut, builds.c.phase, builds.c.cursors, builds.c.stage,
)  # fmt: skip

TAIL = 10  # a tenth of the limit is for the last lines
LINE_OVERHEAD = 64
"""What a held line costs beside its text, and what a kept one counts at least: empty lines are bounded as well."""
CHUNK = 500  # lines, when the held ones follow
MOST_CURSORS = 64  # containers of one Job
Position = tuple[int, int, int]
"""Where a reader of a container's log stands: (since, lines, newest_ns) of `LogCursor`."""
EVICTED = 100  # held batches that one statement deletes


def append(
    store: Store,
    build_id: str,
    claim: int,
    first_index: int,
    lines: Sequence[Line],
    node: str = "",
    cursors: Mapping[str, Position] | None = None,
    stages: Collection[str] = OWNED,
) -> tuple[bool, int, list[Line]]:
    """Keep a batch: the fence, what is kept already, the next sequences, the chunk. One transaction.

    The record's phase follows the lines, in the UPDATE that counts them. `cursors`: container of a Job → where a
    reader of its log stands behind these lines; stored in that UPDATE, too, so that an adopter neither misses a line
    nor gets one twice. Only a watcher has any, of `MOST_CURSORS` containers in all. `stages`: those that the caller may
    write in.
    Returns (stale, kept until this index of the claim, the lines that are new with their sequences).
    """
    same = {"same_build_id": build_id, "same_claim": claim, "same_stages": tuple(stages), "same_node": node}
    lines = cleaned(lines)  # before the lock
    with store.transaction() as tx:
        query = _counters(bool(node))
        if tx.dialect.name != "sqlite":  # a batch sent twice may be here twice at once
            query = query.with_for_update()
        row = tx.execute(query, same).mappings().first()
        if row is None:
            return True, 0, []
        numbered, columns = batch(tx, row, first_index, lines)
        if not columns:
            return False, row["claim_lines"], []
        if cursors and row["stage"] == JOB:
            known = {**json.loads(row["cursors"] or "{}"), **cursors}
            columns["cursors"] = json.dumps(dict(list(known.items())[:MOST_CURSORS]))
        new = {f"new_{name}": value for name, value in columns.items()}
        tx.execute(_counted(bool(node), tuple(sorted(columns))), {**same, **new})
    return False, columns["claim_lines"], numbered


def cleaned(lines: Sequence[Line]) -> list[Line]:
    """Lines as they may enter the store: a node is not trusted to send none with controls of a terminal."""
    return [{**line, "l": log_line(line["l"])} for line in lines]


def batch(tx: Connection, row: Counters, first_index: int, lines: Sequence[Line]) -> tuple[list[Line], Columns]:
    """Keep what is new of a batch of a claim's lines. `row` is locked, behind the fence of the claim.

    Returns (the lines that are new with their sequences, the columns that the caller writes); nothing, when none is
    new or the batch begins behind what is kept: a gap would lose lines for ever, and the owner sends them again.
    """
    kept = row["claim_lines"]
    if first_index > kept:
        return [], {}
    fresh = list(lines[kept - first_index :])
    if not fresh:
        return [], {}
    numbered, columns = _keep(tx, row, fresh)
    phase = furthest(row["phase"], {one["p"] for one in fresh})
    return numbered, {**columns, "phase": phase, "claim_lines": kept + len(fresh)}


def lacks(row: Counters, count: int, first_index: int, lines: Sequence[Line]) -> bool:
    """Whether of the `count` lines of a claim some are neither kept nor in this batch of it."""
    last = first_index + len(lines) if first_index <= row["claim_lines"] else 0
    return bool(max(row["claim_lines"], last) < count)


def _owned(by_node: bool) -> ColumnElement[bool]:
    """The condition of a build whose owner writes lines; `by_node`: its claim was granted to this node, or watcher."""
    stage = builds.c.stage.in_(bindparam("same_stages", expanding=True))
    mine = and_(
        builds.c.build_id == bindparam("same_build_id"),
        builds.c.claim == bindparam("same_claim"),
        builds.c.status == RUNNING,
        stage,
    )
    owner = case((builds.c.stage == JOB, builds.c.watcher), else_=builds.c.node_id)
    return and_(mine, owner == bindparam("same_node")) if by_node else mine


@functools.cache
def _counters(by_node: bool) -> Select[Any]:
    return select(*_COUNTERS).where(_owned(by_node))


@functools.cache
def _counted(by_node: bool, names: tuple[str, ...]) -> Update:
    return update(builds).where(_owned(by_node)).values({name: bindparam(f"new_{name}") for name in names})


def system(tx: Connection, now: int, row: Counters, text: str) -> Columns:
    """A line of the control side, inside the transaction that it describes. The caller writes the columns."""
    return _keep(tx, row, [_line_of(now, row, text)])[1]


def final(tx: Connection, now: int, row: Counters, texts: Sequence[str]) -> Columns:
    """The last lines of a build, in the transaction that ends it, after those that were held back. As `system`."""
    found: list[Line] = []
    if row["held_bytes"]:
        gone = delete(held_lines).where(held_lines.c.build_id == row["build_id"])
        chunks = tx.execute(gone.returning(held_lines.c.number, held_lines.c.lines)).all()
        found = [line for chunk in sorted(chunks, key=lambda one: one.number) for line in json.loads(chunk.lines)]
    found += [_line_of(now, row, text) for text in texts]
    return {"log_lines": _insert(tx, row, found)[1], "held_bytes": 0}


def _line_of(now: int, row: Counters, text: str) -> Line:
    return {"t": now, "p": row["phase"], "o": "SYSTEM", "l": log_line(text)}


def _keep(tx: Connection, row: Counters, lines: Sequence[Line]) -> tuple[list[Line], Columns]:
    """Number and keep what is within the limit, hold back what is beyond. Its cost does not grow with the log.

    `row` is locked: the next sequence goes to one writer at a time. Returns (what has a sequence now, the columns of
    the build that change).
    """
    limit, written, held, cut = row["log_limit"], row["log_bytes"], row["held_bytes"], row["log_cut"]
    within = 0
    if not held:  # from the first line held back on, all are: their order stays
        for line in lines:
            size = max(_size(line), LINE_OVERHEAD)
            if written + size > limit - limit // TAIL:
                break
            written += size
            within += 1
    columns: Columns = {"log_bytes": written}
    numbered = list(lines[:within])
    if beyond := lines[within:]:
        held, dropped = _hold(tx, row["build_id"], beyond, held, limit // TAIL)
        if dropped and not cut:
            text = f"... the log reached its limit of {limit} bytes; its last lines follow when the build ends ..."
            numbered.append({**beyond[0], "o": "SYSTEM", "l": text})
        columns |= {"held_bytes": held, "log_cut": cut or dropped}
    numbered, columns["log_lines"] = _insert(tx, row, numbered)
    return numbered, columns


def _size(line: Line) -> int:
    return len(line["l"].encode())


def _hold(tx: Connection, build_id: str, lines: Sequence[Line], held: int, room: int) -> tuple[int, bool]:
    """Hold lines back, in place of the oldest held ones. Returns (bytes held now, whether lines were dropped)."""
    sizes = [_size(line) + LINE_OVERHEAD for line in lines]
    start, total = 0, sum(sizes)
    while total > room and start < len(lines) - 1:  # the very last line stays, whatever its size
        total -= sizes[start]
        start += 1
    dropped = bool(start)
    while held and held + total > room:
        held -= sum(tx.execute(_oldest(build_id, held + total - room)).scalars())
        dropped = True
    mine = held_lines.c.build_id == build_id
    newest = select(func.coalesce(func.max(held_lines.c.number), 0) + 1).where(mine).scalar_subquery()
    values = {"build_id": build_id, "number": newest, "bytes": total, "lines": json.dumps(lines[start:])}
    tx.execute(insert(held_lines).values(**values))
    return held + total, dropped


def _oldest(build_id: str, excess: int) -> ReturningDelete[Any]:
    """Delete the oldest held batches that free so many bytes, `EVICTED` at most; it returns their sizes."""
    mine = held_lines.c.build_id == build_id
    first = select(held_lines.c.number, held_lines.c.bytes).where(mine).order_by(held_lines.c.number).limit(EVICTED)
    oldest = first.subquery()
    before = func.sum(oldest.c.bytes).over(order_by=oldest.c.number) - oldest.c.bytes
    freed = select(oldest.c.number, before.label("before")).subquery()
    gone = select(freed.c.number).where(freed.c.before < excess)
    return delete(held_lines).where(mine, held_lines.c.number.in_(gone)).returning(held_lines.c.bytes)


def _insert(tx: Connection, row: Counters, lines: Sequence[Line]) -> tuple[list[Line], int]:
    """Keep lines under the next sequences. Returns (the lines with them, `log_lines` of the build from here on)."""
    last = row["log_lines"]
    numbered = [{**line, "s": last + index} for index, line in enumerate(lines, 1)]
    chunks = [numbered[start : start + CHUNK] for start in range(0, len(numbered), CHUNK)]
    values = [
        {
            "build_id": row["build_id"],
            "first_sequence": chunk[0]["s"],
            "lines": json.dumps(chunk),
        }
        for chunk in chunks
    ]
    if values:
        tx.execute(_CHUNKS, values)
    return numbered, last + len(numbered)


_CHUNKS = insert(log_chunks)


def _chunks_on() -> Select[str]:
    mine, first = log_chunks.c.build_id == bindparam("build"), log_chunks.c.first_sequence
    # The chunk that holds the next line; from it on. Without it a tail would read the whole log again each time.
    here = select(func.max(first)).where(mine, first <= bindparam("next")).scalar_subquery()
    # Sequences are dense, so the chunks that begin below hold so many lines, and no driver buffers more of them.
    within = (first >= func.coalesce(here, 0), first <= bindparam("last"))
    return select(log_chunks.c.lines).where(mine, *within).order_by(first)


_CHUNKS_ON = _chunks_on()
_STATE = select(builds.c.status, builds.c.log_lines).where(builds.c.build_id == bindparam("build"))
"""Built once: who follows a build looks ten times a second."""


def read(store: Store, build_id: str, after: int, limit: int = 2000) -> list[Line]:
    """Lines whose sequence is greater than `after`, in order: `limit` of them and the rest of the last one's chunk."""
    with store.read() as tx:
        return _read(tx, build_id, after, limit)


def read_on(store: Store, build_id: str, after: int, limit: int) -> tuple[list[Line], str, int] | None:
    """As `read`; and of the same moment the status of the build and how many lines it has. None: there is no build."""
    with store.read() as tx:
        found = tx.execute(_STATE, {"build": build_id}).first()
        if found is None:
            return None
        return (_read(tx, build_id, after, limit) if found.log_lines > after else [], *found)


def _read(tx: Connection, build_id: str, after: int, limit: int) -> list[Line]:
    chunks = tx.execute(_CHUNKS_ON, {"build": build_id, "next": after + 1, "last": after + limit}).scalars()
    return [line for text in chunks for line in json.loads(text) if line["s"] > after]
