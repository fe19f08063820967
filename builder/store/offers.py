"""What the dispatcher reads and writes: which queues need hints, what the marks of its offers are worth, the offers.

A hint that lies in its queue stays, a vanished one is forgotten. Every query is a seek or bounded: 10,000 queued cost
what 10 cost.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Connection, Select, and_, bindparam, func, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from builder.store import cluster, nodes
from builder.store.engine import Store, insert_of
from builder.store.rows import Row, emit
from builder.store.schema import builds, turns
from builder.store.transitions import IMAGE, PENDING, RUNNING

OFFER_AGAIN_MS = (5_000, 10_000, 20_000, 30_000)
ORGANIZATIONS = 64  # looked at in one call; the round goes on where it ended
REFUSED = 1 << 20
"""One refused hint in the column `offers`, below which are the hints that nobody claimed since: what is lost after a
refusal is offered again as soon as what is lost before one."""
SETTLE_MS = 1_000  # between the mark and the list, and between the list and the claim, a hint is nowhere to be seen
LOOKED_AT = 1_000

_OFFERED = [
    builds.c[name] for name in ("build_id", "status", "organization", "queue", "failure", "claim", "priority", "number")
]

# Each tick asks for the lanes: these are built once.
_FIRST_LANE = (
    select(builds.c.queue, builds.c.toolchain)
    .where(builds.c.status == PENDING)
    .order_by(builds.c.queue, builds.c.toolchain)
    .limit(1)
)
_NEXT_QUEUE = _FIRST_LANE.where(builds.c.queue > bindparam("at_queue"))
_NEXT_OF_QUEUE = _FIRST_LANE.where(
    builds.c.queue == bindparam("at_queue"), builds.c.toolchain > bindparam("at_toolchain")
)

Lane = tuple[str, str]
"""(queue, toolchain) as builds wait in."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A queue that builds wait in and live nodes read. `limit` is its window: about twice the free slots.

    `marked`: offers of it are old enough to be compared with its list. `room`: the window has room for more.
    """

    queue: str
    toolchains: Sequence[str]
    limit: int
    marked: bool
    room: bool


@dataclass(frozen=True, kw_only=True)
class Offered:
    """(queue, build id) of the hints to send, and queue → how many hints vanished from its list.

    `full`: the queues whose window is full, so that only a slot that becomes free makes room for another hint.
    `held_back`: the queues of builds that may wait for others of their organization.
    """

    hints: list[tuple[str, str]] = field(default_factory=list)
    vanished: dict[str, int] = field(default_factory=dict)
    full: set[str] = field(default_factory=set)
    held_back: set[str] = field(default_factory=set)


def waiting(store: Store, live_ms: int) -> list[Waiting]:
    """The queues that need the dispatcher now. It only reads; with nothing queued that is one statement."""
    with store.read() as tx:
        queued = _by_queue(lanes(tx))
        if not queued:
            return []
        now = store.now(tx)
        found: list[Waiting] = []
        for queue, readers in sorted(nodes.takers(nodes.read(tx, now), live_ms).items()):
            if queue not in queued:
                continue
            limit = 2 * nodes.free_of(readers)
            marked = tx.execute(_marked(now, queue).limit(1)).first() is not None
            room = limit > 0 and _hints(tx, now, queue, limit) < limit
            if marked or room:
                toolchains = _built_by(readers, queued[queue])
                found.append(Waiting(queue=queue, toolchains=toolchains, limit=limit, marked=marked, room=room))
    return found


def offer(store: Store, queues: Sequence[Waiting], listed: Mapping[str, Collection[str]], jobs: int = 0) -> Offered:
    """Compare the marks with the lists (queue → the ids in it; a queue that could not be read is absent), then offer.

    One transaction for all queues. `jobs`: how many image builds an organization may have at work, 0 for any number.
    """
    done = Offered()
    with store.transaction() as tx:
        now = store.now(tx)
        for each in queues:
            if each.queue in listed and (vanished := compare(tx, now, each.queue, listed[each.queue])):
                done.vanished[each.queue] = vanished
            for build_id in offerable(tx, now, each.queue, each.toolchains, each.limit, jobs) if each.limit else ():
                done.hints.append((each.queue, build_id))
    return done


def offer_at_once(store: Store, live_ms: int, jobs: int = 0) -> Offered:
    """Offer what there is room for, after a transition that may have made some. One transaction; compares nothing."""
    done = Offered()
    with store.transaction() as tx:
        now = store.now(tx)
        queued = _by_queue(lanes(tx))
        readers = nodes.takers(nodes.read(tx, now), live_ms) if queued else {}
        for queue in sorted(queued.keys() & readers.keys()):
            limit = 2 * nodes.free_of(readers[queue])
            room = limit - _hints(tx, now, queue, limit) if limit else 0
            built = _built_by(readers[queue], queued[queue])
            picked = _offer(tx, now, queue, built, room, jobs) if room > 0 else []
            done.hints.extend((queue, build_id) for build_id in picked)
            if len(picked) >= room:
                done.full.add(queue)
            if queue == IMAGE and jobs:
                done.held_back.add(queue)
    return done


def offer_submitted(store: Store, queue: str, build_ids: Collection[str], live_ms: int) -> Offered | None:
    """Offer builds that one organization has just submitted to one queue, where no other build waits for a hint.

    Three statements, where `offer_at_once` has to find out who waits and whose turn it is. None: the window has no
    room for all of them, or they are image builds, so that somebody has to choose; nothing is written.
    """
    if queue == IMAGE:
        return None
    done = Offered()
    with store.transaction() as tx:
        now, parameters = store.clock_parameter(tx)
        readers = nodes.takers(nodes.read_timed(tx, now, parameters), live_ms).get(queue, [])
        if not (limit := 2 * nodes.free_of(readers)):
            return None
        asked = {**parameters, "queue": queue, "most": limit}
        found = tx.execute(_window(now), asked).one()
        if len(build_ids) > (room := limit - found[0]):
            return None
        asked = {**parameters, "ids": tuple(build_ids), "built": (*nodes.toolchains_of(readers), "")}
        rows = tx.execute(_fresh_marked(now), asked).mappings().all()
        for row in sorted(rows, key=_rank):
            done.hints.append((queue, row["build_id"]))
            emit(tx, "offer", row)
        if rows and rows[0]["organization"] != found[1]:
            turn_ends(tx, queue, rows[0]["organization"])
        if len(rows) >= room:
            done.full.add(queue)
    return done


@functools.cache
def _window(now: ColumnElement[int]) -> Select[Any]:
    """How many hints of a queue are on their way, up to the `most` that count, and whom it served last."""
    served = select(turns.c.organization).where(turns.c.queue == bindparam("queue")).scalar_subquery()
    recent = _recent(now, bindparam("queue")).limit(bindparam("most", type_=BigInteger)).subquery()
    return select(select(func.count()).select_from(recent).scalar_subquery(), served)


@functools.cache
def _fresh_marked(now: ColumnElement[int]) -> ReturningUpdate[Any]:
    """Mark those of `ids` that were never offered, and that somebody builds."""
    mine = (
        builds.c.build_id.in_(bindparam("ids", expanding=True)),
        *(builds.c[name] == 0 for name in ("offers", "offer_from")),
        builds.c.status == PENDING,
        builds.c.attached_to == "",
        builds.c.toolchain.in_(bindparam("built", expanding=True)),
    )
    marked = update(builds).where(*mine).values(offered_at=now, offer_from=now + OFFER_AGAIN_MS[0], offers=1)
    return marked.returning(*_OFFERED)


def compare(tx: Connection, now: int, queue: str, listed: Collection[str]) -> int:
    """Compare the offers of a queue with the ids in its list. Returns how many vanished: they can be offered at once.

    A hint in the list is not offered again however long it lies there. One that is neither there nor claimed was lost,
    or its taker is slow: offered again at once the first time, then after the pauses of `offerable`.
    """
    rows = tx.execute(_marked(now, queue).limit(LOOKED_AT)).all()
    here = [row.build_id for row in rows if row.build_id in listed]
    gone = [row.build_id for row in rows if row.build_id not in listed and row.offers % REFUSED == 1]
    first = builds.c.offers - builds.c.offers % REFUSED + 1
    kept: dict[str, Any] = {"offered_at": now, "offer_from": now + OFFER_AGAIN_MS[0], "offers": first}
    for ids, values in ((here, kept), (gone, {"offered_at": 0, "offer_from": now})):
        if ids:
            same = (builds.c.build_id.in_(ids), builds.c.status == PENDING)
            tx.execute(update(builds).where(*same).values(**values))
    return len(gone)


def _marked(now: int, queue: str) -> Any:
    here = and_(builds.c.status == PENDING, builds.c.queue == queue)
    settled = (builds.c.offered_at > 0, builds.c.offered_at <= now - SETTLE_MS)
    return select(builds.c.build_id, builds.c.offers).where(here, *settled)


def _hints(tx: Connection, now: int, queue: str, limit: int) -> int:
    """The offers of the last 5 s that nobody claimed yet, counted up to the limit."""
    return len(tx.execute(_recent(now, queue).limit(limit)).all())


def _recent(now: int | ColumnElement[int], queue: str | ColumnElement[str]) -> Select[Any]:
    recent = builds.c.offered_at > now - OFFER_AGAIN_MS[0]
    return select(builds.c.number).where(builds.c.status == PENDING, builds.c.queue == queue, recent)


def offerable(tx: Connection, now: int, queue: str, toolchains: Sequence[str], limit: int, jobs: int = 0) -> list[str]:
    """Ids to offer: fair between organizations (fewest running first), then priority, then age. Marks them offered.

    `limit` is the queue's window: hints of the last 5 s that nobody claimed yet fill it. A hint that is still
    unclaimed is offered again after 5, 10, 20, then 30 s.
    """
    limit -= _hints(tx, now, queue, limit)
    return _offer(tx, now, queue, toolchains, limit, jobs) if limit > 0 else []


def _offer(tx: Connection, now: int, queue: str, toolchains: Sequence[str], limit: int, jobs: int) -> list[str]:
    query = select(builds.c.organization, func.count()).where(builds.c.status == RUNNING)
    busy = {row[0]: int(row[1]) for row in tx.execute(query.group_by(builds.c.organization))}
    jobs = jobs if queue == IMAGE else 0
    limited = cluster.room(tx, builds.c.offered_at > now - OFFER_AGAIN_MS[0], jobs) if jobs else {}
    waiting: dict[str, list[Row]] = {}
    for organization in in_turn(tx, queue, toolchains, {name for name, room in limited.items() if room <= 0}):
        most = min(limit, limited.get(organization, jobs or limit))
        if found := _ready(tx, now, organization, queue, toolchains, most):
            waiting[organization] = found
    picked: list[Row] = []
    while len(picked) < limit and waiting:
        turn = min(waiting, key=lambda name: busy.get(name, 0))  # among equals: whose turn it is
        picked.append(waiting[turn].pop(0))
        busy[turn] = busy.get(turn, 0) + 1
        if not waiting[turn]:
            del waiting[turn]
    for row in picked:
        pause = OFFER_AGAIN_MS[min(row["offers"] % REFUSED, len(OFFER_AGAIN_MS) - 1)]
        mark = {"offered_at": now, "offer_from": now + pause, "offers": row["offers"] + 1}
        same = and_(builds.c.build_id == row["build_id"], builds.c.status == PENDING)
        if tx.execute(update(builds).where(same).values(**mark)).rowcount:
            emit(tx, "offer", row)
    if picked:
        turn_ends(tx, queue, picked[-1]["organization"])
    return [row["build_id"] for row in picked]


def in_turn(tx: Connection, queue: str, toolchains: Sequence[str], without: Collection[str] = ()) -> list[str]:
    """Organizations with queued builds, from the one after the last served, at most `ORGANIZATIONS` of them; those
    `without` are passed over."""
    last = tx.execute(select(turns.c.organization).where(turns.c.queue == queue)).scalar() or ""
    found: list[str] = []
    for start, stop in ((last, None), ("", last)):
        at = start
        while len(found) < ORGANIZATIONS:
            nearest = [name for name in (_next(tx, queue, one, at) for one in toolchains) if name]
            at = min(nearest, default="")
            if not at or (stop is not None and at > stop):
                break
            found += [at] if at not in without else []
    return found


def _next(tx: Connection, queue: str, toolchain: str, after: str) -> str:
    query = select(builds.c.organization).where(*lane_of(queue, toolchain), builds.c.organization > after)
    return tx.execute(query.order_by(builds.c.organization).limit(1)).scalar() or ""


def lane_of(queue: str | ColumnElement[str], toolchain: str | ColumnElement[str]) -> Iterable[Any]:
    """The front columns of the index `builds_to_offer`."""
    lane = (builds.c.queue == queue, builds.c.toolchain == toolchain)
    return (builds.c.status == PENDING, *lane, builds.c.attached_to == "")


def _ready(tx: Connection, now: int, organization: str, queue: str, toolchains: Sequence[str], limit: int) -> list[Row]:
    found: list[Row] = []
    for toolchain in toolchains:
        query = select(builds).where(*lane_of(queue, toolchain), builds.c.organization == organization)
        query = query.where(builds.c.offer_from <= now).order_by(builds.c.priority.desc(), builds.c.number)
        found += tx.execute(query.limit(limit)).mappings()
    return sorted(found, key=_rank)[:limit]


def _rank(row: Row) -> tuple[int, int]:
    return (-row["priority"], row["number"])


def turn_ends(tx: Connection, queue: str, organization: str) -> None:
    tx.execute(_turn(tx.dialect.name), {"new_queue": queue, "new_organization": organization})


@functools.cache
def _turn(dialect: str) -> Any:
    new = insert_of(dialect, turns).values(queue=bindparam("new_queue"), organization=bindparam("new_organization"))
    return new.on_conflict_do_update(index_elements=["queue"], set_={"organization": new.excluded.organization})


def _by_queue(found: Iterable[Lane]) -> dict[str, set[str]]:
    """Queue → the toolchains that its builds ask for; "" is that of a build whose node detects it."""
    queued: dict[str, set[str]] = {}
    for queue, toolchain in found:
        queued.setdefault(queue, set()).add(toolchain)
    return queued


def _built_by(readers: Iterable[nodes.RegisteredNode], asked: Collection[str]) -> list[str]:
    """The toolchains to look for: what no build asks for costs no statement."""
    return sorted({*nodes.toolchains_of(readers), ""}.intersection(asked))


def lanes(tx: Connection) -> list[Lane]:
    """The lanes of all that is queued: a few seeks, however much that is."""
    found: list[Lane] = []
    row = tx.execute(_FIRST_LANE).first()
    while row:
        found.append((row.queue, row.toolchain))
        at = {"at_queue": row.queue, "at_toolchain": row.toolchain}
        row = tx.execute(_NEXT_OF_QUEUE, at).first() or tx.execute(_NEXT_QUEUE, at).first()
    return found
