"""What the statements share: reads under a lock, writes under what was read, the end of a build, its followers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format
from sqlalchemy import Connection, Executable, RowMapping, Select, and_, insert, select, update
from sqlalchemy.exc import IntegrityError

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS, ErrorClass
from builder.store import logs, outbox
from builder.store.engine import EVENTS
from builder.store.events import Event
from builder.store.schema import builds, in_flight
from builder.store.transitions import BY_NAME, CANCELLED, FAILED, FINALIZE, MAX_FAILURES, PENDING, RUNNING, SUCCEEDED

Row = RowMapping

# What only this attempt or these limits caused; an attached build is not failed for it but tries by itself.
_OWN_LIMITS = frozenset({"OutOfMemory", "DiskQuotaExceeded", "ProcessLimitExceeded", "Timeout"})


def locked(tx: Connection, query: Select[Any], *, skip: bool = False) -> Sequence[Row]:
    """Rows that stay as read until the commit. SQLite holds the whole store; elsewhere the rows are locked.

    `skip` passes over rows that another transaction holds: whoever holds them sees to them.
    """
    if tx.dialect.name != "sqlite":
        query = query.with_for_update(skip_locked=skip)
    return tx.execute(query).mappings().all()


def one(tx: Connection, *conditions: Any) -> Row | None:
    """The build that meets the conditions, locked."""
    return next(iter(locked(tx, select(builds).where(*conditions))), None)


def get(tx: Connection, build_id: str) -> Row:
    """A build as it is now in this transaction."""
    return tx.execute(select(builds).where(builds.c.build_id == build_id)).mappings().one()


def owned(tx: Connection, build_id: str, number: int) -> Row | None:
    """The fence: this claim and RUNNING."""
    return one(tx, builds.c.build_id == build_id, builds.c.claim == number, builds.c.status == RUNNING)


def write(tx: Connection, row: Row, **values: Any) -> None:
    """Update under what was read: status and claim. The lock makes a miss impossible; if it happens, it is a bug."""
    same = and_(builds.c.build_id == row["build_id"], builds.c.status == row["status"], builds.c.claim == row["claim"])
    if tx.execute(update(builds).where(same).values(**values)).rowcount != 1:
        raise RuntimeError(f"{row['build_id']} changed inside a transaction")


def move(tx: Connection, row: Row, action: str, **values: Any) -> None:
    """`write` a transition of the table, and tell of it after the commit. One that the table lacks is a bug."""
    rule, status = BY_NAME[action], values.get("status", row["status"])
    if row["status"] != rule.before or status not in rule.after:
        raise RuntimeError(f"{row['build_id']}: {action} does not lead from {row['status']} to {status}")
    write(tx, row, **values)
    tell(tx, action, row, **values)


def tell(tx: Connection, action: str, read: Row, **changed: Any) -> None:
    """Leave an event for after the commit: the row as it was read, and what was changed of it."""
    told: list[Event] = tx.info[EVENTS]
    row = {**read, **changed}
    told.append(
        Event(
            action=action,
            build_id=row["build_id"],
            status=row["status"],
            organization=row["organization"],
            queue=row["queue"],
            reason=reason_of(row["failure"]),
            claim=row["claim"],
        )
    )


def inserted(tx: Connection, statement: Executable) -> bool:
    """Whether a new row was written; False: another transaction wrote it first. Ours goes on either way."""
    try:
        with tx.begin_nested():
            tx.execute(statement)
    except IntegrityError:
        return False
    return True


def failure(reason: str, message: str, phase: str = "") -> str:
    """A failure record of the control side, as kept."""
    known = REASONS[reason]
    record = pb.Failure(reason=reason, message=message, error_class=str(known.error_class), next=known.hint)
    if phase:
        record.phase = pb.BuildPhase.Value(f"BUILD_PHASE_{phase}")
    return json_format.MessageToJson(record, indent=None)


def reason_of(kept: str) -> str:
    """The reason of a kept failure record; empty without one."""
    return str(json.loads(kept).get("reason", "")) if kept else ""


def add_phase(tx: Connection, row: Row, name: str, start: int, end: int, ok: bool = True) -> None:
    """Append to the record's phases."""
    phases = json.loads(get(tx, row["build_id"])["phases"])
    phases.append([name, start, end, ok])
    tx.execute(update(builds).where(builds.c.build_id == row["build_id"]).values(phases=json.dumps(phases)))


def queued(row: Row, since: int) -> dict[str, int]:
    """The columns of an entry to the queue. Time before `since` (a backoff) does not count as waiting."""
    until = since + row["queue_timeout_ms"]
    return {"queued_at": since, "queue_until": until, "offer_from": since, "offered_at": 0, "offers": 0}


def requeue(tx: Connection, now: int, row: Row, action: str, **more: Any) -> None:
    """PENDING again. That is no end: the build stays the primary of its key, and its followers stay attached."""
    since = max(now, more.get("not_before", 0))
    values = {"status": PENDING, "half": "", "lease_until": 0, "finalizer": False, "phase": "QUEUED"}
    move(tx, row, action, **values, **queued(row, since), claim=row["claim"] + 1, updated_at=now, **more)


def to_finalize(tx: Connection, row: Row, now: int, action: str, **values: Any) -> None:
    """The worker is free; the control side adopts at once, since the lease is over."""
    grant = {"half": FINALIZE, "claim": row["claim"] + 1, "lease_until": 0, "finalizer": False, "updated_at": now}
    move(tx, row, action, **grant, **values)


def cancelled(tx: Connection, now: int, row: Row, how: str = "cancelled on request", action: str = "") -> None:
    """CANCELLED: nothing of the build lives, or nothing that does can count."""
    action = action or ("cancel-pending" if row["status"] == PENDING else "cancelled")
    end(tx, now, row, action, CANCELLED, failure("Cancelled", how))


def lost(tx: Connection, now: int, row: Row) -> None:
    """The owner of the work has gone: PENDING again, FAILED when poison, CANCELLED when that was asked for."""
    logs.system(tx, now, row, "the owner of this build was lost; its last output may be missing")
    row, action = get(tx, row["build_id"]), "lease-expired"
    if row["cancel_requested"]:
        cancelled(tx, now, row, "cancelled; its owner was lost", action)
    elif not poisoned(tx, now, row, action):
        requeue(tx, now, row, action, failures=row["failures"] + 1)


def poisoned(tx: Connection, now: int, row: Row, action: str) -> bool:
    """End a build that has cost too many owners; False: it has not yet."""
    failures = row["failures"] + 1
    if failures < MAX_FAILURES:
        return False
    write(tx, row, failures=failures)
    message = f"{failures} owners of this build were lost"
    end(tx, now, get(tx, row["build_id"]), action, FAILED, failure("WorkerLost", message, row["phase"]))
    return True


def end(tx: Connection, now: int, row: Row, action: str, status: str, kept: str) -> None:
    """Write a terminal status once, its report, its last log line, and let the attached builds go on."""
    logs.final(tx, now, row, f"{status} {reason_of(kept)}".rstrip())
    move(
        tx, get(tx, row["build_id"]), action, status=status, half="", failure=kept, ended_at=now, updated_at=now,
        lease_until=0, finalizer=False, attached_to="",
    )  # fmt: skip
    ended = get(tx, row["build_id"])
    outbox.report(tx, now, ended)
    reason = reason_of(kept)
    users = bool(reason) and REASONS[reason].error_class is ErrorClass.USER_CODE and reason not in _OWN_LIMITS
    if status == SUCCEEDED:
        for follower in followers(tx, row):
            done = {"status": RUNNING, "half": FINALIZE, "attached_to": "", "artifact": row["artifact"]}
            from_cache = {"from_cache_of": row["build_id"], "claim": follower["claim"] + 1, "lease_until": 0}
            move(tx, follower, "primary-succeeded", **done, **from_cache, started_at=now, updated_at=now)
    elif status == FAILED and (users or reason == "WorkerLost"):
        for follower in followers(tx, row):
            write(tx, follower, attached_to="")
            end(tx, now, get(tx, follower["build_id"]), "primary-failed", FAILED, kept)
    give_up_key(tx, now, row)


def followers(tx: Connection, primary: Row) -> Sequence[Row]:
    """The builds attached to this one, oldest first."""
    query = select(builds).where(builds.c.attached_to == primary["build_id"], builds.c.status == PENDING)
    return locked(tx, query.order_by(builds.c.number))


def give_up_key(tx: Connection, now: int, primary: Row) -> None:
    """No longer in flight. Who still waits for it: the oldest is queued and takes over its key and the others."""
    mine = in_flight.c.build_id == primary["build_id"]
    waiting = followers(tx, primary)
    if not waiting:
        tx.execute(in_flight.delete().where(mine))
        return
    first, *others = waiting
    move(tx, first, "promote", attached_to="", phase="QUEUED", **queued(first, now), updated_at=now)
    for row in others:
        write(tx, row, attached_to=first["build_id"], updated_at=now)
    tx.execute(update(in_flight).where(mine).values(build_id=first["build_id"]))


def take_key(tx: Connection, row: Row, key: str) -> str:
    """The build that has this key in flight: this one, if none had it. Empty: whoever had it gave it up just now."""
    if found := holder(tx, row, key):
        return found
    values = {"organization": row["organization"], "build_key": key, "build_id": row["build_id"]}
    if inserted(tx, insert(in_flight).values(**values)):
        return str(row["build_id"])
    return holder(tx, row, key)


def holder(tx: Connection, row: Row, key: str) -> str:
    """The build of this organization that has the key in flight; empty without one."""
    where = and_(in_flight.c.organization == row["organization"], in_flight.c.build_key == key)
    return str(tx.execute(select(in_flight.c.build_id).where(where)).scalar() or "")
