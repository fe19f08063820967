"""What the dispatcher and the reconciler write. Every query is a seek or bounded: 10,000 queued cost what 10 cost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from builder.store import logs
from builder.store.engine import Store
from builder.store.rows import Row, cancelled, end, failure, get, inserted, locked, lost, tell
from builder.store.schema import builds, turns
from builder.store.transitions import FAILED, FINALIZE, PENDING, RUNNING, WORK

OFFER_AGAIN_MS = (5_000, 10_000, 20_000, 30_000)
ORGANIZATIONS = 64  # looked at in one call; the round goes on where it ended
BATCH = 100  # builds that one sweep ends; the next tick takes the rest


def offerable(store: Store, queue: str, toolchains: Sequence[str], limit: int) -> list[str]:
    """Ids to offer: fair between organizations (fewest running first), then priority, then age. Marks them offered.

    `limit` is the queue's window: hints of the last 5 s that nobody claimed yet fill it. A hint that is still
    unclaimed is offered again after 5, 10, 20, then 30 s.
    """
    with store.transaction() as tx:
        now = store.now(tx)
        here = and_(builds.c.status == PENDING, builds.c.queue == queue)
        recent = select(builds.c.number).where(here, builds.c.offered_at > now - OFFER_AGAIN_MS[0]).limit(limit)
        limit -= len(tx.execute(recent).all())
        if limit <= 0:
            return []
        query = select(builds.c.organization, func.count()).where(builds.c.status == RUNNING)
        busy = {row[0]: int(row[1]) for row in tx.execute(query.group_by(builds.c.organization))}
        waiting: dict[str, list[Row]] = {}
        for organization in _in_turn(tx, queue, [*toolchains, ""]):
            if found := _ready(tx, now, organization, queue, [*toolchains, ""], limit):
                waiting[organization] = found
        picked: list[Row] = []
        while len(picked) < limit and waiting:
            turn = min(waiting, key=lambda name: busy.get(name, 0))  # among equals: whose turn it is
            picked.append(waiting[turn].pop(0))
            busy[turn] = busy.get(turn, 0) + 1
            if not waiting[turn]:
                del waiting[turn]
        for row in picked:
            pause = OFFER_AGAIN_MS[min(row["offers"], len(OFFER_AGAIN_MS) - 1)]
            mark = {"offered_at": now, "offer_from": now + pause, "offers": row["offers"] + 1}
            same = and_(builds.c.build_id == row["build_id"], builds.c.status == PENDING)
            if tx.execute(update(builds).where(same).values(**mark)).rowcount:
                tell(tx, "offer", row)
        if picked:
            _turn_ends(tx, queue, picked[-1]["organization"])
    return [row["build_id"] for row in picked]


def _in_turn(tx: Connection, queue: str, toolchains: Sequence[str]) -> list[str]:
    """Organizations with queued builds, from the one after the last served, at most `ORGANIZATIONS` of them."""
    last = tx.execute(select(turns.c.organization).where(turns.c.queue == queue)).scalar() or ""
    found: list[str] = []
    for start, stop in ((last, None), ("", last)):
        at = start
        while len(found) < ORGANIZATIONS:
            nearest = [name for name in (_next(tx, queue, one, at) for one in toolchains) if name]
            at = min(nearest, default="")
            if not at or (stop is not None and at > stop):
                break
            found.append(at)
    return found


def _next(tx: Connection, queue: str, toolchain: str, after: str) -> str:
    query = select(builds.c.organization).where(*_lane(queue, toolchain), builds.c.organization > after)
    return tx.execute(query.order_by(builds.c.organization).limit(1)).scalar() or ""


def _lane(queue: str, toolchain: str) -> Iterable[Any]:
    """The front columns of the index `builds_to_offer`."""
    lane = (builds.c.queue == queue, builds.c.toolchain == toolchain)
    return (builds.c.status == PENDING, *lane, builds.c.attached_to == "")


def _ready(tx: Connection, now: int, organization: str, queue: str, toolchains: Sequence[str], limit: int) -> list[Row]:
    found: list[Row] = []
    for toolchain in toolchains:
        query = select(builds).where(*_lane(queue, toolchain), builds.c.organization == organization)
        query = query.where(builds.c.offer_from <= now).order_by(builds.c.priority.desc(), builds.c.number)
        found += tx.execute(query.limit(limit)).mappings()
    return sorted(found, key=lambda row: (-row["priority"], row["number"]))[:limit]


def _turn_ends(tx: Connection, queue: str, organization: str) -> None:
    changed = tx.execute(update(turns).where(turns.c.queue == queue).values(organization=organization))
    if not changed.rowcount:
        inserted(tx, insert(turns).values(queue=queue, organization=organization))


def waiting_queues(store: Store) -> set[str]:
    """The queues that any build waits in: what a dispatcher with nothing to do asks for, and nothing else."""
    with store.transaction() as tx:
        return {queue for queue, _ in _lanes(tx)}


def expire_leases(store: Store) -> list[Row]:
    """Builds whose owner has gone: PENDING again, FAILED when poison, CANCELLED when that was asked for."""

    def due(now: int) -> Any:
        return and_(builds.c.status == RUNNING, builds.c.half == WORK, builds.c.lease_until <= now)

    return _sweep(store, due, lost)


Live = Mapping[str, Collection[str]]
"""Queue → the toolchains of the live nodes that read it."""


Lane = tuple[str, str]
"""(queue, toolchain) as builds wait in."""


def missing(live: Live, queue: str, toolchain: str) -> str:
    """Why no live node takes a build of this lane; "" when one does."""
    if queue not in live:
        return f"no live node reads {queue}"
    return f"no live node has {toolchain}" if toolchain and toolchain not in live[queue] else ""


def tell_untaken(store: Store, live: Live, waited_ms: int, told: dict[Lane, tuple[int, int]]) -> list[Row]:
    """Say in the log of each build that waits for a node there is not what is missing, once it has waited so long.

    `told` holds (queued_at, number) of the last one told in each lane that nobody takes; it is changed. The caller
    keeps it: a control process that starts anew tells again.
    """
    changed: list[Row] = []
    until: dict[Lane, tuple[int, int]] = {}
    with store.transaction() as tx:
        now = store.now(tx)
        lacking = {lane: why for lane in _lanes(tx) if (why := missing(live, *lane))}
        for lane, why in lacking.items():
            at, number = told.get(lane, (0, 0))
            later = or_(builds.c.queued_at > at, and_(builds.c.queued_at == at, builds.c.number > number))
            query = select(builds).where(*_lane(*lane), later, builds.c.queued_at <= now - waited_ms)
            query = query.order_by(builds.c.queued_at, builds.c.number).limit(BATCH)
            for row in locked(tx, query, skip=True):  # what another holds is being claimed or ended
                logs.system(tx, now, row, f"{why}; this build waits for one")
                until[lane] = (row["queued_at"], row["number"])
                changed.append(row)
    for lane in set(told) - set(lacking):
        del told[lane]
    told.update(until)
    return changed


def _lanes(tx: Connection) -> list[Lane]:
    """The lanes of all that is queued: a few seeks, however much that is."""
    found: list[Lane] = []
    at = select(builds.c.queue, builds.c.toolchain).where(builds.c.status == PENDING)
    at = at.order_by(builds.c.queue, builds.c.toolchain).limit(1)
    row = tx.execute(at).first()
    while row:
        found.append((row.queue, row.toolchain))
        same = at.where(builds.c.queue == row.queue, builds.c.toolchain > row.toolchain)
        row = tx.execute(same).first() or tx.execute(at.where(builds.c.queue > row.queue)).first()
    return found


def queue_timeouts(store: Store, live: Live) -> list[Row]:
    """Builds that waited too long. No live node takes them: ToolchainUnavailable; else QueueTimeout."""

    def due(now: int) -> Any:
        return and_(builds.c.status == PENDING, builds.c.attached_to == "", builds.c.queue_until <= now)

    def over(tx: Connection, now: int, row: Row) -> None:
        if row["cancel_requested"]:
            cancelled(tx, now, row)
            return
        waited = f"waited {(now - row['queued_at']) // 1000} s"
        if why := missing(live, row["queue"], row["toolchain"]):
            kept = failure("ToolchainUnavailable", f"{waited}; {why}", "QUEUED")
        else:
            kept = failure("QueueTimeout", f"{waited} for a free slot", "QUEUED")
        end(tx, now, row, "queue-timeout", FAILED, kept)

    return _sweep(store, due, over)


def build_timeouts(store: Store, lease_ms: int) -> list[Row]:
    """Builds past the time of their attempt whose owner did not end them, one lease late; never after the mark.

    In FINALIZE the user's code is built and pushed: what is late there is ours.
    """

    def due(now: int) -> Any:
        late = builds.c.started_at + builds.c.timeout_ms + lease_ms <= now
        return and_(builds.c.status == RUNNING, builds.c.published.is_(False), late)

    def over(tx: Connection, now: int, row: Row) -> None:
        if row["cancel_requested"]:
            cancelled(tx, now, row)
            return
        reason, message = "Timeout", f"not finished after {row['timeout_ms'] // 1000} s"
        if row["half"] == FINALIZE:
            reason, message = "RegistryUnavailable", f"built and pushed, but attesting it was {message}"
        end(tx, now, row, "build-timeout", FAILED, failure(reason, message, row["phase"]))

    return _sweep(store, due, over)


def _sweep(store: Store, due: Callable[[int], Any], over: Callable[[Connection, int, Row], None]) -> list[Row]:
    changed: list[Row] = []
    with store.transaction() as tx:
        now = store.now(tx)
        query = select(builds.c.build_id).where(due(now)).limit(BATCH)
        for build_id in tx.execute(query).scalars().all():
            # Read again under the lock: an end before it in this sweep may have ended or moved it too.
            still = select(builds).where(builds.c.build_id == build_id, due(now))
            for row in locked(tx, still, skip=True):
                over(tx, now, row)
                changed.append(get(tx, build_id))
    return changed
