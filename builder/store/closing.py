"""What the control side writes in FINALIZE: adopt, keep, release, rebuild, the PUBLISH mark, tags, SUCCEEDED."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, case, delete, func, insert, select, update

from builder.store import logs
from builder.store.engine import Store
from builder.store.rows import (
    Row,
    add_phase,
    cancelled,
    end,
    get,
    inserted,
    locked,
    move,
    owned,
    poisoned,
    requeue,
    write,
)
from builder.store.schema import builds, cache, tags
from builder.store.transitions import FINALIZE, RUNNING, SUCCEEDED

LATER_MS, LATEST_MS = 2_000, 60_000
"""The pause after the first failed attempt; it doubles with each further one, up to the second figure."""

ADOPTING = 0x19117F  # the advisory locks that this module takes, one for each repository


def adopt_finalize(store: Store, lease_ms: int) -> Row | None:
    """Take the build in FINALIZE that has been due for longest; a new claim fences the last finalizer off.

    A repository at which a finalizer is at work (in this process or another) is passed over.
    A finalizer that was lost before the PUBLISH mark counts towards poison: that build ends, the next one is taken.
    After the mark the build only goes forward. None: nothing waits.
    """
    while True:
        with store.transaction() as tx:
            now = store.now(tx)
            row = _longest_due(tx, now)
            if row is None:
                return None
            counts = row["finalizer"] and not row["published"]
            if counts:
                logs.system(tx, now, row, "the finalizer of this build was lost; another takes over")
            ended = counts and poisoned(tx, now, row, "finalizer-lost")
            if not ended:
                move(
                    tx, row, "adopt", claim=row["claim"] + 1, lease_until=now + lease_ms, finalizer=True,
                    phase="FINALIZE" if row["published"] else "ATTEST", failures=row["failures"] + int(counts),
                    updated_at=now,
                )  # fmt: skip
                return get(tx, row["build_id"])


def _longest_due(tx: Connection, now: int) -> Row | None:
    """The next build to finalize, locked, of a repository that no finalizer is at."""
    others = builds.alias()
    at_work = select(others.c.repository).where(
        others.c.status == RUNNING, others.c.half == FINALIZE, others.c.finalizer.is_(True), others.c.lease_until > now
    )
    # A build that has just entered FINALIZE has no lease yet: it is due since then.
    due_since = case((builds.c.lease_until == 0, builds.c.updated_at), else_=builds.c.lease_until)
    query = select(builds).where(builds.c.status == RUNNING, builds.c.half == FINALIZE, builds.c.lease_until <= now)
    query = query.where(builds.c.repository.not_in(at_work)).order_by(due_since, builds.c.number).limit(1)
    passed: list[str] = []
    while True:
        row = next(iter(locked(tx, query.where(builds.c.repository.not_in(passed)), skip=True)), None)
        if row is None or tx.dialect.name == "sqlite":  # SQLite has one writer: nobody adopts beside us
            return row
        # Elsewhere a transaction that is not committed may adopt another build of this repository right now. The lock
        # lasts until the commit; with it, a second look sees what was committed before.
        mine = select(func.pg_try_advisory_xact_lock(ADOPTING, func.hashtext(row["repository"])))
        taken = at_work.where(others.c.repository == row["repository"]).limit(1)
        if tx.execute(mine).scalar() and tx.execute(taken).first() is None:
            return row
        passed.append(row["repository"])


def keep_finalize(store: Store, build_id: str, number: int, lease_ms: int) -> bool:
    """Renew the lease of a finalizer that is still at it. False: stale."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != FINALIZE:
            return False
        write(tx, row, lease_until=store.now(tx) + lease_ms)
        return True


def release_finalize(store: Store, build_id: str, number: int, wish_ms: int = 0) -> None:
    """Trouble in FINALIZE repeats the step later, never the build. No owner was lost: nothing counts.

    The pause grows with each attempt of this build that failed: 2, 4, 8 … 60 s. `wish_ms` (the registry's Retry-After)
    makes it longer, up to 60 s.
    """
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is not None and row["half"] == FINALIZE:
            now = store.now(tx)
            pause = min(max(LATER_MS << min(row["finalize_tries"], 10), wish_ms), LATEST_MS)
            later = {"lease_until": now + pause, "finalize_tries": row["finalize_tries"] + 1}
            move(tx, row, "finalize-later", **later, finalizer=False, updated_at=now)


def rebuild(store: Store, build_id: str, number: int, digest: str) -> Row | None:
    """A reused artifact is not in the registry any more: forget it, and build. None: stale."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != FINALIZE or row["published"] or not row["from_cache_of"]:
            return None
        now = store.now(tx)
        if row["cancel_requested"]:
            cancelled(tx, now, row)
            return get(tx, build_id)
        mine = (cache.c.organization == row["organization"], cache.c.build_key == row["build_key"])
        tx.execute(delete(cache).where(*mine, cache.c.repository == row["repository"]))
        text = f"the artifact {digest} of {row['from_cache_of']} is not in the registry any more; building it again"
        logs.system(tx, now, row, text)
        requeue(tx, now, row, "artifact-gone", artifact="", from_cache_of="", finalize_tries=0)
        return get(tx, build_id)


def publish(store: Store, build_id: str, number: int) -> Row | None:
    """The PUBLISH mark: from here the build only goes forward. None: stale, or CANCELLED because that was asked for."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != FINALIZE:
            return None
        now = store.now(tx)
        if row["cancel_requested"] and not row["published"]:
            cancelled(tx, now, row)
            return None
        move(tx, row, "publish", published=True, phase="FINALIZE", updated_at=now)
        return get(tx, build_id)


def claim_tag(store: Store, row: Row, tag: str, digest: str) -> bool:
    """Whether the tag is this build's: the newest submitted wins, an older one that ends later leaves it.

    False also when `row` (as adopted) owns its build no more, or the PUBLISH mark is missing.
    """
    with store.transaction() as tx:
        held = owned(tx, row["build_id"], row["claim"])
        if held is None or held["half"] != FINALIZE or not held["published"]:
            return False
        where = and_(tags.c.repository == row["repository"], tags.c.tag == tag)
        values = {"number": row["number"], "digest": digest, "changed_at": store.now(tx), "checked_at": 0}
        if inserted(tx, insert(tags).values(repository=row["repository"], tag=tag, **values)):
            return True
        mine = and_(where, tags.c.number <= row["number"])
        return tx.execute(update(tags).where(mine).values(**values)).rowcount == 1


def tag_digest(store: Store, repository: str, tag: str) -> str:
    """The digest that a user tag has to point at; empty for one that is not ours."""
    with store.transaction() as tx:
        query = select(tags.c.digest).where(tags.c.repository == repository, tags.c.tag == tag)
        return str(tx.execute(query).scalar() or "")


def tags_to_check(store: Store, for_ms: int, every_ms: int, limit: int) -> Sequence[Row]:
    """Tags that changed in the last `for_ms` and were not looked at for `every_ms`; each is marked as looked at."""
    with store.transaction() as tx:
        now = store.now(tx)
        query = select(tags).where(tags.c.changed_at > now - for_ms, tags.c.checked_at <= now - every_ms)
        query = query.where(tags.c.changed_at <= now - every_ms).order_by(tags.c.checked_at).limit(limit)
        found = tx.execute(query).mappings().all()
        for row in found:
            same = and_(tags.c.repository == row["repository"], tags.c.tag == row["tag"])
            tx.execute(update(tags).where(same).values(checked_at=now))
        return found


def succeed(store: Store, build_id: str, number: int, phases: Sequence[tuple[str, int, int]]) -> Row | None:
    """SUCCEEDED, its report, the cache entry and what the attached builds get: one transaction. None: stale."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != FINALIZE or not row["published"]:
            return None
        now = store.now(tx)
        for name, start, stop in phases:
            add_phase(tx, row, name, start, stop)
        if row["build_key"]:
            same = {name: row[name] for name in ("organization", "build_key", "repository")}
            kept = {name: row[name] for name in ("build_id", "artifact")}
            if not inserted(tx, insert(cache).values(**same, **kept)) and row["no_cache"]:  # asked for anew
                mine = and_(*(cache.c[name] == value for name, value in same.items()))
                tx.execute(update(cache).where(mine).values(**kept))
        end(tx, now, row, "succeed", SUCCEEDED, "")
        return get(tx, build_id)
