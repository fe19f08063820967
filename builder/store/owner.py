"""What an owner writes: claim, heartbeat, planned, finish, hand back. Each carries its claim."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from sqlalchemy import Connection, ScalarSelect, and_, case, or_, select, update

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS
from builder.store import cluster, outbox, record, retention
from builder.store.engine import Store
from builder.store.nodes import LIVE_LEASES, RegisteredNode, free_of, read, takers
from builder.store.offers import REFUSED
from builder.store.rows import (
    Row,
    cancelled,
    end,
    fence,
    fenced,
    followers,
    give_up_key,
    holder,
    is_owner,
    lock,
    lock_one,
    lock_timed,
    lost,
    requeue,
    take_key,
    to_finalize,
    to_watch,
    transition,
    with_phases,
    worked_on,
    write,
)
from builder.store.schema import builds, cache, nodes
from builder.store.transitions import (
    EXTERNAL,
    FAILED,
    JOB,
    MAX_RETRIES,
    OWNED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    WORK,
    WORK_PHASES,
    furthest,
)

MAX_BACKOFF_MS = 60_000
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
MAX_RETRY_AFTER_MS = 600_000  # a registry may ask for patience, not for a day
Phases = Iterable[pb.PhaseRecord]
_NO_JOB: dict[str, Any] = {
    "job": "",
    "job_seen": False,
    "watcher": "",
    "caught_up": False,
    "cursors": "",
    "unwatched": False,
}
_TRIES = 3  # a primary may end while its lock is awaited; then it is in the cache, or another has the key


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
        query = select(builds, *_OF_NODE, store.clock_column(tx).label("now"), _LAST_SUCCESS.label("last"))
        query = query.outerjoin_from(builds, nodes, nodes.c.node_id == node_id).where(builds.c.build_id == build_id)
        found = lock(tx, query)
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


def heartbeat(
    store: Store, build_id: str, claim: int, phase: str, lease_ms: int, node: str = "", waited_ms: int = 0
) -> Row | None:
    """Renew the lease: one fenced UPDATE. None: stale.

    `waited_ms` is what the owner has waited for us so far; more than has passed since its claim is not possible, and
    a number that no sum can hold would end the look at every build's time. A heartbeat that log lines have overtaken
    leads back to no earlier phase.
    """
    with store.transaction() as tx:
        now = store.clock_column(tx)
        passed = now - builds.c.started_at
        waited = case((passed < waited_ms, passed), else_=max(0, waited_ms))
        values: dict[str, Any] = {"lease_until": now + lease_ms, "updated_at": now, "waited_ms": waited}
        if phase in WORK_PHASES:
            before = WORK_PHASES[: WORK_PHASES.index(phase)]
            values["phase"] = case((builds.c.phase.in_(before), phase), else_=builds.c.phase)
        renewed = update(builds).where(and_(*fence(build_id, claim, WORK, node))).values(**values)
        return tx.execute(renewed.returning(builds.c.cancel_requested)).mappings().first()


def planned(
    store: Store,
    build_id: str,
    claim: int,
    key: str,
    code_hash: str,
    runtime: str,
    phases: Phases = (),
    node: str = "",
    start_check: str = "off",
    *,
    version: str = "",
    target: str = "",
    warnings: Sequence[str] = (),
    provenance: str = "",
    unchanged: bool = False,
) -> str:
    """The key is known: GO_ON, REUSE (built before), ATTACHED (in flight) or STALE (also when it was cancelled).

    `version`, `target` and `warnings` are the plan's, for the record. `phases` are those of this claim so far; stored
    where it ends here. `start_check` is the server's setting: a build that requires a start neither waits for one that
    does not, nor takes an artifact that nobody saw start; one that warns neither waits for one without a start check,
    nor takes an artifact without a verdict. `provenance` is the commit of a git source. `unchanged`, of a rebase: the
    artifact of the build that it names is its own.
    """
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, WORK, node)
        if row is None:
            return "STALE"
        row = {**row, "phase": furthest(row["phase"], ("PLAN",))}
        if row["cancel_requested"]:  # nothing of the build runs at this point: STALE stops its owner
            cancelled(tx, now, row, phase=row["phase"])
            return "STALE"
        if row["build_key"] and row["build_key"] != key:  # a retry with another key is the primary of the old no more
            give_up_key(tx, now, row)
        found = {"build_key": key, "code_hash": code_hash, "runtime": runtime}
        found |= {"runtime_version": version, "target": target, "warnings": json.dumps(list(warnings))}
        found["provenance"] = provenance
        row = transition(tx, now, row, "planned", phase=row["phase"], **found)
        if unchanged and (origin := _rebased(tx, row)) is not None:
            line = f"{origin['build_id']} is on this run image already; nothing was run or sent"
            reused = {"artifact": origin["artifact"], "from_cache_of": origin["build_id"]}
            to_finalize(tx, now, row, "reuse", **reused, phases=all_phases(row, phases), line=line)
            return "REUSE"
        return _by_key(tx, now, row, phases, start_check)


def _rebased(tx: Connection, row: Row) -> Row | None:
    """The build that a rebase names; None where it is none, or the named one has no artifact that this one can have."""
    named = record.request(row).rebase.build_id
    same = (builds.c.organization == row["organization"], builds.c.repository == row["repository"])
    query = select(builds).where(builds.c.build_id == named, builds.c.status == SUCCEEDED, *same)
    return tx.execute(query).mappings().first() if named else None


def all_phases(row: Row, phases: Phases) -> str:
    """The column `phases` with what the owner measured."""
    return with_phases(
        row,
        [
            (
                _name_of(phase.phase),
                phase.started_at_ms,
                phase.ended_at_ms,
                phase.status == pb.PHASE_STATUS_SUCCEEDED,
            )
            for phase in phases
        ],
    )


def _by_key(tx: Connection, now: int, row: Row, phases: Phases, start_check: str) -> str:
    """The verdict for a key. Only a build without followers can be attached: a primary holds its key itself."""
    mode = record.start_mode(row, start_check)
    build_id, key = row["build_id"], row["build_key"]
    if row["no_cache"] or not key:  # without a key nothing is the same
        return "GO_ON"
    where = (cache.c.organization == row["organization"], cache.c.build_key == key)
    query = select(cache).where(*where, cache.c.repository == row["repository"])
    for _ in range(_TRIES):
        hit = tx.execute(query).mappings().first()
        if mode == "require" and (hit is None or not record.starts(hit)):
            return "GO_ON"
        if mode == "warn" and hit and not record.is_checked(hit):
            return "GO_ON"
        if hit:
            retention.used(tx, now, hit)
            line = f"same key as {hit['build_id']}; nothing was run or sent{record.start_words(hit)}"
            reused = {"artifact": hit["artifact"], "from_cache_of": hit["build_id"]}
            to_finalize(tx, now, row, "reuse", **reused, phases=all_phases(row, phases), line=line)
            return "REUSE"
        primary = take_key(tx, row, key)
        if primary == build_id:
            return "GO_ON"
        first = lock_one(tx, builds.c.build_id == primary)
        # Locked, it can neither end nor give the key up before this build waits for it; until then it could do both.
        if first is not None and first["status"] not in TERMINAL and holder(tx, row, key) == primary:
            break
    else:
        return "GO_ON"
    if first["repository"] != row["repository"]:  # its artifact will lie where this build's tags cannot reach it
        return "GO_ON"
    if mode != "off" and record.start_mode(first, start_check) == "off":
        return "GO_ON"
    for follower in followers(tx, row):
        write(tx, follower, attached_to=primary, updated_at=now)
    row = {**row, "phase": "QUEUED"}  # the line belongs to the wait
    values = {"status": PENDING, "stage": "", "phase": "QUEUED", "attached_to": primary, "lease_until": 0}
    line = f"the same build is running as {primary}; waiting for its result"
    values |= {"claim": row["claim"] + 1, "phases": all_phases(row, phases)}
    transition(tx, now, row, "attach", **values, line=line)
    return "ATTACHED"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """`outcome` is done, stale or incomplete (log lines are missing)."""

    outcome: str
    row: Row | None = None


def finish(
    store: Store, request: pb.FinishRequest, backoff_ms: int, node: str = "", stages: Collection[str] = OWNED
) -> Finished:
    """The outcome of an owner of WORK or JOB: FINALIZE under a new claim, FAILED, CANCELLED, or PENDING again for a
    platform failure. `stages`: those that the caller may end.

    A finish that was stored is answered "done" with the record however often and late it is repeated.
    """
    with store.transaction() as tx:
        row, now = lock_timed(store, tx, builds.c.build_id == request.build_id, *worked_on(node))
        if row is None:
            return Finished(outcome="stale")
        finished = json.loads(row["finished"])
        if request.claim in finished:
            return Finished(outcome="done", row=row)
        if (row["claim"], row["status"]) != (request.claim, RUNNING) or row["stage"] not in stages:
            return Finished(outcome="stale", row=row)
        if not is_owner(row, node):
            return Finished(outcome="stale", row=row)
        if row["claim_lines"] < request.log_count:
            return Finished(outcome="incomplete", row=row)
        row = {**row, "phase": _phase_of(row, request)}  # which the line of the end belongs to
        kept = {"finished": json.dumps([*finished, request.claim]), "phases": all_phases(row, request.phases)}
        if row["cancel_requested"]:
            after = cancelled(tx, now, row, phase=row["phase"], **kept)
        elif request.WhichOneof("outcome") == "success":
            artifact = json_format.MessageToJson(request.success, indent=None)
            after = to_finalize(tx, now, row, "built", artifact=artifact, phase=row["phase"], **kept)
        else:
            after = failed(tx, now, row, request.failure, backoff_ms, kept)
        return Finished(outcome="done", row=after)


def _phase_of(row: Row, request: pb.FinishRequest) -> str:
    """Where the work of a claim ended: the phase that its failure names, else the last one that it was in."""
    reported = [_name_of(phase.phase) for phase in request.phases]
    failed_in = _name_of(request.failure.phase)
    return failed_in if failed_in in WORK_PHASES else furthest(row["phase"], reported)


def _name_of(phase: pb.BuildPhase.ValueType) -> str:
    return pb.BuildPhase.Name(phase).removeprefix("BUILD_PHASE_")


def failed(
    tx: Connection,
    now: int,
    row: Row,
    found: pb.Failure,
    backoff_ms: int,
    kept: Mapping[str, Any],
    actions: tuple[str, str] = ("retry", "fail"),
) -> Row:
    """PENDING again after a pause, or FAILED: by the reason and the retries left. `actions`: the transitions."""
    retry, fail = actions
    known = REASONS.get(found.reason, REASONS["Internal"])
    unseen = row["stage"] == JOB and not row["job_seen"] and found.reason == "JobVanished"  # it was never created
    if known.retried and (unseen or row["retries"] < MAX_RETRIES):
        pause = min(backoff_ms * 2 ** row["retries"], MAX_BACKOFF_MS)
        pause = max(pause, min(int(found.retry_after_ms), MAX_RETRY_AFTER_MS))
        line = f"{found.reason}: {found.message}; the platform's fault, trying again in {pause} ms"
        again = {"retries": row["retries"] + int(not unseen), "not_before": now + pause}
        again |= {"avoid": row["node_id"]} if row["stage"] != JOB else {}  # the cluster failed, not the node
        return requeue(tx, now, row, retry, line=line, **again, **kept)
    if found.reason not in REASONS:  # a worker of another version: whoever reads the record must know the word
        found.message = f"{found.reason or 'no reason'}: {found.message}"
        found.reason, found.error_class = known.name, str(known.error_class)
    failure = json_format.MessageToJson(found, indent=None)
    return end(tx, now, row, fail, FAILED, failure, phase=row["phase"], **kept)


def _fenced_to_owner(build_id: str, claim: int, node: str, stages: Collection[str]) -> Sequence[Any]:
    """The fence of an owner, whichever of these stages it has."""
    return (or_(*(and_(*fence(build_id, claim, stage, node)) for stage in stages)),)


def hand_back(
    store: Store, build_id: str, claim: int, reason: str, node: str = "", stages: Collection[str] = OWNED
) -> Row | None:
    """The owner gives the build back: "drain" costs nothing, "lost" counts as a failure (poison). None: stale.

    Of a watcher the Job goes on, and another adopts it.
    """
    with store.transaction() as tx:
        row, now = lock_timed(store, tx, *_fenced_to_owner(build_id, claim, node, stages))
        if row is None:
            return None
        if reason == "lost":
            return lost(tx, now, row)
        if row["stage"] == JOB:
            return to_watch(tx, now, row, "release")
        if row["cancel_requested"]:
            return cancelled(tx, now, row)
        return requeue(tx, now, row, "hand-back")
