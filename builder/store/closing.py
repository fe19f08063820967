"""What the control side writes in FINALIZE: adopt, keep, release, rebuild, the PUBLISH mark, tags, SUCCEEDED."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, delete, select, tuple_, update

from builder.store.engine import Store
from builder.store.rows import (
    Row,
    cancelled,
    end,
    fence,
    fenced,
    insert_into,
    lock,
    poisoned,
    requeue,
    transition,
    with_phases,
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
            query = select(builds).where(builds.c.status == RUNNING, builds.c.stage == FINALIZE)
            query = query.where(builds.c.lease_until <= now).order_by(builds.c.number).limit(1)
            row = next(iter(lock(tx, query, skip=True)), None)
            if row is None:
                return None
            counts = row["finalizer"] and not row["published"]
            line = "the finalizer of this build was lost; another takes over" if counts else ""
            if not (counts and poisoned(tx, now, row, "finalizer-lost", line=line)):
                return transition(
                    tx, now, row, "adopt", claim=row["claim"] + 1, lease_until=now + lease_ms, finalizer=True,
                    phase="FINALIZE" if row["published"] else "ATTEST", failures=row["failures"] + int(counts),
                    line=line,
                )  # fmt: skip


def keep_finalize(store: Store, build_id: str, claim: int, lease_ms: int) -> bool:
    """Renew the lease of a finalizer that is still at it: one fenced UPDATE. False: stale."""
    with store.transaction() as tx:
        renewed = update(builds).where(and_(*fence(build_id, claim, FINALIZE)))
        return tx.execute(renewed.values(lease_until=store.clock_column(tx) + lease_ms)).rowcount == 1


def release_finalize(store: Store, build_id: str, claim: int, after_ms: int) -> None:
    """Trouble in FINALIZE repeats the step later, never the build. No owner was lost: nothing counts."""
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is not None:
            transition(tx, now, row, "finalize-later", lease_until=now + after_ms, finalizer=False)


def rebuild(store: Store, build_id: str, claim: int, digest: str) -> Row | None:
    """A reused artifact is not in the registry any more: forget it, and build. None: stale."""
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None or row["published"] or not row["from_cache_of"]:
            return None
        if row["cancel_requested"]:
            return cancelled(tx, now, row)
        mine = (cache.c.organization == row["organization"], cache.c.build_key == row["build_key"])
        tx.execute(delete(cache).where(*mine, cache.c.repository == row["repository"]))
        line = f"the artifact {digest} of {row['from_cache_of']} is not in the registry any more; building it again"
        return requeue(tx, now, row, "artifact-gone", artifact="", from_cache_of="", line=line)


def publish(store: Store, build_id: str, claim: int) -> Row | None:
    """The PUBLISH mark: from here the build only goes forward. None: stale, or CANCELLED because that was asked for."""
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None:
            return None
        if row["cancel_requested"] and not row["published"]:
            cancelled(tx, now, row)
            return None
        return transition(tx, now, row, "publish", published=True, phase="FINALIZE")


def claim_tag(store: Store, row: Row, tag: str, digest: str) -> bool:
    """Whether the tag is this build's: the newest submitted wins, an older one that ends later leaves it.

    False also when `row` (as adopted) owns its build no more, or the PUBLISH mark is missing.
    """
    with store.transaction() as tx:
        owned, now = fenced(store, tx, row["build_id"], row["claim"], FINALIZE)
        if owned is None or not owned["published"]:
            return False
        values = {"number": row["number"], "digest": digest, "changed_at": now, "checked_at": 0}
        claimed = insert_into(tx, tags).values(repository=row["repository"], tag=tag, **values)
        newest = tags.c.number <= row["number"]
        claimed = claimed.on_conflict_do_update(index_elements=["repository", "tag"], set_=values, where=newest)
        return tx.execute(claimed.returning(tags.c.tag)).first() is not None


def tag_digest(store: Store, repository: str, tag: str) -> str:
    """The digest that a user tag has to point at; empty for one that is not ours."""
    with store.read() as tx:
        query = select(tags.c.digest).where(tags.c.repository == repository, tags.c.tag == tag)
        return str(tx.execute(query).scalar() or "")


def tags_to_check(store: Store, for_ms: int, every_ms: int, limit: int) -> Sequence[Row]:
    """Tags that changed in the last `for_ms` and were not looked at for `every_ms`; each is marked as looked at."""
    with store.read() as tx:
        now = store.now(tx)
        query = select(tags).where(tags.c.changed_at > now - for_ms, tags.c.checked_at <= now - every_ms)
        query = query.where(tags.c.changed_at <= now - every_ms).order_by(tags.c.checked_at).limit(limit)
        found = tx.execute(query).mappings().all()
    if not found:
        return ()
    with store.transaction() as tx:
        same = tuple_(tags.c.repository, tags.c.tag).in_([(row["repository"], row["tag"]) for row in found])
        tx.execute(update(tags).where(same).values(checked_at=now))
    return found


def succeed(store: Store, build_id: str, claim: int, phases: Sequence[tuple[str, int, int]]) -> Row | None:
    """SUCCEEDED, its report, the cache entry and what the attached builds get: one transaction. None: stale."""
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None or not row["published"]:
            return None
        if row["build_key"]:
            same = {name: row[name] for name in ("organization", "build_key", "repository")}
            kept = {name: row[name] for name in ("build_id", "artifact")}
            entry = insert_into(tx, cache).values(**same, **kept)
            if row["no_cache"]:  # asked for anew
                tx.execute(entry.on_conflict_do_update(index_elements=list(same), set_=kept))
            else:
                tx.execute(entry.on_conflict_do_nothing())
        every = with_phases(row, [(name, start, stop, True) for name, start, stop in phases])
        return end(tx, now, row, "succeed", SUCCEEDED, "", phases=every)
