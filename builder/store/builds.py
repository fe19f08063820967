"""The guarded statements: each function is one transaction, each write has what it read in its condition.

A write that comes too late answers `None` or `stale`; it changes nothing and raises nothing. Rows of the `builds`
table are mappings (`Row`). Here are the clients' statements; those of owners (`granting.py`, `owner.py`) and of the
control side in FINALIZE (`closing.py`) have their names here too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, and_, bindparam, func, insert, or_, select

from builder.store import offers, outbox
from builder.store.closing import (
    AdoptedBuilds,
    Published,
    TagsMoved,
    adopt_due,
    adopt_finalize,
    keep_finalize,
    publish,
    rebuild,
    refuse,
    release_finalize,
    succeed,
    tag_digest,
    tags_to_check,
    unresolved,
)
from builder.store.engine import Store, insert_of
from builder.store.granting import Claimed, UnknownNode, claim
from builder.store.owner import Finished, KeyVerdict, finish, hand_back, heartbeat, planned
from builder.store.rows import Row, cancelled, emit, lock_timed, transition
from builder.store.schema import builds, labels
from builder.store.transitions import FINALIZE, PENDING, RUNNING

__all__ = [
    "AdoptedBuilds", "Claimed", "Finished", "KeyVerdict", "Published", "QueueFull", "Row", "Submission", "TagsMoved",
    "UnknownNode", "adopt_due", "adopt_finalize", "builds", "by_id", "cancel", "claim", "finish", "get", "hand_back",
    "heartbeat", "keep_finalize", "page", "planned", "position", "publish", "rebuild", "refuse", "release_finalize",
    "starting", "submit", "succeed", "tag_digest", "tags_to_check", "unresolved",
]  # fmt: skip

COUNTED = 1000


@dataclass(frozen=True, kw_only=True)
class Submission:
    """`outcome` is new, same (the key was seen with this request) or conflict (with another request)."""

    outcome: str
    row: Row


class QueueFull(Exception):
    """The organization has as many builds queued as it may have."""


def submit(
    store: Store, values: Mapping[str, Any], quota: int = 0, labelled: Mapping[str, str] | None = None
) -> Submission:
    """Record a build, its labels and its first report (COMPILING). `values` are columns of `builds` beside the kept
    ones.

    `quota`: how many queued builds the organization may have, 0 for any number. Raises `QueueFull`.
    """
    with store.transaction() as tx:
        if known := _known(tx, values):
            return known
        if quota and _queued(tx, values["organization"], quota) >= quota:
            raise QueueFull
        now, parameters = store.clock_parameter(tx)
        new = _new(tx.dialect.name, now, tuple(sorted(values)))
        kept = {f"new_{name}": value for name, value in values.items()}
        row = tx.execute(new, {**parameters, **kept}).mappings().first()
        if row is None:
            if known := _known(tx, values):  # another request with the key was a moment earlier
                return known
            raise RuntimeError("a build id was drawn twice")
        if labelled:
            same = {"build_id": row["build_id"], "organization": row["organization"]}
            tx.execute(insert(labels), [{**same, "name": name, "value": value} for name, value in labelled.items()])
        outbox.report(tx, row["created_at"], None, row)
        emit(tx, "submit", row)
    return Submission(outcome="new", row=row)


@functools.cache
def _new(dialect: str, now: ColumnElement[int], names: tuple[str, ...]) -> Any:
    """The INSERT of a build with these columns, which two requests with one idempotency key make once."""
    given: dict[str, Any] = {name: bindparam(f"new_{name}") for name in names}
    until = now + bindparam("new_queue_timeout_ms", type_=BigInteger)
    times = {"queued_at": now, "queue_until": until, "created_at": now, "updated_at": now}
    new = insert_of(dialect, builds).values({**given, **times, "status": PENDING, "report_sequence": 1})
    return new.on_conflict_do_nothing().returning(builds)


def _queued(tx: Connection, organization: str, most: int) -> int:
    """The queued builds of an organization, counted up to `most` from an index alone."""
    count = 0
    for queue, toolchain in offers.lanes(tx):
        mine = {"queue": queue, "toolchain": toolchain, "organization": organization, "most": most - count}
        count += int(tx.execute(_COUNTED_LANE, mine).scalar_one())
        if count >= most:
            break
    return count


_COUNTED_LANE = select(func.count()).select_from(
    select(builds.c.number)
    .where(*offers.lane_of(bindparam("queue"), bindparam("toolchain")))
    .where(builds.c.organization == bindparam("organization"))
    .limit(bindparam("most", type_=BigInteger))
    .subquery()
)


def _known(tx: Connection, values: Mapping[str, Any]) -> Submission | None:
    key = values.get("idempotency_key")
    if not key:
        return None
    mine = (builds.c.organization == values["organization"], builds.c.idempotency_key == key)
    row = tx.execute(select(builds).where(*mine)).mappings().first()
    if row is None:
        return None
    return Submission(outcome="same" if row["request_hash"] == values["request_hash"] else "conflict", row=row)


def get(store: Store, organization: str, build_id: str) -> Row | None:
    """A build by any unique start of its id (4 characters or more); None when there is none or several."""
    if not _is_start(build_id):
        return None
    with store.read() as tx:
        rows = tx.execute(_GET, _begins(organization, build_id)).mappings().all()
    return rows[0] if len(rows) == 1 else None


def starting(store: Store, organization: str, start: str, limit: int) -> Sequence[str]:
    """The ids of an organization's builds that begin so (4 characters or more), in order; at most `limit`."""
    if not _is_start(start):
        return ()
    query = select(builds.c.build_id).where(*_BEGINS).order_by(builds.c.build_id)
    with store.read() as tx:
        return tx.execute(query.limit(limit), _begins(organization, start)).scalars().all()


def _is_start(text: str) -> bool:
    return len(text) >= 4 and text.isascii() and text.isalnum()


def _begins(organization: str, start: str) -> dict[str, str]:
    """The parameters of `_BEGINS`."""
    return {"owner": organization, "first": start, "last": start + "\x7f"}


# A range: a seek on any database.
_BEGINS = (
    builds.c.organization == bindparam("owner"),
    builds.c.build_id >= bindparam("first"),
    builds.c.build_id < bindparam("last"),
)
_GET = select(builds).where(*_BEGINS).limit(2)
"""Built once: whoever waits for a build asks for it."""


def position(store: Store, row: Row) -> int:
    """1: the next of its queue; 0: not queued. What an organization wants first counts among its own builds.

    An estimate, since organizations take turns; counted up to `COUNTED` from an index alone.
    """
    if row["status"] != PENDING or row["attached_to"]:
        return 0
    earlier, mine = builds.c.number < row["number"], builds.c.organization == row["organization"]
    same = and_(builds.c.priority == row["priority"], earlier)
    before = or_(and_(mine, or_(builds.c.priority > row["priority"], same)), and_(~mine, earlier))
    queued = (builds.c.status == PENDING, builds.c.queue == row["queue"], builds.c.attached_to == "")
    query = select(builds.c.number).where(*queued, before).limit(COUNTED).subquery()
    with store.read() as tx:
        return 1 + int(tx.execute(select(func.count()).select_from(query)).scalar_one())


def by_id(store: Store, build_id: str) -> Row | None:
    """A build by its whole id, whosever it is: for workers and the control side."""
    with store.read() as tx:
        return tx.execute(select(builds).where(builds.c.build_id == build_id)).mappings().first()


def page(
    store: Store,
    organization: str,
    limit: int,
    before: int | None,
    *,
    status: str = "",
    name: str = "",
    labelled: Mapping[str, str] | None = None,
) -> Sequence[Row]:
    """Builds of an organization that have all of these labels, newest first; `before` is the `number` of the last one
    seen."""
    query = select(builds).where(builds.c.organization == organization)
    if status:
        query = query.where(builds.c.status == status)
    if name:
        query = query.where(builds.c.name == name)
    for label, value in (labelled or {}).items():
        same = (labels.c.organization == organization, labels.c.name == label, labels.c.value == value)
        query = query.where(builds.c.build_id.in_(select(labels.c.build_id).where(*same)))
    if before is not None:
        query = query.where(builds.c.number < before)
    with store.read() as tx:
        return tx.execute(query.order_by(builds.c.number.desc()).limit(limit)).mappings().all()


def cancel(store: Store, organization: str, build_id: str) -> Row | None:
    """PENDING, FINALIZE before the PUBLISH mark: CANCELLED now. WORK, JOB: a request. Otherwise nothing changes."""
    with store.transaction() as tx:
        mine = (builds.c.build_id == build_id, builds.c.organization == organization)
        row, now = lock_timed(store, tx, *mine)
        if row is None or row["published"]:
            return row
        if row["status"] == PENDING:
            return cancelled(tx, now, row, "cancelled before it started")
        if row["status"] == RUNNING and row["stage"] == FINALIZE:
            return cancelled(tx, now, row)
        if row["status"] == RUNNING:
            return transition(tx, now, row, "cancel-request", cancel_requested=True)
        return row
