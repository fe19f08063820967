"""What is past its time: found and deleted in bounded batches, each transaction checks again what it read.

A page is a seek in an index, and a batch goes on where the one before ended (`Batch.at`): what must stay is passed over
once in a run. Terminal builds get no new names, but for a cache entry that is answered while it expires.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, delete, func, or_, select, tuple_, update

from builder.store.engine import Store
from builder.store.rows import Row, lock
from builder.store.schema import builds, cache, contexts, held_lines, labels, log_chunks, nodes, reports, revoked, tags
from builder.store.transitions import EXTERNAL, TERMINAL

BATCH = 20
BATCH_BYTES = 16 * 1024 * 1024  # of logs that one transaction deletes, and at least one build
PAGE = 500

NOT_SWEPT, BUT_THE_LAST, SWEPT = 0, 1, 2
"""How far the tags of a build's attempts are swept: not at all; all but the last, which a cache entry needs; all."""

Cursor = tuple[Any, Any]
START: Cursor = (0, 0)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one transaction deleted, and where the next one goes on; None: nothing is left."""

    deleted: int
    at: Cursor | None


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """The tags of the attempts of an ended build. `cached`: a cache entry names the build, so its last one stays."""

    build_id: str
    repository: str
    tags: tuple[str, ...]
    cached: bool


# Builds


def delete_builds(
    store: Store, status: str, age_ms: int, *, tagged_stay: bool, at: Cursor = START, limit: int = BATCH
) -> Batch:
    """Delete builds of a terminal status that ended so long ago, with their logs and reports.

    What stays: a build that a cache entry names, one that a current tag names (`tagged_stay`), one whose attempts have
    tags that were not looked at, and the newest build of all.
    """
    with store.transaction() as tx:
        due = and_(builds.c.status == status, builds.c.ended_at <= store.now(tx) - age_ms)
        place = (builds.c.ended_at, builds.c.number)
        page = select(builds.c.build_id, *place, builds.c.log_bytes, builds.c.held_bytes).where(due)
        found = tx.execute(page.where(tuple_(*place) > at).order_by(*place).limit(limit)).all()
        taken = _within(found)
        ids = [row.build_id for row in taken]
        free = [or_(builds.c.attempts_swept == SWEPT, builds.c.attempt == 0), ~_cached().exists()]
        # Of an empty end SQLite gives a number again, and `tags` compares numbers of builds that are gone.
        free.append(builds.c.number < select(func.max(builds.alias().c.number)).scalar_subquery())
        if tagged_stay:
            names = and_(tags.c.repository == builds.c.repository, tags.c.number == builds.c.number)
            free.append(~select(tags.c.tag).where(names).exists())
        unneeded = select(builds.c.build_id).where(builds.c.build_id.in_(ids), due, *free)
        doomed = [row["build_id"] for row in lock(tx, unneeded, skip=True)] if ids else []
        if doomed:
            for table in (log_chunks, held_lines, reports, labels, builds):
                tx.execute(delete(table).where(table.c.build_id.in_(doomed)))
        last = taken[-1] if taken else None
        more = last is not None and (len(found) == limit or len(taken) < len(found))
        return Batch(deleted=len(doomed), at=(last.ended_at, last.number) if more and last is not None else None)


def _within(found: Sequence[Any]) -> Sequence[Any]:
    """The first builds whose logs are small enough for one transaction, at least one."""
    size = 0
    for index, row in enumerate(found):
        size += row.log_bytes + row.held_bytes
        if index and size > BATCH_BYTES:
            return found[:index]
    return found


def _cached() -> Any:
    return select(cache.c.build_id).where(cache.c.build_id == builds.c.build_id)


# Tags of attempts


def ended_attempts(
    store: Store, age_ms: int, swept: int = NOT_SWEPT, at: Cursor = START, limit: int = BATCH
) -> tuple[list[Attempts], Cursor | None]:
    """Builds that ended so long ago and have tags to delete, oldest first, and where the next page begins.

    `swept` is NOT_SWEPT, or BUT_THE_LAST for those whose last tag stayed for a cache entry that has gone since.
    """
    place = (builds.c.ended_at, builds.c.number)
    query = select(builds.c.build_id, builds.c.repository, builds.c.attempt, _cached().exists().label("cached"), *place)
    with store.read() as tx:
        due = (builds.c.attempts_swept == swept, builds.c.ended_at > 0, builds.c.ended_at <= store.now(tx) - age_ms)
        query = query.where(*due, builds.c.attempt > 0, builds.c.status.in_(TERMINAL))
        rows = tx.execute(query.where(tuple_(*place) > at).order_by(*place).limit(limit)).all()
    found = [
        Attempts(
            build_id=row.build_id,
            repository=row.repository,
            tags=tuple(
                f"build-{row.build_id}-{n}"
                for n in range(1 if swept == NOT_SWEPT else row.attempt, row.attempt + (0 if row.cached else 1))
            ),
            cached=bool(row.cached),
        )
        for row in rows
        if swept == NOT_SWEPT or not row.cached
    ]
    return found, (rows[-1].ended_at, rows[-1].number) if len(rows) == limit else None


def attempts_swept(store: Store, found: Attempts) -> None:
    """Note that the tags were seen to. Nothing new names the attempts of an ended build."""
    with store.transaction() as tx:
        swept = BUT_THE_LAST if found.cached else SWEPT
        tx.execute(update(builds).where(builds.c.build_id == found.build_id).values(attempts_swept=swept))


# The cache


def used(tx: Connection, now: int, entry: Row) -> None:
    """A cache entry has answered a build."""
    where = and_(*(cache.c[name] == entry[name] for name in ("organization", "build_key", "repository")))
    tx.execute(update(cache).where(where).values(used_at=now))


def delete_cache(store: Store, age_ms: int, limit: int = BATCH) -> Batch:
    """Delete entries that have answered nothing for so long."""
    with store.transaction() as tx:
        due = cache.c.used_at <= store.now(tx) - age_ms
        page = select(cache).where(due).order_by(cache.c.used_at).limit(limit)
        rows = tx.execute(page.with_for_update(skip_locked=True)).mappings().all()  # SQLite locks the whole store
        if rows:
            key = tuple_(cache.c.organization, cache.c.build_key, cache.c.repository)
            keys = [(row["organization"], row["build_key"], row["repository"]) for row in rows]
            tx.execute(delete(cache).where(key.in_(keys), due))
        return Batch(deleted=len(rows), at=START if len(rows) == limit else None)


# Reports, uploads, nodes


def delete_reports(store: Store, age_ms: int, limit: int = PAGE) -> Batch:
    """Delete reports that were delivered so long ago; others stay as long as their build."""
    with store.transaction() as tx:
        due = and_(reports.c.delivered_at > 0, reports.c.delivered_at <= store.now(tx) - age_ms)
        ids = tx.execute(select(reports.c.id).where(due).limit(limit)).scalars().all()
        if ids:
            tx.execute(delete(reports).where(reports.c.id.in_(ids), due))
        return Batch(deleted=len(ids), at=START if len(ids) == limit else None)


def delete_uploads(store: Store, age_ms: int, at: Cursor = START, limit: int = PAGE) -> Batch:
    """Delete uploads of so long ago whose source no build of their organization names."""
    with store.transaction() as tx:
        place = (contexts.c.created_at, contexts.c.context_id)
        page = select(*place).where(contexts.c.created_at <= store.now(tx) - age_ms)
        found = tx.execute(page.where(tuple_(*place) > (at[0], str(at[1]))).order_by(*place).limit(limit)).all()
        named = and_(builds.c.source_sha256 == contexts.c.sha256, builds.c.organization == contexts.c.organization)
        here = contexts.c.context_id.in_([row.context_id for row in found])
        unused = and_(here, ~select(builds.c.number).where(named).exists())
        deleted = tx.execute(delete(contexts).where(unused)).rowcount if found else 0
        return Batch(deleted=deleted, at=tuple(found[-1]) if len(found) == limit else None)


def delete_nodes(store: Store, age_ms: int) -> list[str]:
    """Delete nodes that were not seen for so long; their tokens stay good, and one that comes back registers anew."""
    with store.transaction() as tx:
        due = nodes.c.seen_at <= store.now(tx) - age_ms
        names = list(tx.execute(select(nodes.c.node_id).where(due)).scalars())
        if names:
            tx.execute(delete(nodes).where(due))
        return names


def delete_revoked(store: Store, age_ms: int, listed: Collection[str]) -> int:
    """Delete revocations of so long ago of tokens that the settings do not list any more (digests)."""
    with store.transaction() as tx:
        due = and_(revoked.c.revoked_at <= store.now(tx) - age_ms, revoked.c.token_sha256.not_in(listed))
        if tx.execute(select(revoked.c.node_id).where(due).limit(1)).first() is None:
            return 0
        return tx.execute(delete(revoked).where(due)).rowcount


# What is named


def unnamed_sources(store: Store, digests: Collection[str]) -> set[str]:
    """Those of some sources (hex digests) that neither a build nor an upload names."""
    with store.read() as tx:
        by_build = select(builds.c.source_sha256).where(builds.c.source_sha256.in_(digests)).distinct()
        by_upload = select(contexts.c.sha256).where(contexts.c.sha256.in_(digests)).distinct()
        return set(digests) - set(tx.execute(by_build).scalars()) - set(tx.execute(by_upload).scalars())


def named_artifacts(store: Store) -> Iterator[tuple[str, str]]:
    """(repository, digest) of every artifact of ours that a build or a cache entry names, read in pages."""
    last = 0
    while True:
        query = select(builds.c.number, builds.c.repository, builds.c.artifact).where(builds.c.number > last)
        query = query.where(builds.c.artifact != "", builds.c.queue != EXTERNAL).order_by(builds.c.number).limit(PAGE)
        with store.read() as tx:
            rows = tx.execute(query).all()
        for row in rows:
            yield row.repository, str(json.loads(row.artifact)["digest"])
        if len(rows) < PAGE:
            break
        last = rows[-1].number
    key = (cache.c.organization, cache.c.build_key, cache.c.repository)
    at = ("", "", "")
    while True:
        entries = select(*key, cache.c.artifact).where(tuple_(*key) > at).order_by(*key).limit(PAGE)
        with store.read() as tx:
            found = tx.execute(entries).all()
        for entry in found:
            yield entry.repository, str(json.loads(entry.artifact)["digest"])
        if len(found) < PAGE:
            return
        at = (found[-1].organization, found[-1].build_key, found[-1].repository)
