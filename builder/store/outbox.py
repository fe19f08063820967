"""The reports that wait to be delivered. A report is written in the transaction that it describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from sqlalchemy import Connection, RowMapping, insert, select, update

from builder.store import record
from builder.store.engine import Store
from builder.store.schema import reports


def report(tx: Connection, now: int, before: Mapping[Any, Any] | None, after: Mapping[Any, Any]) -> None:
    """Write the next report of a build: PENDING, RUNNING → COMPILING; SUCCEEDED → DRAFT; FAILED, CANCELLED → FAILED.

    Its number is the `report_sequence` of `after`, which the statement that wrote `after` has counted up.
    """
    sequence = after["report_sequence"]
    text = json_format.MessageToJson(record.report(after, sequence, now), indent=None)
    tx.execute(insert(reports).values(build_id=after["build_id"], sequence=sequence, body=text, due_at=now))


def due(store: Store, limit: int) -> Sequence[RowMapping]:
    """Reports to deliver now, oldest first."""
    with store.read() as tx:
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
