"""Which nodes belong here: what an operator drains and forgets, and the tokens that a forgotten node may not use.

A token is named by its SHA-256. A node's row and the revocation change in one transaction, and a node whose row is gone
registers by an insert, which looks at the revocations after it: so a forgotten node never comes back by a race.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection, and_, delete, func, select, update

from builder.store.engine import Store, insert_into
from builder.store.schema import builds, nodes, revoked
from builder.store.transitions import RUNNING, WORK

FORGOTTEN, UNKNOWN, AT_WORK, BUSY = "forgotten", "unknown", "at-work", "busy"


class Forgotten(Exception):
    """This token may not act as this node any more."""


def set_drain(store: Store, node_id: str, drain: bool) -> bool:
    """Whether the node shall take no more builds; it learns so with its next registration. False: there is none."""
    with store.transaction() as tx:
        return bool(tx.execute(update(nodes).where(nodes.c.node_id == node_id).values(drain=drain)).rowcount)


def forget(store: Store, node_id: str, tokens: Iterable[str], lease_ms: int) -> str:
    """Delete a node and revoke the tokens (digests) that act as it.

    FORGOTTEN; or nothing changed, since it is UNKNOWN, AT_WORK (neither drained nor unseen for a lease) or BUSY
    (drained, and some of its builds still run).
    """
    with store.transaction() as tx:
        now = store.now(tx)
        row = tx.execute(select(nodes).where(nodes.c.node_id == node_id).with_for_update()).mappings().first()
        if row is None:
            return UNKNOWN
        if now - row["seen_at"] < lease_ms:
            if not row["drain"]:
                return AT_WORK
            mine = and_(builds.c.status == RUNNING, builds.c.stage == WORK, builds.c.node_id == node_id)
            if tx.execute(select(func.count()).where(mine)).scalar_one():
                return BUSY
        for token in sorted(set(tokens)):
            row_of = insert_into(tx, revoked).values(node_id=node_id, token_sha256=token, revoked_at=now)
            tx.execute(row_of.on_conflict_do_nothing())
        tx.execute(delete(nodes).where(nodes.c.node_id == node_id))
        return FORGOTTEN


def refuse_revoked(tx: Connection, node_id: str, token: str) -> None:
    """Raises `Forgotten`, which undoes the transaction, when the token may not act as the node."""
    if _is_revoked(tx, node_id, token):
        raise Forgotten(node_id)


def is_revoked(store: Store, node_id: str, token: str) -> bool:
    """Whether a token may not act as a node."""
    with store.read() as tx:
        return _is_revoked(tx, node_id, token)


def _is_revoked(tx: Connection, node_id: str, token: str) -> bool:
    where = and_(revoked.c.node_id == node_id, revoked.c.token_sha256 == token)
    return tx.execute(select(revoked.c.node_id).where(where)).first() is not None
