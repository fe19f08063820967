"""Grant a build to the node that claims it, or say why not. What its owner writes from then on is `owner.py`."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, ScalarSelect, Select, bindparam, select

from builder.store import cluster, outbox
from builder.store.engine import Store
from builder.store.nodes import LIVE_LEASES, RegisteredNode, free_of, read, takers
from builder.store.offers import REFUSED
from builder.store.rows import Row, cancelled, lock, transition, with_phases, write
from builder.store.schema import builds, nodes
from builder.store.transitions import EXTERNAL, PENDING, RUNNING, SUCCEEDED, WORK

AVOID_MS = 300_000
"""How long a build that failed on a node waits for another one, once its backoff is over: a busy node ends a build or
two meanwhile, and three tries on the one that fails at once would end this one."""
AVOID_PAUSE_MS = 500
"""From a claim that is refused for it to the next hint, while no other node has a free slot."""
AVOID_HINTS = 4
"""Hints without a pause between them, of a build that another node has a free slot for.

Redis serves the consumer that waits longest. A node that refuses begins its wait anew, so the other one is the first in
line for a hint that follows at once, unless its own wait of a second has just begun anew too: then it is for the next.
A hint after a whole pause finds both anywhere in their waits, and a pause as long as the wait finds the node that
refuses first in line each time. A node that has a slot and takes nothing costs so many claims in a pause.
"""
_NO_JOB: dict[str, Any] = {
    "job": "",
    "job_seen": False,
    "watcher": "",
    "caught_up": False,
    "cursors": "",
    "unwatched": False,
}


def _last_success() -> ScalarSelect[str]:
    """ "RUNTIME VERSION" of the newest success of the app whose build the statement around it reads."""
    other = builds.alias("other")
    same = (other.c.organization == builds.c.organization, other.c.name == builds.c.name)
    found = select(other.c.runtime + " " + other.c.runtime_version).where(*same, other.c.status == SUCCEEDED)
    return found.order_by(other.c.number.desc()).limit(1).correlate(builds).scalar_subquery()


_LAST_SUCCESS = _last_success()
"""Made once: an alias of the table makes each of its columns anew."""
_OF_NODE = [nodes.c[name].label(f"node_{name}") for name in ("queues", "toolchains", "drain")]


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The grant, or why not."""

    row: Row | None
    refused: str = ""
    last: tuple[str, str] | None = None
    """Runtime and version of the last success of the same app, where there is one."""
    passed_on: bool = False
    """Another node has a free slot for the build, whose next hint is due now."""


class UnknownNode(Exception):
    """A node claims before it registered."""


def claim(store: Store, build_id: str, node_id: str, nonce: str, lease_ms: int, jobs: int = 0) -> Claimed:
    """Grant ownership to a node that can build it. Repeated with its nonce: the same answer. Raises `UnknownNode`.

    `jobs`: how many image builds its organization may have at work, 0 for any number.
    """
    with store.transaction() as tx:
        clock, parameters = store.clock_parameter(tx)
        found = lock(tx, _asked(clock), {**parameters, "same_build_id": build_id, "same_node_id": node_id})
        if not found:
            return Claimed(row=None, refused="there is no such build")
        row = dict(found[0])
        names = ("now", "node_queues", "node_toolchains", "node_drain", "last")
        now, queues, toolchains, drains, last = (row.pop(name) for name in names)
        runtime, _, version = (last or "").partition(" ")
        known = (runtime, version) if version else None
        if queues is None:
            raise UnknownNode(node_id)
        if row["status"] == RUNNING and row["nonce"] == nonce and row["node_id"] == node_id and row["stage"] == WORK:
            return Claimed(row=write(tx, row, lease_until=now + lease_ms, updated_at=now), last=known)
        if drains:  # in the seconds after its start a node reads its queues, whatever was answered before
            return Claimed(row=None, refused="this node drains")
        if refused := _refusal(row, now, json.loads(queues), json.loads(toolchains)):
            return Claimed(row=None, refused=refused)
        if row["cancel_requested"]:
            cancelled(tx, now, row)
            return Claimed(row=None, refused="it is CANCELLED")
        avoids = row["avoid"] == node_id and now < row["queued_at"] + AVOID_MS
        if avoids and (others := _others(tx, row, now, lease_ms)):
            again = (row["offers"] // REFUSED + 1) % AVOID_HINTS if free_of(others) else 0
            write(tx, row, offers=again * REFUSED, offered_at=0, offer_from=now + (0 if again else AVOID_PAUSE_MS))
            why = "its last attempt failed here, and another node can take it"
            return Claimed(row=None, refused=why, passed_on=again > 0)
        if not cluster.has_room(tx, row, jobs):
            if row["offers"]:  # the hint is spent: the next one comes once there is room
                write(tx, row, offers=0, offered_at=0, offer_from=now)
            return Claimed(row=None, refused=cluster.words(jobs))
        after = transition(
            tx, now, row, "claim", status=RUNNING, stage=WORK, claim=row["claim"] + 1, attempt=row["attempt"] + 1,
            node_id=node_id, avoid="", nonce=nonce, lease_until=now + lease_ms, claim_lines=0, phase="FETCH_SOURCE",
            offers=0, offered_at=0, offer_from=0, started_at=now, waited_ms=0, **_NO_JOB,
            report_sequence=row["report_sequence"] + 1,
            phases=with_phases(row, [("QUEUED", row["queued_at"], now, True)]),
        )  # fmt: skip
        outbox.report(tx, now, row, after)
        return Claimed(row=after, last=known)


@functools.cache
def _asked(now: ColumnElement[int]) -> Select[Any]:
    """The build that is claimed, the node that claims it, the time, the last success of the same app."""
    query = select(builds, *_OF_NODE, now.label("now"), _LAST_SUCCESS.label("last"))
    query = query.outerjoin_from(builds, nodes, nodes.c.node_id == bindparam("same_node_id"))
    return query.where(builds.c.build_id == bindparam("same_build_id"))


def _others(tx: Connection, row: Row, now: int, lease_ms: int) -> list[RegisteredNode]:
    """The other live nodes that build what this row asks for. None may have a free slot: that wait is bounded."""
    readers = takers(read(tx, now), LIVE_LEASES * lease_ms).get(row["queue"], ())
    others = (node for node in readers if node.node_id != row["avoid"] and node.slots)
    return [node for node in others if not row["toolchain"] or row["toolchain"] in node.toolchains]


def _refusal(row: Row, now: int, queues: Collection[str], toolchains: Collection[str]) -> str:
    if row["status"] != PENDING or row["attached_to"]:
        return f"it is {row['status']}"
    if row["cancel_requested"]:
        return ""
    if row["not_before"] > now:
        return "its time has not come"
    if (
        row["queue"] == EXTERNAL
        or row["queue"] not in queues
        or (row["toolchain"] and row["toolchain"] not in toolchains)
    ):
        return "this node cannot build it"
    return ""
