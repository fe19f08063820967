"""What the statements share: the fence, the one function that changes a status, the end of a build, its followers.

A statement locks the row that it read, computes the row it wants in Python and writes both under one condition; the
row that it returns is that value and is not read again.

What every build runs is built once, with parameters: SQLAlchemy takes longer to build such a statement than SQLite to
run it.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Delete,
    Select,
    String,
    Table,
    Update,
    bindparam,
    delete,
    exists,
    or_,
    select,
    update,
)

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS, ErrorClass
from builder.store import listeners, logs
from builder.store.engine import EVENTS, Store, insert_of
from builder.store.events import Event
from builder.store.hide import hidden
from builder.store.schema import builds, in_flight
from builder.store.transitions import (
    BY_NAME,
    CANCELLED,
    FAILED,
    FINALIZE,
    JOB,
    MAX_FAILURES,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
)

Row = Mapping[Any, Any]
"""A row as it was read, or as a statement wrote it: column name → value."""

# What only this attempt or these limits caused; an attached build is not failed for it but tries by itself.
_OWN_LIMITS = frozenset({"OutOfMemory", "DiskQuotaExceeded", "ProcessLimitExceeded", "Timeout"})


# Reads that lock


def lock(
    tx: Connection, query: Select[Any], parameters: Mapping[str, Any] | None = None, *, skip: bool = False
) -> Sequence[Row]:
    """Rows that stay as read until the commit. SQLite locks the whole store; elsewhere the rows are locked.

    `skip` passes over rows that another transaction has locked: that one sees to them.
    """
    if tx.dialect.name != "sqlite":
        query = query.with_for_update(skip_locked=skip, of=builds)
    return tx.execute(query, parameters).mappings().all()


def lock_one(tx: Connection, *conditions: Any) -> Row | None:
    """The build that meets the conditions, locked."""
    return next(iter(lock(tx, select(builds).where(*conditions))), None)


def lock_timed(store: Store, tx: Connection, *conditions: Any) -> tuple[Row | None, int]:
    """The same and the store's time, in one statement. No build: the time is 0."""
    return _timed(lock(tx, select(builds, store.clock_column(tx).label("now")).where(*conditions)))


def _timed(found: Sequence[Row]) -> tuple[Row | None, int]:
    if not found:
        return None, 0
    row = dict(found[0])
    now = int(row.pop("now"))
    return row, now


def fence(
    build_id: str | ColumnElement[str], claim: int | ColumnElement[int], stage: str, node: str | ColumnElement[str] = ""
) -> Sequence[Any]:
    """What a write of an owner holds in its condition. `node`: the claim was granted to it; "" asks for none.

    A claim is small and can be guessed, so a token that names a node writes only for that node's claims.
    """
    mine = (builds.c.build_id == build_id, builds.c.claim == claim, builds.c.status == RUNNING, builds.c.stage == stage)
    return (*mine, *granted_to(node, stage))


def granted_to(node: str | ColumnElement[str], stage: str) -> Sequence[Any]:
    """The condition that the claim of a build in this stage was granted to this node, or watcher."""
    asks = not isinstance(node, str) or node
    return ((builds.c.watcher if stage == JOB else builds.c.node_id) == node,) if asks else ()


def worked_on(node: str) -> Sequence[Any]:
    """The condition that this node or watcher was the last to have the build in one of its stages."""
    return (or_(builds.c.node_id == node, builds.c.watcher == node),) if node else ()


def is_owner(row: Row, node: str) -> bool:
    """Whether the build's claim was granted to this node or watcher; "" stands for any."""
    return node in ("", row["watcher"] if row["stage"] == JOB else row["node_id"])


def fenced(
    store: Store, tx: Connection, build_id: str, claim: int, stage: str, node: str = ""
) -> tuple[Row | None, int]:
    """The build behind its fence, locked, and the store's time. None: stale."""
    now, parameters = store.clock_parameter(tx)
    return _timed(lock(tx, _fenced(now, stage, bool(node)), {**parameters, **fenced_by(build_id, claim, node)}))


def fenced_by(build_id: str, claim: int, node: str) -> dict[str, Any]:
    """The parameters of `fence_of`."""
    return {"same_build_id": build_id, "same_claim": claim, "same_node": node}


def fence_of(stage: str, by_node: bool) -> Sequence[Any]:
    """The fence of a statement that is built once."""
    node: str | ColumnElement[str] = bindparam("same_node", type_=String) if by_node else ""
    build_id, claim = bindparam("same_build_id", type_=String), bindparam("same_claim", type_=BigInteger)
    return fence(build_id, claim, stage, node)


@functools.cache
def _fenced(now: ColumnElement[int], stage: str, by_node: bool) -> Select[Any]:
    return select(builds, now.label("now")).where(*fence_of(stage, by_node))


# Writes


def write(tx: Connection, row: Row, **values: Any) -> Row:
    """Update under what was read: status and claim. The lock makes a miss impossible; if it happens, it is a bug."""
    same = {f"same_{name}": row[name] for name in _SAME}
    new = {f"new_{name}": value for name, value in values.items()}
    if tx.execute(_written(tuple(sorted(values))), {**same, **new}).rowcount != 1:
        raise RuntimeError(f"{row['build_id']} changed inside a transaction")
    return {**row, **values}


_SAME = ("build_id", "status", "claim")


@functools.cache
def _written(names: tuple[str, ...]) -> Update:
    """The UPDATE of these columns under what was read; the code has some twenty sets of them."""
    same = (builds.c[name] == bindparam(f"same_{name}") for name in _SAME)
    return update(builds).where(*same).values({name: bindparam(f"new_{name}") for name in names})


def transition(tx: Connection, now: int, row: Row, action: str, *, line: str = "", **values: Any) -> Row:
    """The one function that changes a status: `write` a transition of the table, with all that goes with it.

    `line` is a SYSTEM line of the log. A terminal status adds its last line and a report, and calls the listeners.
    The event is emitted after the commit. A transition that the table lacks is a bug.
    """
    rule, status = BY_NAME[action], values.get("status", row["status"])
    if row["status"] != rule.before or status not in rule.after:
        raise RuntimeError(f"{row['build_id']}: {action} does not lead from {row['status']} to {status}")
    if status in TERMINAL:
        values |= {"report_sequence": row["report_sequence"] + 1, "request": hidden(row["request"])}
        last = f"{status} {reason_of(values['failure'])}".rstrip()
        values |= logs.final(tx, now, row, [line, last] if line else [last])
    elif line:
        values |= logs.system(tx, now, row, line)
    after = write(tx, row, **{"updated_at": now, **values})
    if status in TERMINAL:
        for listener in listeners.LISTENERS:
            listener(tx, now, row, after)
    emit(tx, action, after)
    return after


def emit(tx: Connection, action: str, row: Row) -> None:
    """Leave an event for after the commit: the row as it was written."""
    left: list[Event] = tx.info[EVENTS]
    phases = json.loads(row["phases"]) if row["status"] in TERMINAL else ()
    left.append(
        Event(
            action=action,
            build_id=row["build_id"],
            status=row["status"],
            organization=row["organization"],
            queue=row["queue"],
            reason=reason_of(row["failure"]),
            claim=row["claim"],
            phases=tuple((name, max(0, stop - start)) for name, start, stop, _ in phases),
        )
    )


def inserted(tx: Connection, table: Table, **values: Any) -> bool:
    """Whether a new row was written; False: there is one, or another transaction wrote it first."""
    new = {f"new_{name}": value for name, value in values.items()}
    return tx.execute(_inserted(tx.dialect.name, table, tuple(sorted(values))), new).first() is not None


@functools.cache
def _inserted(dialect: str, table: Table, names: tuple[str, ...]) -> Any:
    new = insert_of(dialect, table).values({name: bindparam(f"new_{name}") for name in names})
    return new.on_conflict_do_nothing().returning(*table.primary_key)


# Values


def failure(reason: str, message: str, phase: str = "") -> str:
    """A failure record of the control side, as stored."""
    known = REASONS[reason]
    record = pb.Failure(reason=reason, message=message, error_class=str(known.error_class), next=known.hint)
    if phase:
        record.phase = pb.BuildPhase.Value(f"BUILD_PHASE_{phase}")
    return json_format.MessageToJson(record, indent=None)


def reason_of(kept: str) -> str:
    """The reason of a stored failure record; empty without one."""
    return str(json.loads(kept).get("reason", "")) if kept else ""


def with_phases(row: Row, phases: Iterable[tuple[str, int, int, bool]]) -> str:
    """The column `phases` with these (name, start, end, ok) behind those of the row."""
    return json.dumps([*json.loads(row["phases"]), *phases])


def queued(row: Row, since: int) -> dict[str, Any]:
    """The columns of an entry to the queue. Time before `since` (a backoff) does not count as waiting."""
    until = since + row["queue_timeout_ms"]
    return {"queued_at": since, "queue_until": until, "offer_from": since, "offered_at": 0, "offers": 0}


# Transitions that several statements make


def requeue(tx: Connection, now: int, row: Row, action: str, **more: Any) -> Row:
    """PENDING again. That is no end: the build stays the primary of its key, and its followers stay attached."""
    since = max(now, more.get("not_before", 0))
    values: dict[str, Any] = {"status": PENDING, "stage": "", "lease_until": 0, "finalizer": False, "phase": "QUEUED"}
    return transition(tx, now, row, action, **values, **queued(row, since), claim=row["claim"] + 1, **more)


def to_finalize(tx: Connection, now: int, row: Row, action: str, **values: Any) -> Row:
    """The worker is free; the control side adopts at once, since the lease is over: the build is due since now."""
    grant: dict[str, Any] = {"stage": FINALIZE, "claim": row["claim"] + 1, "lease_until": now, "finalizer": False}
    return transition(tx, now, row, action, **grant, **values)


def cancelled(
    tx: Connection, now: int, row: Row, how: str = "cancelled on request", action: str = "", **more: Any
) -> Row:
    """CANCELLED: nothing of the build lives, or nothing that does can count."""
    action = action or ("cancel-pending" if row["status"] == PENDING else "cancelled")
    return end(tx, now, row, action, CANCELLED, failure("Cancelled", how), **more)


def lost(tx: Connection, now: int, row: Row) -> Row:
    """The owner has gone: PENDING again, FAILED when poison, CANCELLED when that was asked for.

    With a marked attempt its Job may be there: a watcher looks for it, and deletes it when the build is cancelled. A
    watcher that had caught up costs nothing, since the Job has gone on.
    """
    line, action = "the owner of this build was lost; its last output may be missing", "lease-expired"
    if row["stage"] == JOB:
        line = "the watcher of this build was lost; the Job goes on"
    if row["cancel_requested"] or row["caught_up"]:
        if row["job"]:
            return to_watch(tx, now, row, action, line=line)
        return cancelled(tx, now, row, "cancelled; its owner was lost", action, line=line)
    if ended := poisoned(tx, now, row, action, line=line):
        return ended
    failures = row["failures"] + 1
    if row["job"]:
        return to_watch(tx, now, row, action, line=line, failures=failures)
    return requeue(tx, now, row, action, line=line, failures=failures, avoid=row["node_id"])


def to_watch(tx: Connection, now: int, row: Row, action: str, **values: Any) -> Row:
    """Stage JOB without an owner: the lease is over, so the next watcher adopts."""
    free: dict[str, Any] = {"stage": JOB, "watcher": "", "caught_up": False, "unwatched": False, "lease_until": now}
    return transition(tx, now, row, action, **free, claim=row["claim"] + 1, **values)


def poisoned(tx: Connection, now: int, row: Row, action: str, *, line: str = "") -> Row | None:
    """End a build that has cost too many owners; None: it has not yet."""
    failures = row["failures"] + 1
    if failures < MAX_FAILURES:
        return None
    kept = failure("WorkerLost", f"{failures} owners of this build were lost", row["phase"])
    return end(tx, now, row, action, FAILED, kept, line=line, failures=failures)


def end(tx: Connection, now: int, row: Row, action: str, status: str, kept: str, **more: Any) -> Row:
    """Write a terminal status once, and let the attached builds go on."""
    ended: dict[str, Any] = {"status": status, "stage": "", "failure": kept, "ended_at": now, "attached_to": ""}
    after = transition(tx, now, row, action, **ended, lease_until=0, finalizer=False, **more)
    if not row["attached_to"]:  # an attached build has neither a key nor followers
        _let_go_on(tx, now, after)
    return after


def _let_go_on(tx: Connection, now: int, ended: Row) -> None:
    """The followers of a build share its end, or one of them takes its place."""
    if _dropped_key(tx, ended):
        return
    if not (waiting := followers(tx, ended)):
        return
    reason, status = reason_of(ended["failure"]), ended["status"]
    users = bool(reason) and REASONS[reason].error_class is ErrorClass.USER_CODE and reason not in _OWN_LIMITS
    if status == SUCCEEDED:
        for follower in waiting:
            transition(
                tx, now, follower, "primary-succeeded", status=RUNNING, stage=FINALIZE, attached_to="", started_at=now,
                waited_ms=0, artifact=ended["artifact"], from_cache_of=ended["build_id"], claim=follower["claim"] + 1,
                lease_until=now,
            )  # fmt: skip
        _dropped_key(tx, ended)
    elif status == FAILED and (users or reason == "WorkerLost"):
        for follower in waiting:
            end(tx, now, follower, "primary-failed", FAILED, ended["failure"])
        _dropped_key(tx, ended)
    else:
        _promote(tx, now, ended, waiting)


# Keys in flight


def followers(tx: Connection, primary: Row) -> Sequence[Row]:
    """The builds attached to this one, oldest first."""
    query = select(builds).where(builds.c.attached_to == primary["build_id"], builds.c.status == PENDING)
    return lock(tx, query.order_by(builds.c.number))


def give_up_key(tx: Connection, now: int, primary: Row) -> None:
    """No longer in flight. The oldest that still waits for it is queued, and takes over its key and the others."""
    if not _dropped_key(tx, primary):
        _promote(tx, now, primary, followers(tx, primary))


def _dropped_key(tx: Connection, primary: Row) -> bool:
    """Whether the build had its key in flight, and nobody waits for it: then it is in flight no more."""
    mine = {f"same_{name}": primary[name] for name in ("organization", "build_key", "build_id")}
    return tx.execute(_dropped(), mine).rowcount == 1


@functools.cache
def _dropped() -> Delete:
    mine = (in_flight.c[name] == bindparam(f"same_{name}") for name in ("organization", "build_key", "build_id"))
    waits = exists().where(builds.c.attached_to == bindparam("same_build_id"), builds.c.status == PENDING)
    return delete(in_flight).where(*mine, ~waits)


def _promote(tx: Connection, now: int, primary: Row, waiting: Sequence[Row]) -> None:
    if not waiting:
        return
    first, *others = waiting
    transition(tx, now, first, "promote", attached_to="", phase="QUEUED", **queued(first, now))
    for row in others:
        write(tx, row, attached_to=first["build_id"], updated_at=now)
    tx.execute(update(in_flight).where(*_in_flight(primary)).values(build_id=first["build_id"]))


def _in_flight(primary: Row) -> Sequence[Any]:
    key = (in_flight.c.organization == primary["organization"], in_flight.c.build_key == primary["build_key"])
    return (*key, in_flight.c.build_id == primary["build_id"])


def take_key(tx: Connection, row: Row, key: str) -> str:
    """The build that has this key in flight: this one, if none had it. Empty: whoever had it gave it up just now."""
    if found := holder(tx, row, key):
        return found
    if inserted(tx, in_flight, organization=row["organization"], build_key=key, build_id=row["build_id"]):
        return str(row["build_id"])
    return holder(tx, row, key)


def holder(tx: Connection, row: Row, key: str) -> str:
    """The build of this organization that has the key in flight; empty without one."""
    found = tx.execute(_HOLDER, {"same_organization": row["organization"], "same_key": key})
    return str(found.scalar() or "")


_HOLDER = select(in_flight.c.build_id).where(
    in_flight.c.organization == bindparam("same_organization"), in_flight.c.build_key == bindparam("same_key")
)
