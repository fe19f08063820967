"""The reports: written in the transaction that each describes, delivered to a receiver, read as a feed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from sqlalchemy import Connection, RowMapping, Select, bindparam, func, insert, select, update

from builder.store import record
from builder.store.engine import Store, insert_into
from builder.store.schema import feeds, reports

Row = RowMapping

NUMBERED = 1000
"""Reports that get their positions in one transaction, more than any page of the feed has."""


def report(tx: Connection, now: int, before: Mapping[Any, Any] | None, after: Mapping[Any, Any]) -> None:
    """Write the next report of a build: PENDING, RUNNING → COMPILING; SUCCEEDED → DRAFT; FAILED, CANCELLED → FAILED.

    Its number is the `report_sequence` of `after`, which the statement that wrote `after` has counted up.
    """
    sequence = after["report_sequence"]
    text = json_format.MessageToJson(record.report(after, sequence, now), indent=None)
    whose = {"build_id": after["build_id"], "organization": after["organization"]}
    tx.execute(_REPORT, {**whose, "sequence": sequence, "body": text, "due_at": now, "created_at": now})


_REPORT = insert(reports)


def due(store: Store, limit: int, busy: Collection[str] = ()) -> Sequence[Row]:
    """Reports to deliver now with their organization, oldest first; none of the organizations that are `busy`.

    Of one build in order: while a report waits for its next try, the later ones of its build wait, too.
    """
    with store.read() as tx:
        query = _due(store.now(tx)).where(reports.c.organization.not_in(tuple(busy)))
        return tx.execute(query.limit(limit)).mappings().all()


def exchange(store: Store, ids: Collection[int], organization: str, limit: int) -> Sequence[Row]:
    """The receiver has these; what is due of this organization now. One transaction."""
    with store.transaction() as tx:
        now = store.now(tx)
        _delivered(tx, now, ids)
        return tx.execute(_due(now).where(reports.c.organization == organization).limit(limit)).mappings().all()


def _due(now: int) -> Select[Any]:
    earlier = reports.alias()
    waits = select(earlier.c.id).where(
        earlier.c.build_id == reports.c.build_id,
        earlier.c.sequence < reports.c.sequence,
        earlier.c.delivered_at == 0,
        earlier.c.due_at > now,
    )
    due = (reports.c.delivered_at == 0, reports.c.due_at <= now, ~waits.exists())
    return select(reports).where(*due).order_by(reports.c.id)


def delivered(store: Store, ids: Collection[int]) -> None:
    """The receiver has them."""
    if not ids:
        return
    with store.transaction() as tx:
        _delivered(tx, store.now(tx), ids)


def _delivered(tx: Connection, now: int, ids: Collection[int]) -> None:
    if ids:
        tx.execute(update(reports).where(reports.c.id.in_(ids)).values(delivered_at=now))


def postponed(store: Store, report_id: int, tries: int, organization: str = "") -> None:
    """The receiver did not take it: again after 1, 2, 4 … 60 s. With `organization`: whatever is due of it, too."""
    with store.transaction() as tx:
        now = store.now(tx)
        later = now + min(1000 << min(tries, 10), 60_000)
        tx.execute(update(reports).where(reports.c.id == report_id).values(tries=tries + 1, due_at=later))
        if organization:
            of_it = (reports.c.organization == organization, reports.c.delivered_at == 0, reports.c.due_at < later)
            tx.execute(update(reports).where(*of_it).values(due_at=later))


def waiting(store: Store) -> int:
    """The reports that no receiver has acknowledged."""
    with store.read() as tx:
        return int(tx.execute(select(func.count()).where(reports.c.delivered_at == 0)).scalar_one())


def oldest_ms(store: Store) -> int:
    """The age of the oldest of them; 0 when none waits."""
    with store.read() as tx:
        oldest = tx.execute(select(func.min(reports.c.created_at)).where(reports.c.delivered_at == 0)).scalar()
        return 0 if oldest is None else max(0, store.now(tx) - int(oldest))


def feed(store: Store, organization: str, after: int, limit: int) -> Sequence[Row]:
    """The reports of an organization behind a position of its feed, in order.

    A report gets its position from the first reader that finds it committed: whatever a reader has passed, nothing
    appears before it later, as it would in the order in which concurrent transactions draw ids.
    """
    mine = reports.c.organization == organization
    with store.read() as tx:
        fresh = tx.execute(select(reports.c.id).where(mine, reports.c.position == 0).limit(1)).first()
    if fresh:
        _number(store, organization)
    query = select(reports).where(mine, reports.c.position > after).order_by(reports.c.position).limit(limit)
    with store.read() as tx:
        return tx.execute(query).mappings().all()


def _number(store: Store, organization: str) -> None:
    """Append the reports without a position to the feed. The row of the feed admits one writer at a time."""
    with store.transaction() as tx:
        row = insert_into(tx, feeds).values(organization=organization, position=0)
        tx.execute(row.on_conflict_do_nothing())
        mine = feeds.c.organization == organization
        last = select(feeds.c.position).where(mine)
        position = int(tx.execute(last if tx.dialect.name == "sqlite" else last.with_for_update()).scalar_one())
        unnumbered = (reports.c.organization == organization, reports.c.position == 0)
        ids = tx.execute(select(reports.c.id).where(*unnumbered).order_by(reports.c.id).limit(NUMBERED)).scalars().all()
        if not ids:  # another reader was first
            return
        one = update(reports).where(reports.c.id == bindparam("one")).values(position=bindparam("place"))
        tx.execute(one, [{"one": id_, "place": position + n} for n, id_ in enumerate(ids, 1)])
        tx.execute(update(feeds).where(mine).values(position=position + len(ids)))
