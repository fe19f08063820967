"""The reports that wait to be delivered. A report is written in the transaction of what it tells."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import json_format
from sqlalchemy import Connection, RowMapping, insert, select, update

from builder.store import record
from builder.store.engine import Store
from builder.store.schema import builds, reports


def report(tx: Connection, now: int, row: RowMapping) -> None:
    """Write the next report of a build: PENDING, RUNNING → COMPILING; SUCCEEDED → DRAFT; FAILED, CANCELLED → FAILED."""
    sequence = row["report_sequence"] + 1
    body = record.report(row, sequence, now)
    text = json_format.MessageToJson(body, indent=None)
    tx.execute(insert(reports).values(build_id=row["build_id"], sequence=sequence, body=text, due_at=now))
    tx.execute(update(builds).where(builds.c.build_id == row["build_id"]).values(report_sequence=sequence))


def due(store: Store, limit: int) -> Sequence[RowMapping]:
    """Reports to deliver now, oldest first."""
    with store.transaction() as tx:
        now = store.now(tx)
        query = select(reports).where(reports.c.delivered_at == 0, reports.c.due_at <= now)
        return tx.execute(query.order_by(reports.c.id).limit(limit)).mappings().all()


def delivered(store: Store, report_id: int) -> None:
    """The receiver has it."""
    with store.transaction() as tx:
        tx.execute(update(reports).where(reports.c.id == report_id).values(delivered_at=store.now(tx)))


def postponed(store: Store, report_id: int, tries: int) -> None:
    """The receiver did not take it: again after 1, 2, 4 … 60 s."""
    with store.transaction() as tx:
        pause = min(1000 * 2**tries, 60_000)
        later = {"tries": tries + 1, "due_at": store.now(tx) + pause}
        tx.execute(update(reports).where(reports.c.id == report_id).values(**later))
