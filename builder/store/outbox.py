"""The reports that wait to be delivered. A report is written in the transaction that it describes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from sqlalchemy import Connection, RowMapping, Select, func, insert, select, update

from builder.store import record
from builder.store.engine import Store
from builder.store.schema import builds, reports

Row = RowMapping


def report(tx: Connection, now: int, before: Mapping[Any, Any] | None, after: Mapping[Any, Any]) -> None:
    """Write the next report of a build: PENDING, RUNNING → COMPILING; SUCCEEDED → DRAFT; FAILED, CANCELLED → FAILED.

    Its number is the `report_sequence` of `after`, which the statement that wrote `after` has counted up.
    """
    sequence = after["report_sequence"]
    text = json_format.MessageToJson(record.report(after, sequence, now), indent=None)
    tx.execute(insert(reports).values(build_id=after["build_id"], sequence=sequence, body=text, due_at=now))


def due(store: Store, limit: int, busy: Collection[str] = ()) -> Sequence[Row]:
    """Reports to deliver now with their organization, oldest first; none of the organizations that are `busy`.

    Of one build in order: while a report waits for its next try, the later ones of its build wait, too.
    """
    with store.read() as tx:
        query = _due(store.now(tx)).where(builds.c.organization.not_in(tuple(busy)))
        return tx.execute(query.limit(limit)).mappings().all()


def exchange(store: Store, ids: Collection[int], organization: str, limit: int) -> Sequence[Row]:
    """The receiver has these; what is due of this organization now. One transaction."""
    with store.transaction() as tx:
        now = store.now(tx)
        _delivered(tx, now, ids)
        return tx.execute(_due(now).where(builds.c.organization == organization).limit(limit)).mappings().all()


def _due(now: int) -> Select[Any]:
    earlier = reports.alias()
    waits = select(earlier.c.id).where(
        earlier.c.build_id == reports.c.build_id,
        earlier.c.sequence < reports.c.sequence,
        earlier.c.delivered_at == 0,
        earlier.c.due_at > now,
    )
    query = select(reports, builds.c.organization).join(builds, builds.c.build_id == reports.c.build_id)
    return query.where(reports.c.delivered_at == 0, reports.c.due_at <= now, ~waits.exists()).order_by(reports.c.id)


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
            of_it = reports.c.build_id.in_(select(builds.c.build_id).where(builds.c.organization == organization))
            tx.execute(
                update(reports).where(reports.c.delivered_at == 0, reports.c.due_at < later, of_it).values(due_at=later)
            )


def waiting(store: Store) -> int:
    """Reports that no receiver has taken yet."""
    with store.read() as tx:
        return int(tx.execute(select(func.count()).where(reports.c.delivered_at == 0)).scalar_one())
