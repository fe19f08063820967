"""What the reconciler ends: leases, waits and attempts that took too long; and what it warns of.

One read shows whether anything is due; the transaction that writes is opened only then. Every query is a seek or
bounded: 10,000 queued cost what 10 cost.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, or_, select, tuple_

from builder.store import cluster, logs, nodes
from builder.store.engine import NOW, Store
from builder.store.offers import lane_of, lanes
from builder.store.rows import Row, cancelled, end, failure, lock, lost, write
from builder.store.schema import builds
from builder.store.transitions import EXTERNAL, FAILED, FINALIZE, IMAGE, JOB, OWNED, PENDING, RUNNING, WORK

MOST_WORDS = 400
BATCH = 100  # builds that one sweep ends; the next tick takes the rest

Live = Mapping[str, Collection[str]]
"""Queue → the toolchains of the live nodes that read it."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """`due`: the condition at a time. `over`: what becomes of a build that meets it."""

    due: Callable[[int | ColumnElement[int]], ColumnElement[bool]]
    over: Callable[[Connection, int, Row], Row]


@dataclass(frozen=True, kw_only=True)
class Due:
    """What one look at the store found: `sweeps` to run, `unschedulable` waits with builds to warn of."""

    sweeps: tuple[Sweep, ...]
    unschedulable: Mapping[Wait, str]

    def __bool__(self) -> bool:
        return bool(self.sweeps or self.unschedulable)


Wait = tuple[str, str, str]
"""(queue, toolchain, organization) of builds that nobody takes now; "" stands for every organization."""

Warned = dict[Wait, tuple[int, int]]
"""(queued_at, number) of the last build that was warned of in each such wait. Its holder is the control
process: one that starts anew warns again."""


def look(store: Store, lease_ms: int, live_ms: int, warned: Warned, jobs: int = 0) -> Due:
    """Whether the reconciler has anything to write. It only reads: two statements with nothing queued.

    `jobs`: how many image builds an organization may have at work, 0 for any number.
    """
    with store.read() as tx:
        now = store.now(tx)
        queued = lanes(tx)
        readers = nodes.takers(nodes.read(tx, now), live_ms) if queued else {}
        live = {queue: nodes.toolchains_of(takers) for queue, takers in readers.items()}
        any_due = tx.execute(_any_due(lease_ms), {"now": now}).scalar_one()
        sweeps = _every(live, lease_ms, jobs) if any_due else ()
        lacking: dict[Wait, str] = {
            (*lane, ""): f"{why}; this build waits for one"
            for lane in queued
            if (why := missing(live, *lane) or _full(readers.get(lane[0], ())))
        }
        images = [lane for lane in queued if lane[0] == IMAGE and (*lane, "") not in lacking]
        for organization in cluster.full(tx, jobs) if images else ():
            why = f"{cluster.words(jobs)}; this build waits for one to end"
            lacking |= {(*lane, organization): why for lane in images}
        for wait in set(warned) - set(lacking):
            if not wait[2] or wait[:2] not in queued:  # an organization has its Jobs again soon
                del warned[wait]
        late = {wait: why for wait, why in lacking.items() if tx.execute(_late(wait, now, lease_ms, warned)).first()}
    return Due(sweeps=sweeps, unschedulable=late)


def _every(live: Live, lease_ms: int, jobs: int) -> tuple[Sweep, ...]:
    return (
        expired_leases(),
        queue_timeouts(live, jobs),
        build_timeouts(lease_ms),
        unwatched(),
        unwatched_soon(lease_ms),
    )


@functools.cache
def _any_due(lease_ms: int) -> Select[Any]:
    """Whether any sweep has a build to end `NOW`; who is live only matters to what becomes of it."""
    return select(or_(*(exists().where(sweep.due(NOW)) for sweep in _every({}, lease_ms, 0))))


def run(tx: Connection, now: int, sweeps: Collection[Sweep]) -> list[Row]:
    """End what is due. Returns the builds as they are now."""
    changed: list[Row] = []
    for sweep in sweeps:
        for build_id in tx.execute(select(builds.c.build_id).where(sweep.due(now)).limit(BATCH)).scalars().all():
            # Read again under the lock: an end before it in this transaction may have ended or moved it too.
            still = select(builds).where(builds.c.build_id == build_id, sweep.due(now))
            changed += [sweep.over(tx, now, row) for row in lock(tx, still, skip=True)]
    return changed


def expired_leases() -> Sweep:
    """Builds whose owner has gone: PENDING again, FAILED when poison, CANCELLED when that was asked for; of a Job
    without a watcher."""

    def due(now: int | ColumnElement[int]) -> ColumnElement[bool]:
        owned = or_(builds.c.stage == WORK, and_(builds.c.stage == JOB, builds.c.watcher != ""))
        return and_(builds.c.status == RUNNING, owned, builds.c.lease_until <= now)

    return Sweep(due=due, over=lost)


def queue_timeouts(live: Live, jobs: int = 0) -> Sweep:
    """Builds that waited too long. No live node takes them: ToolchainUnavailable; else QueueTimeout.

    `jobs`: how many image builds an organization may have at work, 0 for any number.
    """

    def due(now: int | ColumnElement[int]) -> ColumnElement[bool]:
        return and_(builds.c.status == PENDING, builds.c.attached_to == "", builds.c.queue_until <= now)

    def over(tx: Connection, now: int, row: Row) -> Row:
        if row["cancel_requested"]:
            return cancelled(tx, now, row)
        waited = f"waited {(now - row['queued_at']) // 1000} s"
        if why := missing(live, row["queue"], row["toolchain"]):
            kept = failure("ToolchainUnavailable", f"{waited}; {why}", "QUEUED")
        else:
            full = cluster.is_full(tx, row, jobs)
            why = f"; {cluster.words(jobs)}" if full else " for a free slot"
            kept = failure("QueueTimeout", waited + why, "QUEUED")
        return end(tx, now, row, "queue-timeout", FAILED, kept)

    return Sweep(due=due, over=over)


def build_timeouts(lease_ms: int) -> Sweep:
    """Builds past the time of their attempt whose owner did not end them, one lease late; never after the mark.

    What the owner waited for the control side extends the time, as it extends the owner's own deadline. So does the
    time in which nobody watched a Job, which ends by a deadline of its own: only a watcher knows whether it did.
    In FINALIZE the user's code is built and pushed: what is late there is ours.
    """

    def due(now: int | ColumnElement[int]) -> ColumnElement[bool]:
        late = builds.c.started_at + builds.c.timeout_ms + builds.c.waited_ms + lease_ms <= now
        known = or_(builds.c.stage != JOB, builds.c.watcher != "", builds.c.cancel_requested.is_(True))
        return and_(builds.c.status == RUNNING, builds.c.published.is_(False), late, known)

    def over(tx: Connection, now: int, row: Row) -> Row:
        if row["cancel_requested"]:
            return _cancelled_late(tx, now, row)
        reason, message = "Timeout", f"not finished after {row['timeout_ms'] // 1000} s"
        if row["queue"] == EXTERNAL:
            reason, message = "RegistryUnavailable", f"asking the image's registry was {message}"
        elif row["stage"] == FINALIZE:
            reason, message = "RegistryUnavailable", f"built and pushed, but attesting it was {message}"
        return end(tx, now, row, "build-timeout", FAILED, failure(reason, message, row["phase"]))

    return Sweep(due=due, over=over)


def _cancelled_late(tx: Connection, now: int, row: Row) -> Row:
    """CANCELLED although nobody told that nothing of it runs: its Job may, where the cluster is away. Nothing that the
    Job does from here on counts, and a watcher's sweep deletes it, since its attempt is not current."""
    if not row["job"] or row["stage"] not in OWNED:
        return cancelled(tx, now, row)
    line = f"the Job {json.loads(row['job'])['name']} may still run; a watcher deletes it once the cluster answers"
    return cancelled(tx, now, row, "cancelled on request; its Job was not seen to end", line=line)


def unwatched() -> Sweep:
    """Builds whose Job no watcher has followed for as long as a build may wait in a queue."""

    def due(now: int | ColumnElement[int]) -> ColumnElement[bool]:
        waited = builds.c.lease_until + builds.c.queue_timeout_ms <= now
        return and_(builds.c.status == RUNNING, builds.c.stage == JOB, builds.c.watcher == "", waited)

    def over(tx: Connection, now: int, row: Row) -> Row:
        if row["cancel_requested"]:
            return _cancelled_late(tx, now, row)
        message = f"no watcher has followed the Job of this build for {(now - row['lease_until']) // 1000} s"
        return end(tx, now, row, "unwatched", FAILED, failure("ClusterUnavailable", message, row["phase"]))

    return Sweep(due=due, over=over)


def unwatched_soon(lease_ms: int) -> Sweep:
    """Builds whose Job nobody has watched for a lease: a line of their log tells it, once until the next adoption."""

    def due(now: int | ColumnElement[int]) -> ColumnElement[bool]:
        since = and_(builds.c.lease_until + lease_ms <= now, builds.c.unwatched.is_(False))
        return and_(builds.c.status == RUNNING, builds.c.stage == JOB, builds.c.watcher == "", since)

    def over(tx: Connection, now: int, row: Row) -> Row:
        line = "no watcher follows the Job of this build; it goes on, and its log comes once one does"
        return write(tx, row, unwatched=True, **logs.system(tx, now, row, line))

    return Sweep(due=due, over=over)


def missing(live: Live, queue: str, toolchain: str) -> str:
    """Why no live node takes a build of this lane; "" when one does, or none has to."""
    if queue == EXTERNAL:
        return ""
    if queue not in live:
        return f"no live node reads {queue}"
    return f"no live node has {toolchain}" if toolchain and toolchain not in live[queue] else ""


def _full(readers: Collection[nodes.RegisteredNode]) -> str:
    """Why none of the live nodes of a queue takes a build; "" when one does."""
    if not readers or any(not node.lacks for node in readers):
        return ""
    return "no live node has room: " + "; ".join(f"{node.node_id}: {node.lacks}" for node in readers)[:MOST_WORDS]


def warn_unschedulable(
    tx: Connection, now: int, unschedulable: Mapping[Wait, str], waited_ms: int, warned: Warned
) -> tuple[list[Row], Warned]:
    """Write into the log of each build that waits for what is not there what is missing, once it has waited so long.

    Returns these builds and what is warned of then; the caller keeps it once the transaction is committed.
    """
    changed: list[Row] = []
    until = dict(warned)
    for wait, why in unschedulable.items():
        for row in lock(tx, _late(wait, now, waited_ms, warned), skip=True):  # a locked one is being claimed or ended
            write(tx, row, **logs.system(tx, now, row, why))
            until[wait] = (row["queued_at"], row["number"])
            changed.append(row)
    return changed, until


def _late(wait: Wait, now: int, waited_ms: int, warned: Warned) -> Select[Any]:
    queue, toolchain, organization = wait
    at, number = warned.get(wait, (0, 0))
    later = tuple_(builds.c.queued_at, builds.c.number) > tuple_(at, number)  # a range of the index, as no OR is one
    query = select(builds).where(*lane_of(queue, toolchain), later, builds.c.queued_at <= now - waited_ms)
    query = query.where(builds.c.organization == organization) if organization else query
    return query.order_by(builds.c.queued_at, builds.c.number).limit(BATCH)


def expire_gone(store: Store, node_id: str, is_gone: Callable[[str], bool]) -> int:
    """End at once the leases of a node's processes that are gone, as the nonces of their claims name them.

    Without it they end by themselves, a lease later. A read that finds none is all it costs then. Returns how many.
    """
    mine = (builds.c.status == RUNNING, builds.c.node_id == node_id)
    query = select(builds.c.build_id, builds.c.claim, builds.c.nonce).where(*mine)
    with store.read() as tx:
        found = [row for row in tx.execute(query).all() if is_gone(row.nonce)]
    if not found:
        return 0
    expired = 0
    with store.transaction() as tx:
        now = store.now(tx)
        for each in found:
            same = (builds.c.build_id == each.build_id, builds.c.claim == each.claim)
            for row in lock(tx, select(builds).where(*mine, *same), skip=True):
                if row["stage"] == WORK:
                    lost(tx, now, row)
                elif row["finalizer"] and row["lease_until"] > now:
                    write(tx, row, lease_until=now)  # due; who adopts it counts the finalizer as lost
                else:
                    continue
                expired += 1
    return expired
