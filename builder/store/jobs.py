"""What a worker and a watcher write of a Job: the mark, the hand-over, adoption, caught-up, heartbeats.

The control side never speaks to the cluster. A Job's name holds its attempt, so what the store says of an attempt says
it of its Job.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, case, or_, select, tuple_, update

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store.engine import Store
from builder.store.owner import Finished, Phases, all_phases
from builder.store.rows import (
    Row,
    cancelled,
    fenced,
    lock,
    lock_timed,
    to_watch,
    transition,
    worked_on,
    write,
)
from builder.store.schema import builds
from builder.store.transitions import JOB, OWNED, RUNNING, WORK, WORK_PHASES, furthest


class Unmarked(Exception):
    """A Job is reported whose attempt has no mark."""


class Foreign(Exception):
    """A Job is named that cannot be this attempt's."""


def launching(store: Store, build_id: str, claim: int, job: pb.Job, kept: str, node: str = "") -> Row | None:
    """Mark the attempt with its Job (`kept`: as stored) before the Job is created. None: stale.

    With a cancel that was requested nothing is marked: the row tells it. Raises `Foreign` for the name of another
    attempt's Job, whose log and end would be taken for this one's.
    """
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, WORK, node)
        if row is None:
            return None
        if not job.name.endswith(f"-{build_id}-{row['attempt']}"):
            raise Foreign(f"-{build_id}-{row['attempt']}")
        if row["cancel_requested"] or row["job"] == kept:
            return row
        return transition(tx, now, row, "launching", job=kept)


def launched(store: Store, build_id: str, claim: int, log_count: int, phases: Phases = (), node: str = "") -> Finished:
    """The Job is created: stage JOB under a new claim that nobody has yet, or CANCELLED when that was requested.

    As a finish: "stale", "incomplete", or "done" however often it is repeated. Raises `Unmarked`.
    """
    with store.transaction() as tx:
        row, now = lock_timed(store, tx, builds.c.build_id == build_id, *worked_on(node))
        if row is None:
            return Finished(outcome="stale")
        finished = json.loads(row["finished"])
        if claim in finished:
            return Finished(outcome="done", row=row)
        if (row["claim"], row["status"], row["stage"]) != (claim, RUNNING, WORK):
            return Finished(outcome="stale", row=row)
        if not row["job"]:
            raise Unmarked(build_id)
        if row["claim_lines"] < log_count:
            return Finished(outcome="incomplete", row=row)
        row = {**row, "phase": furthest(row["phase"], ("BUILD",))}
        values = {"finished": json.dumps([*finished, claim]), "phases": all_phases(row, phases), "phase": row["phase"]}
        if row["cancel_requested"]:
            return Finished(outcome="done", row=cancelled(tx, now, row, **values))
        return Finished(outcome="done", row=to_watch(tx, now, row, "launched", job_seen=True, **values))


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """The build that was adopted; without one there is none, or `refused` has why not."""

    row: Row | None = None
    refused: str = ""


def adopt(store: Store, watcher: str, nonce: str, lease_ms: int, *, look: bool = True) -> Adopted:
    """Grant a watcher the build in JOB that has been without one for longest. Repeated with its nonce: the same.

    One build after the other: only one of a watcher's is not caught up, so that a build of which watchers die is the
    only one that counts them. `look` reads first, for a watcher that expects to find nothing.
    """
    if look:
        query = select(builds.c.build_id).where(or_(and_(*_free()), and_(*_adopted(watcher, nonce))))
        with store.read() as tx:
            if tx.execute(query.limit(1)).first() is None:
                return Adopted()
    with store.transaction() as tx:
        now = store.now(tx)
        for row in lock(tx, select(builds).where(*_adopted(watcher, nonce))):
            return Adopted(row=write(tx, row, lease_until=now + lease_ms, updated_at=now))
        behind = select(builds.c.build_id).where(*_watched(watcher), builds.c.caught_up.is_(False))
        if other := tx.execute(behind.limit(1)).scalar():
            return Adopted(refused=f"this watcher has not caught up with {other}")
        free = select(builds).where(*_free()).order_by(builds.c.lease_until, builds.c.number)
        for row in lock(tx, free.limit(1), skip=True):
            after = transition(
                tx, now, row, "adopt-job", claim=row["claim"] + 1, watcher=watcher, nonce=nonce, claim_lines=0,
                lease_until=now + lease_ms, unwatched=False, waited_ms=row["waited_ms"] + now - row["lease_until"],
            )  # fmt: skip
            return Adopted(row=after)
    return Adopted()


def _free() -> Sequence[ColumnElement[bool]]:
    """The condition of a build in JOB that no watcher has."""
    return (builds.c.status == RUNNING, builds.c.stage == JOB, builds.c.watcher == "")


def _watched(watcher: str) -> Sequence[ColumnElement[bool]]:
    """The condition of a build that this watcher has."""
    return (builds.c.status == RUNNING, builds.c.stage == JOB, builds.c.watcher == watcher)


def _adopted(watcher: str, nonce: str) -> Sequence[ColumnElement[bool]]:
    """The condition of the build that this call has adopted before."""
    return (*_watched(watcher), builds.c.nonce == nonce)


def caught_up(store: Store, build_id: str, claim: int, watcher: str = "", *, seen: bool = True) -> Row | None:
    """The watcher has what the Job did before: from here on it may be lost without a cost. None: stale.

    `seen`: the Job was there. One that its lost worker did not create is followed, too, until it counts as gone.
    """
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, JOB, watcher)
        if row is None or row["caught_up"]:
            return row
        return transition(tx, now, row, "caught-up", caught_up=True, job_seen=row["job_seen"] or seen)


def beat(
    store: Store, watcher: str, beats: Collection[tuple[str, int, str]], lease_ms: int
) -> Mapping[tuple[str, int], bool]:
    """Renew the leases of a watcher's builds: (build, claim, phase) each. One fenced UPDATE for each phase.

    Returns (build, claim) → whether a cancel was requested; one that is missing is stale.
    """
    renewed: dict[tuple[str, int], bool] = {}
    with store.transaction() as tx:
        now = store.now(tx)
        for phase in sorted({one[2] for one in beats}):
            ours = tuple_(builds.c.build_id, builds.c.claim).in_([one[:2] for one in beats if one[2] == phase])
            values: dict[str, object] = {"lease_until": now + lease_ms, "updated_at": now}
            if phase in WORK_PHASES:
                before = WORK_PHASES[: WORK_PHASES.index(phase)]
                values["phase"] = case((builds.c.phase.in_(before), phase), else_=builds.c.phase)
            done = update(builds).where(*_watched(watcher), ours).values(**values)
            rows = tx.execute(done.returning(builds.c.build_id, builds.c.claim, builds.c.cancel_requested)).all()
            renewed |= {(row.build_id, row.claim): bool(row.cancel_requested) for row in rows}
    return renewed


def current(store: Store, attempts: Collection[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    """Which of these (build, attempt) may have a Job: RUNNING in WORK or JOB, and not another attempt."""
    query = select(builds.c.build_id, builds.c.attempt).where(builds.c.build_id.in_({one[0] for one in attempts}))
    query = query.where(builds.c.status == RUNNING, builds.c.stage.in_(OWNED))
    with store.read() as tx:
        found = {(row.build_id, int(row.attempt)) for row in tx.execute(query)}
    return frozenset(found & set(attempts))
