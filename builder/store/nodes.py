"""The build nodes: what each can build, when it was last seen."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, exists, func, insert, select, update

from builder.store import membership
from builder.store.engine import NOW, Store, insert_into
from builder.store.schema import builds, contexts, nodes
from builder.store.transitions import RUNNING, WORK

LIVE_LEASES = 2  # a node that was not seen for so many leases takes no builds


# A live node that can what it could: what each node asks every few seconds is built once.
_SAME = ("node_id", "queues", "toolchains", "slots", "lacks")
_RENEWED = (
    update(nodes)
    .where(*(nodes.c[name] == bindparam("same_" + name) for name in _SAME), nodes.c.seen_at > bindparam("since"))
    .values(seen_at=bindparam("now"))
    .returning(nodes.c.drain)
)


@dataclass(frozen=True, kw_only=True)
class RegisteredNode:
    """A node as it registered; `running` are its builds now, `lacks` is why it offers no slots."""

    node_id: str
    queues: frozenset[str]
    toolchains: frozenset[str]
    slots: int
    drain: bool
    seen_ms_ago: int
    running: int
    lacks: str = ""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """`drain`: the node shall drain. `changed`: it can build what it could not before, or was not seen for so long."""

    drain: bool
    changed: bool


def register(
    store: Store,
    node_id: str,
    queues: Sequence[str],
    toolchains: Mapping[str, str],
    slots: int,
    live_ms: int,
    token: str = "",
    lacks: str = "",
) -> Registered:
    """Note a node and that it lives; one that was not seen for `live_ms` comes back.

    Raises `Forgotten` for one that would be new and as which `token` (a digest) may not act any more.
    """
    with store.transaction() as tx:
        now = store.now(tx)
        can = {"queues": json.dumps(list(queues)), "toolchains": json.dumps(dict(toolchains)), "slots": slots}
        can |= {"lacks": lacks}
        same = {"same_" + name: value for name, value in can.items()}
        found = tx.execute(_RENEWED, {"same_node_id": node_id, **same, "since": now - live_ms, "now": now}).first()
        if found is not None:
            return Registered(drain=found.drain, changed=False)
        new = insert_into(tx, nodes).values(node_id=node_id, seen_at=now, **can)
        new = new.on_conflict_do_update(index_elements=["node_id"], set_={"seen_at": now, **can})
        drain = bool(tx.execute(new.returning(nodes.c.drain)).scalar_one())
        membership.refuse_revoked(tx, node_id, token)  # after the insert, which waits for a forget that is under way
        return Registered(drain=drain, changed=True)


def all_nodes(store: Store) -> list[RegisteredNode]:
    """Every node that ever registered."""
    with store.read() as tx:
        return read(tx, store.now(tx))


READY, DRAINING, LACKING, AWAY = STATES = ("ready", "draining", "lacking", "away")
"""A node takes builds; shall take none; cannot take any now; was not seen lately."""


def states(store: Store, live_ms: int) -> dict[str, tuple[str, str]]:
    """Node → its state, and why a live one takes no builds where it named a reason."""
    return {
        node.node_id: (_state(node, live_ms), "" if _is_away(node, live_ms) else node.lacks)
        for node in all_nodes(store)
    }


def _state(node: RegisteredNode, live_ms: int) -> str:
    if _is_away(node, live_ms):
        return AWAY
    if node.drain or not node.queues:  # without queues it registers when it leaves
        return DRAINING
    return LACKING if node.lacks else READY


def _is_away(node: RegisteredNode, live_ms: int) -> bool:
    return node.seen_ms_ago >= live_ms


def read(tx: Connection, now: int) -> list[RegisteredNode]:
    """The same inside a transaction: one statement."""
    return read_timed(tx, NOW, {"now": now})


@functools.cache
def _read(now: ColumnElement[int]) -> Select[Any]:
    working = select(builds.c.node_id, func.count().label("running"))
    working = working.where(builds.c.status == RUNNING, builds.c.stage == WORK).group_by(builds.c.node_id)
    busy = working.subquery()
    query = select(
        nodes, (now - nodes.c.seen_at).label("seen_ms_ago"), func.coalesce(busy.c.running, 0).label("running")
    )
    return query.outerjoin_from(nodes, busy, busy.c.node_id == nodes.c.node_id)


def read_timed(tx: Connection, now: ColumnElement[int], parameters: Mapping[str, int]) -> list[RegisteredNode]:
    """The same by the store's clock (`Store.clock_parameter`), which is not asked before."""
    found = tx.execute(_read(now), parameters).mappings()
    return [
        RegisteredNode(
            node_id=row["node_id"],
            queues=frozenset(json.loads(row["queues"])),
            toolchains=frozenset(json.loads(row["toolchains"])),
            slots=row["slots"],
            drain=row["drain"],
            seen_ms_ago=row["seen_ms_ago"],
            running=row["running"],
            lacks=row["lacks"],
        )
        for row in found
    ]


def takers(found: Iterable[RegisteredNode], live_ms: int) -> dict[str, list[RegisteredNode]]:
    """Queue → the nodes that read it, do not drain and were seen in the last `live_ms`."""
    readers: dict[str, list[RegisteredNode]] = {}
    for node in found:
        for queue in sorted(node.queues) if not node.drain and node.seen_ms_ago < live_ms else ():
            readers.setdefault(queue, []).append(node)
    return readers


def toolchains_of(readers: Iterable[RegisteredNode]) -> set[str]:
    """The toolchains that any of these nodes has."""
    return {name for node in readers for name in node.toolchains}


def free_of(readers: Iterable[RegisteredNode]) -> int:
    """The free slots of these nodes."""
    return sum(max(0, node.slots - node.running) for node in readers)


def add_context(
    store: Store, context_id: str, organization: str, sha256: str, size: int, age_ms: int = 0, quota: int = 0
) -> int:
    """Note an uploaded source, unless that passes the quota. Returns the bytes of the organization's uploads before it
    that no build names; 0 where no quota is asked for."""
    with store.transaction() as tx:
        now = store.now(tx)
        kept = _unused_bytes(tx, organization, now - age_ms) if quota else 0
        if not quota or kept + size <= quota:
            values = {"context_id": context_id, "organization": organization, "sha256": sha256, "size": size}
            tx.execute(insert(contexts).values(**values, created_at=now))
    return kept


def unused_bytes(store: Store, organization: str, age_ms: int) -> int:
    """The bytes of an organization's uploads of the last `age_ms` that no build of it names; the same bytes once."""
    with store.read() as tx:
        return _unused_bytes(tx, organization, store.now(tx) - age_ms)


def _unused_bytes(tx: Connection, organization: str, since: int) -> int:
    named = exists().where(builds.c.source_sha256 == contexts.c.sha256, builds.c.organization == organization)
    mine = (contexts.c.created_at >= since, contexts.c.organization == organization, ~named)
    each = select(contexts.c.sha256, contexts.c.size).where(*mine).distinct().subquery()
    return int(tx.execute(select(func.coalesce(func.sum(each.c.size), 0))).scalar_one())


def context(store: Store, context_id: str, organization: str) -> tuple[str, int] | None:
    """(sha256, size) of an organization's upload."""
    query = select(contexts.c.sha256, contexts.c.size).where(
        contexts.c.context_id == context_id, contexts.c.organization == organization
    )
    with store.read() as tx:
        row = tx.execute(query).first()
    return (row.sha256, row.size) if row else None


def uploaded(store: Store, sha256: str, organization: str) -> int | None:
    """The size of an upload of this organization, named by its digest."""
    query = select(contexts.c.size).where(contexts.c.sha256 == sha256, contexts.c.organization == organization)
    with store.read() as tx:
        return tx.execute(query.limit(1)).scalar()
