"""How many image builds of an organization are at work: at a node that is about to launch one, or in a Job.

A claim counts them behind a lock of its organization, so that no two claims pass the limit together. A build that a
claim would refuse is not offered: it stays PENDING, and others take their turn.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, select

from builder.store.rows import Row
from builder.store.schema import builds
from builder.store.transitions import IMAGE, OWNED, PENDING, RUNNING

LAUNCHING = 0x191180  # the advisory locks that this module takes, one for each organization


def has_room(tx: Connection, row: Row, most: int) -> bool:
    """Whether this build may be at work beside those of its organization; `most` is the limit, 0 for none."""
    if not most or row["queue"] != IMAGE:
        return True
    if tx.dialect.name != "sqlite":  # SQLite has one writer: nobody claims beside us
        # With the lock, which lasts until the commit, the count sees every claim that was granted before.
        tx.execute(select(func.pg_advisory_xact_lock(LAUNCHING, func.hashtext(row["organization"]))))
    return not is_full(tx, row, most)


def is_full(tx: Connection, row: Row, most: int) -> bool:
    """Whether this build waits for others of its organization, as far as one look without a lock tells."""
    if not most or row["queue"] != IMAGE:
        return False
    mine = select(builds.c.number).where(_at_work(), builds.c.organization == row["organization"]).limit(most)
    return int(tx.execute(select(func.count()).select_from(mine.subquery())).scalar_one()) >= most


def room(tx: Connection, hinted: ColumnElement[bool], most: int) -> dict[str, int]:
    """Organization → how many more of its image builds may be offered: those at work count, and those that `hinted`
    finds among the queued ones, which are about to be claimed. Who has neither is absent."""
    taken = _counted(tx, _at_work())
    for name, count in _counted(tx, and_(builds.c.status == PENDING, builds.c.queue == IMAGE, hinted)).items():
        taken[name] = taken.get(name, 0) + count
    return {name: most - count for name, count in taken.items()}


def full(tx: Connection, most: int) -> list[str]:
    """The organizations that have as many image builds at work as they may; `most` is 0 for none."""
    return sorted(name for name, count in _counted(tx, _at_work()).items() if count >= most) if most else []


def words(most: int) -> str:
    """What a build of such an organization waits for."""
    return f"its organization has {most} image builds at work, as many as it may (running_jobs)"


def _at_work() -> ColumnElement[bool]:
    return and_(builds.c.status == RUNNING, builds.c.queue == IMAGE, builds.c.stage.in_(OWNED))


def _counted(tx: Connection, which: ColumnElement[bool]) -> dict[str, int]:
    query: Any = select(builds.c.organization, func.count()).where(which).group_by(builds.c.organization)
    return {row[0]: int(row[1]) for row in tx.execute(query)}
