"""Secrets of organizations, as rows: sealed values, and what is known of them. No value is ever read here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import delete, func, insert, select, update

from builder.store.engine import Store
from builder.store.rows import Row
from builder.store.schema import secrets

BUILD, GIT, REGISTRY = "BUILD", "GIT", "REGISTRY"
KNOWN = [column for column in secrets.c if column.name != "sealed"]


class TooMany(Exception):
    """The organization has as many secrets as it may have."""


def identity(organization: str, name: str, type_: str, host: str, version: int) -> str:
    """What a sealed value is bound to. The parts have no line end."""
    return "\n".join((organization, name, type_, host, str(version)))


def save(
    store: Store,
    organization: str,
    name: str,
    type_: str,
    host: str,
    seal: Callable[[str], str],
    most: int,
) -> Row:
    """Store a value, a new version where there is one. `seal` encrypts it for an identity. Raises `TooMany`.

    The old value is overwritten; its version is in no row any more.
    """
    mine = (secrets.c.organization == organization, secrets.c.name == name)
    with store.transaction() as tx:
        now = store.now(tx)
        query = select(secrets).where(*mine)
        before = tx.execute(query if tx.dialect.name == "sqlite" else query.with_for_update()).mappings().first()
        version = before["version"] + 1 if before else 1
        values = {
            "type": type_,
            "host": host,
            "version": version,
            "updated_at": now,
            "sealed": seal(identity(organization, name, type_, host, version)),
        }
        if before:
            tx.execute(update(secrets).where(*mine).values(**values))
            return {**before, **values}
        count = select(func.count()).select_from(secrets).where(secrets.c.organization == organization)
        if int(tx.execute(count).scalar_one()) >= most:
            raise TooMany
        row = {"organization": organization, "name": name, "created_at": now, **values}
        tx.execute(insert(secrets).values(**row))
        return row


def listed(store: Store, organization: str) -> Sequence[Row]:
    """What is known of the secrets of an organization, by name; not the values."""
    query = select(*KNOWN).where(secrets.c.organization == organization).order_by(secrets.c.name)
    with store.read() as tx:
        return tx.execute(query).mappings().all()


def are_there(store: Store) -> bool:
    """Whether any organization has a secret."""
    with store.read() as tx:
        return tx.execute(select(secrets.c.name).limit(1)).first() is not None


def find(store: Store, organization: str, name: str) -> Row | None:
    """A secret with its sealed value."""
    query = select(secrets).where(secrets.c.organization == organization, secrets.c.name == name)
    with store.read() as tx:
        return tx.execute(query).mappings().first()


def remove(store: Store, organization: str, name: str) -> bool:
    """Delete a secret. False: there is none."""
    with store.transaction() as tx:
        gone = delete(secrets).where(secrets.c.organization == organization, secrets.c.name == name)
        return tx.execute(gone).rowcount == 1
