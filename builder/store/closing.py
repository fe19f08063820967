"""What the control side writes in FINALIZE: adopt, release, the PUBLISH mark, tags, SUCCEEDED."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, insert, select, update

from builder.store import logs
from builder.store.engine import Store
from builder.store.rows import (
    Row,
    add_phase,
    cancelled,
    emit,
    end,
    get,
    inserted,
    locked,
    owned,
    poisoned,
    write,
)
from builder.store.schema import builds, cache, tags
from builder.store.transitions import FINALIZE, RUNNING, SUCCEEDED


def adopt_finalize(store: Store, lease_ms: int) -> Row | None:
    """Take the oldest build in FINALIZE whose lease is over; a new claim fences the last finalizer off.

    A finalizer that was lost before the PUBLISH mark counts towards poison: that build ends, the next one is taken.
    After the mark the build only goes forward. None: nothing waits.
    """
    while True:
        with store.transaction() as tx:
            now = store.now(tx)
            query = select(builds).where(builds.c.status == RUNNING, builds.c.half == FINALIZE)
            query = query.where(builds.c.lease_until <= now).order_by(builds.c.number).limit(1)
            row = next(iter(locked(tx, query, skip=True)), None)
            if row is None:
                return None
            counts = row["finalizer"] and not row["published"]
            if counts:
                logs.system(tx, now, row, "the finalizer of this build was lost; another takes over")
            ended = counts and poisoned(tx, now, row)
            if not ended:
                write(
                    tx, row, claim=row["claim"] + 1, lease_until=now + lease_ms, finalizer=True, updated_at=now,
                    phase="FINALIZE" if row["published"] else "ATTEST", failures=row["failures"] + int(counts),
                )  # fmt: skip
            row = get(tx, row["build_id"])
        emit(store, "finalizer-lost" if ended else "adopt", row)
        if not ended:
            return row


def release_finalize(store: Store, build_id: str, number: int, after_ms: int) -> None:
    """Trouble in FINALIZE repeats the step later, never the build. No owner was lost: nothing counts."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is not None and row["half"] == FINALIZE:
            now = store.now(tx)
            write(tx, row, lease_until=now + after_ms, finalizer=False, updated_at=now)


def publish(store: Store, build_id: str, number: int) -> Row | None:
    """The PUBLISH mark: from here the build only goes forward. None: stale, or CANCELLED because that was asked for."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != FINALIZE:
            return None
        now, action = store.now(tx), "publish"
        if row["cancel_requested"] and not row["published"]:
            action = cancelled(tx, now, row)
        else:
            write(tx, row, published=True, phase="FINALIZE", updated_at=now)
        row = get(tx, build_id)
    emit(store, action, row)
    return row if action == "publish" else None


def claim_tag(store: Store, row: Row, tag: str, digest: str) -> bool:
    """Whether the tag is this build's: the newest submitted wins, an older one that ends later leaves it.

    False also when `row` (as adopted) owns its build no more, or the PUBLISH mark is missing.
    """
    with store.transaction() as tx:
        held = owned(tx, row["build_id"], row["claim"])
        if held is None or held["half"] != FINALIZE or not held["published"]:
            return False
        where = and_(tags.c.repository == row["repository"], tags.c.tag == tag)
        values = {"number": row["number"], "digest": digest}
        if inserted(tx, insert(tags).values(repository=row["repository"], tag=tag, **values)):
            return True
        mine = and_(where, tags.c.number <= row["number"])
        return tx.execute(update(tags).where(mine).values(**values)).rowcount == 1


def succeed(store: Store, build_id: str, number: int, phases: Sequence[tuple[str, int, int]]) -> Row | None:
    """SUCCEEDED, its report, the cache entry and what the attached builds get: one transaction. None: stale."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != FINALIZE or not row["published"]:
            return None
        now = store.now(tx)
        for name, start, stop in phases:
            add_phase(tx, row, name, start, stop)
        if row["build_key"] and not row["no_cache"]:
            names = ("organization", "build_key", "repository", "build_id", "artifact")
            inserted(tx, insert(cache).values(**{name: row[name] for name in names}))
        end(tx, now, row, SUCCEEDED, "")
        row = get(tx, build_id)
    emit(store, "succeed", row)
    return row
