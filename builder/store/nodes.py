"""The build nodes: what each can build, when it was last seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, insert, select, update

from builder.store import membership
from builder.store.engine import Store
from builder.store.rows import inserted
from builder.store.schema import builds, contexts, nodes
from builder.store.transitions import RUNNING, WORK


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node as it registered; `running` are its builds now."""

    node_id: str
    queues: frozenset[str]
    toolchains: frozenset[str]
    slots: int
    drain: bool
    seen_ms_ago: int
    running: int


def register(
    store: Store, node_id: str, queues: Sequence[str], toolchains: Mapping[str, str], slots: int, token: str = ""
) -> bool:
    """Note a node and that it lives. Returns whether it shall drain. Raises `Forgotten` when it is new and `token`
    (a digest) may not act as it any more."""
    with store.transaction() as tx:
        now = store.now(tx)
        values = {"queues": json.dumps(list(queues)), "toolchains": json.dumps(dict(toolchains))}
        query = select(nodes.c.drain).where(nodes.c.node_id == node_id)
        known = tx.execute(query).first()
        if known is None and inserted(tx, insert(nodes).values(node_id=node_id, slots=slots, seen_at=now, **values)):
            membership.refuse_revoked(tx, node_id, token)
            return False
        same = update(nodes).where(nodes.c.node_id == node_id).values(slots=slots, seen_at=now, **values)
        if not tx.execute(same).rowcount:  # forgotten since it was looked up; the next registration is told so
            membership.refuse_revoked(tx, node_id, token)
        return bool(tx.execute(query).scalar())


def all_nodes(store: Store) -> list[Node]:
    """Every node that ever registered."""
    with store.transaction() as tx:
        now = store.now(tx)
        query = (
            select(builds.c.node_id, func.count())
            .where(builds.c.status == RUNNING, builds.c.half == WORK)
            .group_by(builds.c.node_id)
        )
        busy = {row[0]: int(row[1]) for row in tx.execute(query)}
        rows = tx.execute(select(nodes)).mappings().all()
    return [
        Node(
            node_id=row["node_id"],
            queues=frozenset(json.loads(row["queues"])),
            toolchains=frozenset(json.loads(row["toolchains"])),
            slots=row["slots"],
            drain=row["drain"],
            seen_ms_ago=now - row["seen_at"],
            running=busy.get(row["node_id"], 0),
        )
        for row in rows
    ]


def add_context(store: Store, context_id: str, organization: str, sha256: str, size: int) -> None:
    """Note an uploaded source."""
    with store.transaction() as tx:
        values = {"context_id": context_id, "organization": organization, "sha256": sha256, "size": size}
        tx.execute(insert(contexts).values(**values, created_at=store.now(tx)))


def context(store: Store, context_id: str, organization: str) -> tuple[str, int] | None:
    """(sha256, size) of an organization's upload."""
    query = select(contexts.c.sha256, contexts.c.size).where(
        contexts.c.context_id == context_id, contexts.c.organization == organization
    )
    with store.transaction() as tx:
        row = tx.execute(query).first()
    return (row.sha256, row.size) if row else None


def uploaded(store: Store, sha256: str, organization: str) -> int | None:
    """The size of an upload of this organization, named by its digest."""
    query = select(contexts.c.size).where(contexts.c.sha256 == sha256, contexts.c.organization == organization)
    with store.transaction() as tx:
        return tx.execute(query.limit(1)).scalar()
