"""What the control side writes in FINALIZE: adopt, keep, release, rebuild, the PUBLISH mark, tags, SUCCEEDED."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    exists,
    func,
    or_,
    select,
    tuple_,
    update,
)

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS
from builder.store import offers, outbox, record
from builder.store.engine import NOW, Store, insert_into, insert_of
from builder.store.owner import failed
from builder.store.rows import (
    Row,
    cancelled,
    end,
    fence,
    fenced,
    lock,
    poisoned,
    requeue,
    transition,
    with_phases,
)
from builder.store.schema import builds, cache, tags
from builder.store.transitions import EXTERNAL, FINALIZE, PENDING, RUNNING, SUCCEEDED

LATER_MS, LATEST_MS = 2_000, 60_000
"""The pause after the first failed attempt; it doubles with each further one, up to the second figure."""

ADOPTING = 0x19117F  # the advisory locks that this module takes, one for each repository
_OTHERS = builds.alias()


@dataclass(frozen=True, kw_only=True)
class AdoptedBuilds:
    """Builds that were adopted. `left`: others are due and wait for a free finalizer, or for their repository's."""

    rows: list[Row] = field(default_factory=list)
    left: bool = False


@dataclass(frozen=True, kw_only=True)
class Published:
    """A build behind the PUBLISH mark, and which of its tags are its own to point."""

    row: Row
    tags: tuple[str, ...]


class TagsMoved(Exception):
    """Tags that this build pointed are those of newer builds meanwhile: tag → the digest it has to point at."""

    def __init__(self, tags: Mapping[str, str]) -> None:
        super().__init__(", ".join(sorted(tags)))
        self.tags = tags


def adopt_finalize(store: Store, lease_ms: int, nonce: str = "") -> Row | None:
    """Take the build in FINALIZE that has been due for longest. None: nothing is due, which costs a read alone."""
    return next(iter(adopt_due(store, lease_ms, 1, nonce=nonce).rows), None)


def adopt_due(
    store: Store, lease_ms: int, limit: int, *, outside: int | None = None, look: bool = True, nonce: str = ""
) -> AdoptedBuilds:
    """Take up to `limit` builds in FINALIZE, those that have been due for longest first, in one transaction; then
    prebuilt images that are queued.

    A new claim fences the last finalizer off. A repository at which a finalizer is at work (in this process or
    another) is passed over. A finalizer that was lost before the PUBLISH mark counts towards poison: that build ends.
    After the mark the build only goes forward. `outside`: how many of them may be prebuilt images, whose registries are
    anybody's; None: all. `look` reads first, for a caller that expects to find nothing.
    `nonce` names the process that adopts, as that of a claim does.
    """
    if look:
        with store.read() as tx:
            now_column, parameters = store.clock_parameter(tx)
            found = tx.execute(_any_due(now_column), parameters).scalar()
        if not found:
            return AdoptedBuilds(left=found is not None)
    rows: list[Row] = []
    with store.transaction() as tx:
        now = store.now(tx)
        room = limit if outside is None else outside
        waiting: tuple[bool, bool] | None = None
        while len(rows) < limit and (waiting is None or waiting[0]):  # a second look for nothing costs a statement
            if (row := _longest_due(tx, now, prebuilt=room > 0)) is None:
                break
            waiting = None
            counts = row["finalizer"] and not row["published"]
            line = "the finalizer of this build was lost; another takes over" if counts else ""
            if counts and poisoned(tx, now, row, "finalizer-lost", line=line):
                continue
            room -= row["queue"] == EXTERNAL
            rows.append(
                transition(
                    tx, now, row, "adopt", claim=row["claim"] + 1, lease_until=now + lease_ms, finalizer=True,
                    nonce=nonce,
                    phase="FINALIZE" if row["published"] else "ATTEST", failures=row["failures"] + int(counts),
                    line=line,
                )
            )  # fmt: skip
            waiting = _waiting(tx, now)
        late, asked = waiting or _waiting(tx, now)
        if asked and room > 0 and len(rows) < limit:
            while room > 0 and len(rows) < limit and (row := _next_asked(tx, now)) is not None:
                room -= 1
                rows.append(_taken(tx, now, row, lease_ms, nonce))
            late, asked = _waiting(tx, now)
        left = late or asked
    return AdoptedBuilds(rows=rows, left=left)


@functools.cache
def _any_due(now: ColumnElement[int]) -> Select[Any]:
    """Whether the repository of some build that is due is idle, which no row tells when none is due."""
    idle = builds.c.repository.not_in(_at_work(now)).label("idle")
    due = or_(and_(*_late(now)), and_(*_asked(now)))
    return select(idle).where(due).order_by(idle.desc()).limit(1)


def _late(now: int | ColumnElement[int]) -> Sequence[ColumnElement[bool]]:
    """The condition of a build that is due, also one whose repository is busy."""
    return (builds.c.status == RUNNING, builds.c.stage == FINALIZE, builds.c.lease_until <= now)


def _due(now: int | ColumnElement[int]) -> Select[Any]:
    """The builds to finalize of repositories that no finalizer is at, those that have been due for longest first."""
    query = select(builds).where(*_late(now))
    return query.where(builds.c.repository.not_in(_at_work(now))).order_by(builds.c.lease_until, builds.c.number)


def _at_work(now: int | ColumnElement[int]) -> Select[Any]:
    """The repositories that a finalizer is at."""
    query = select(_OTHERS.c.repository).where(_OTHERS.c.status == RUNNING, _OTHERS.c.stage == FINALIZE)
    return query.where(_OTHERS.c.finalizer.is_(True), _OTHERS.c.lease_until > now)


def _asked(now: int | ColumnElement[int]) -> Sequence[ColumnElement[bool]]:
    """The condition of a queued prebuilt image whose time has come."""
    queued = (builds.c.status == PENDING, builds.c.queue == EXTERNAL, builds.c.toolchain == "")
    return (*queued, builds.c.attached_to == "", builds.c.not_before <= now)


def _waiting(tx: Connection, now: int) -> tuple[bool, bool]:
    """Whether builds in FINALIZE are due, and prebuilt images are queued."""
    found = tx.execute(_waits(), {"now": now}).one()
    return bool(found[0]), bool(found[1])


@functools.cache
def _waits() -> Select[bool, bool]:
    return select(exists().where(*_late(NOW)), exists().where(*_asked(NOW)))


def _next_asked(tx: Connection, now: int) -> Row | None:
    """The next prebuilt image, locked: of the organization whose turn it is, priority first, then age."""
    for organization in offers.in_turn(tx, EXTERNAL, [""]):
        query = select(builds).where(*_asked(NOW), builds.c.organization == organization)
        query = query.where(builds.c.repository.not_in(_at_work(NOW)))
        row = _free(tx, now, query.order_by(builds.c.priority.desc(), builds.c.number).limit(1))
        if row is not None:
            offers.turn_ends(tx, EXTERNAL, organization)
            return row
    return None


def _taken(tx: Connection, now: int, row: Row, lease_ms: int, nonce: str) -> Row:
    """A prebuilt image under a new claim of a finalizer."""
    after = transition(
        tx, now, row, "resolve", status=RUNNING, stage=FINALIZE, claim=row["claim"] + 1, attempt=row["attempt"] + 1,
        nonce=nonce, lease_until=now + lease_ms, finalizer=True, phase="ATTEST", started_at=now, waited_ms=0,
        report_sequence=row["report_sequence"] + 1,
        phases=with_phases(row, [("QUEUED", row["queued_at"], now, True)]),
    )  # fmt: skip
    outbox.report(tx, now, row, after)
    return after


def _longest_due(tx: Connection, now: int, *, prebuilt: bool) -> Row | None:
    """The next build to finalize, locked; of prebuilt images only with `prebuilt`."""
    return _free(tx, now, _first_due(prebuilt))


@functools.cache
def _first_due(prebuilt: bool) -> Select[Any]:
    due = _due(NOW) if prebuilt else _due(NOW).where(builds.c.queue != EXTERNAL)
    return due.limit(1)


def _free(tx: Connection, now: int, query: Select[Any]) -> Row | None:
    """The first build of a query, whose parameter is the time, at whose repository nobody else is about to work."""
    passed = list[str]()
    while True:
        others = query.where(builds.c.repository.not_in(passed)) if passed else query
        row = next(iter(lock(tx, others, {"now": now}, skip=True)), None)
        if row is None or tx.dialect.name == "sqlite":  # SQLite has one writer: nobody adopts beside us
            return row
        # Elsewhere a transaction that is not committed may adopt another build of this repository right now. The lock
        # lasts until the commit; with it, a second look sees what was committed before.
        mine = select(func.pg_try_advisory_xact_lock(ADOPTING, func.hashtext(row["repository"])))
        taken = _at_work(now).where(_OTHERS.c.repository == row["repository"]).limit(1)
        if tx.execute(mine).scalar() and tx.execute(taken).first() is None:
            return row
        passed.append(row["repository"])


def keep_finalize(store: Store, build_id: str, claim: int, lease_ms: int) -> bool:
    """Renew the lease of a finalizer that is still at it: one fenced UPDATE. False: stale."""
    with store.transaction() as tx:
        renewed = update(builds).where(and_(*fence(build_id, claim, FINALIZE)))
        return tx.execute(renewed.values(lease_until=store.clock_column(tx) + lease_ms)).rowcount == 1


def release_finalize(store: Store, build_id: str, claim: int, wish_ms: int = 0, *, leaves: bool = False) -> None:
    """Trouble in FINALIZE repeats the step later, never the build. No owner was lost: nothing counts.

    The pause grows with each attempt of this build that failed: 2, 4, 8 … 60 s. `wish_ms` (the registry's Retry-After)
    makes it longer, up to 60 s. `leaves`: the finalizer's process ends, and no attempt has failed: without a pause.
    """
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is not None:
            pause = min(max(LATER_MS << min(row["finalize_tries"], 10), wish_ms), LATEST_MS)
            later = {"lease_until": now + pause, "finalize_tries": row["finalize_tries"] + 1}
            if leaves:
                later = {"lease_until": now}
            transition(tx, now, row, "finalize-later", **later, finalizer=False)


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
        anew = {"artifact": "", "from_cache_of": "", "finalize_tries": 0}
        return requeue(tx, now, row, "artifact-gone", **anew, line=line)


def refuse(store: Store, build_id: str, claim: int, why: str, backoff_ms: int) -> Row | None:
    """The registry answers, and the artifact is not what its owner reported: the attempt ends as `Internal`, and the
    normal rule repeats it. None: stale."""
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None or row["published"] or row["from_cache_of"]:
            return None
        known = REASONS["Internal"]
        found = pb.Failure(
            reason=known.name, message=why, error_class=str(known.error_class), next=known.hint,
            phase=pb.BUILD_PHASE_ATTEST,
        )  # fmt: skip
        anew = {"artifact": "", "finalize_tries": 0}
        return failed(tx, now, row, found, backoff_ms, anew, ("artifact-refused", "artifact-refused"))


def unresolved(store: Store, build_id: str, claim: int, found: pb.Failure, backoff_ms: int) -> Row | None:
    """A prebuilt image cannot be had, or is none that can run: PENDING again after a pause, or FAILED, by the reason.
    None: stale."""
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None or row["published"] or row["queue"] != EXTERNAL:
            return None
        if row["cancel_requested"]:
            return cancelled(tx, now, row)
        return failed(tx, now, row, found, backoff_ms, {}, ("image-refused", "image-refused"))


def publish(
    store: Store,
    build_id: str,
    claim: int,
    tags_: Collection[str] = (),
    digest: str = "",
    artifact: str = "",
    *,
    statement: str = "",
    line: str = "",
) -> Published | None:
    """The PUBLISH mark, from which the build only goes forward, and with it the build's claims on its tags.

    The newest submitted build wins a tag; an older one that ends later leaves it. `artifact`: as the control side
    found it; stored in place of what the owner reported. `statement`: of an artifact that is not ours to attach one to.
    `line`: for the log, once. Can be repeated.
    None: stale, or CANCELLED because that was asked for.
    """
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None:
            return None
        if row["cancel_requested"] and not row["published"]:
            cancelled(tx, now, row)
            return None
        found = {"artifact": artifact} if artifact else {}
        found |= {"statement": statement} if statement else {}
        line = "" if row["published"] else line
        after = transition(tx, now, row, "publish", published=True, phase="FINALIZE", line=line, **found)
        return Published(row=after, tags=_claim_tags(tx, now, row, tags_, digest))


def _claim_tags(tx: Connection, now: int, row: Row, names: Collection[str], digest: str) -> tuple[str, ...]:
    if not names:
        return ()
    values = {"number": row["number"], "digest": digest, "changed_at": now, "checked_at": 0}
    each = [{"repository": row["repository"], "tag": name, **values} for name in dict.fromkeys(names)]
    claimed = insert_into(tx, tags).values(each)
    newest = tags.c.number <= row["number"]
    claimed = claimed.on_conflict_do_update(index_elements=["repository", "tag"], set_=values, where=newest)
    ours = set(tx.execute(claimed.returning(tags.c.tag)).scalars())
    return tuple(name for name in dict.fromkeys(names) if name in ours)


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


def succeed(
    store: Store,
    build_id: str,
    claim: int,
    phases: Sequence[tuple[str, int, int]],
    pointed: Mapping[str, str] | None = None,
) -> Row | None:
    """SUCCEEDED, its report, the cache entry and what the attached builds get: one transaction. None: stale.

    `pointed`: tag → the digest it was pointed at. Raises `TagsMoved`, and writes nothing, when a newer build has
    claimed one meanwhile and may have pointed it before that.
    """
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, FINALIZE)
        if row is None or not row["published"]:
            return None
        if pointed:
            found = tx.execute(_POINTED, {"repository": row["repository"], "tags": tuple(pointed)})
            if moved := {str(one.tag): str(one.digest) for one in found if one.digest != pointed[one.tag]}:
                raise TagsMoved(moved)
        if row["build_key"]:
            same = {name: row[name] for name in ("organization", "build_key", "repository")}
            better = row["no_cache"] or _knows_more(tx, row, same)  # asked for anew, or its start is known better
            entry = {**same, **{name: row[name] for name in ("build_id", "artifact")}, "used_at": now}
            tx.execute(_entry(tx.dialect.name, better), {f"new_{name}": value for name, value in entry.items()})
        every = with_phases(row, [(name, start, stop, True) for name, start, stop in phases])
        return end(tx, now, row, "succeed", SUCCEEDED, "", phases=every)


_POINTED = select(tags.c.tag, tags.c.digest).where(
    tags.c.repository == bindparam("repository"), tags.c.tag.in_(bindparam("tags", expanding=True))
)


@functools.cache
def _entry(dialect: str, better: bool) -> Any:
    """The INSERT of a cache entry, which takes the place of one that is there only if it is `better`."""
    same, kept = ("organization", "build_key", "repository"), ("build_id", "artifact", "used_at")
    new = insert_of(dialect, cache).values({name: bindparam(f"new_{name}") for name in (*same, *kept)})
    if not better:
        return new.on_conflict_do_nothing()
    return new.on_conflict_do_update(index_elements=list(same), set_={name: new.excluded[name] for name in kept})


def _knows_more(tx: Connection, row: Row, same: Mapping[str, Any]) -> bool:
    """Whether a build saw its artifact start, or has any verdict of a start check where the cache entry has none."""
    if row["from_cache_of"] or record.starts(row):
        return not row["from_cache_of"]
    entry = tx.execute(_ENTRY, same).mappings().first()
    return record.is_checked(row) and entry is not None and not record.is_checked(entry)


_ENTRY = select(cache.c.artifact).where(
    *(cache.c[name] == bindparam(name) for name in ("organization", "build_key", "repository"))
)
