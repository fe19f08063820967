"""What an owner of work writes: claim, heartbeat, planned, finish, hand back. Each carries its claim number."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import json_format
from sqlalchemy import Connection, select

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS
from builder.store import logs, outbox, retention
from builder.store.engine import Store
from builder.store.rows import (
    Row,
    add_phase,
    cancelled,
    end,
    followers,
    get,
    give_up_key,
    holder,
    lost,
    move,
    one,
    owned,
    requeue,
    take_key,
    to_finalize,
    write,
)
from builder.store.schema import builds, cache
from builder.store.transitions import FAILED, MAX_RETRIES, PENDING, RUNNING, TERMINAL, WORK

MAX_BACKOFF_MS = 60_000
MAX_RETRY_AFTER_MS = 600_000  # a registry may ask for patience, not for a day
Phases = Iterable[pb.PhaseRecord]
_TRIES = 3  # a primary may end while its lock is awaited; then it is in the cache, or another has the key


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """The grant, or why not."""

    row: Row | None
    refused: str = ""


def claim(
    store: Store, build_id: str, node_id: str, nonce: str, lease_ms: int, can: tuple[set[str], set[str]]
) -> Claimed:
    """Grant ownership. `can` is (queues, toolchains) of the node. Repeated with its nonce: the same answer."""
    with store.transaction() as tx:
        now = store.now(tx)
        row = one(tx, builds.c.build_id == build_id)
        if row is None:
            return Claimed(row=None, refused="there is no such build")
        if row["status"] == RUNNING and row["nonce"] == nonce and row["node_id"] == node_id and row["half"] == WORK:
            write(tx, row, lease_until=now + lease_ms, updated_at=now)
            return Claimed(row=get(tx, build_id))
        if refused := _refusal(row, now, can):
            return Claimed(row=None, refused=refused)
        if row["cancel_requested"]:
            cancelled(tx, now, row)
            refused = "it is CANCELLED"
        else:
            move(
                tx, row, "claim", status=RUNNING, half=WORK, claim=row["claim"] + 1, attempt=row["attempt"] + 1,
                node_id=node_id, nonce=nonce, lease_until=now + lease_ms, claim_lines=0, phase="FETCH_SOURCE",
                offers=0, offered_at=0, offer_from=0, started_at=now, updated_at=now,
            )  # fmt: skip
            add_phase(tx, row, "QUEUED", row["queued_at"], now)
            outbox.report(tx, now, get(tx, build_id))
        return Claimed(row=None if refused else get(tx, build_id), refused=refused)


def _refusal(row: Row, now: int, can: tuple[set[str], set[str]]) -> str:
    if row["status"] != PENDING or row["attached_to"]:
        return f"it is {row['status']}"
    if row["cancel_requested"]:
        return ""
    if row["not_before"] > now:
        return "its time has not come"
    if row["queue"] not in can[0] or (row["toolchain"] and row["toolchain"] not in can[1]):
        return "this node cannot build it"
    return ""


def heartbeat(store: Store, build_id: str, number: int, phase: str, lease_ms: int) -> Row | None:
    """Renew the lease. None: stale."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != WORK:
            return None
        now = store.now(tx)
        write(tx, row, lease_until=now + lease_ms, phase=phase or row["phase"], updated_at=now)
        return row


def planned(
    store: Store, build_id: str, number: int, key: str, code_hash: str, runtime: str, phases: Phases = ()
) -> str:
    """The key is known: GO_ON, REUSE (built before), ATTACHED (in flight) or STALE (also when it was cancelled).

    `phases` are those of this claim so far; kept where it ends here.
    """
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != WORK:
            return "STALE"
        now = store.now(tx)
        if row["cancel_requested"]:  # nothing of the build runs at this point: the owner that asks is told to stop
            cancelled(tx, now, row)
            return "STALE"
        if row["build_key"] != key:  # a retry that comes to another key is the primary of the old one no more
            give_up_key(tx, now, row)
        move(tx, row, "planned", build_key=key, code_hash=code_hash, runtime=runtime, updated_at=now)
        verdict = _by_key(tx, now, row, key)
        if verdict != "GO_ON":
            _add_phases(tx, row, phases)
        return verdict


def _add_phases(tx: Connection, row: Row, phases: Phases) -> None:
    for phase in phases:
        name = pb.BuildPhase.Name(phase.phase).removeprefix("BUILD_PHASE_")
        ok = phase.status == pb.PHASE_STATUS_SUCCEEDED
        add_phase(tx, row, name, phase.started_at_ms, phase.ended_at_ms, ok)


def _by_key(tx: Connection, now: int, row: Row, key: str) -> str:
    """The verdict for a key. Only a build without followers can be attached: a primary holds its key itself."""
    build_id = row["build_id"]
    if row["no_cache"]:
        return "GO_ON"
    where = (cache.c.organization == row["organization"], cache.c.build_key == key)
    query = select(cache).where(*where, cache.c.repository == row["repository"])
    for _ in range(_TRIES):
        if hit := tx.execute(query).mappings().first():
            retention.used(tx, now, hit)
            to_finalize(tx, row, now, "reuse", artifact=hit["artifact"], from_cache_of=hit["build_id"])
            logs.system(tx, now, get(tx, build_id), f"same key as {hit['build_id']}; nothing was run or sent")
            return "REUSE"
        primary = take_key(tx, row, key)
        if primary == build_id:
            return "GO_ON"
        first = one(tx, builds.c.build_id == primary)
        # Locked, it can neither end nor give the key up before this build waits for it; until then it could do both.
        if first is not None and first["status"] not in TERMINAL and holder(tx, row, key) == primary:
            break
    else:
        return "GO_ON"
    if first["repository"] != row["repository"]:  # its artifact will lie where this build's tags cannot reach it
        return "GO_ON"
    for follower in followers(tx, row):
        write(tx, follower, attached_to=primary, updated_at=now)
    values = {"status": PENDING, "half": "", "phase": "QUEUED", "attached_to": primary, "lease_until": 0}
    move(tx, row, "attach", **values, claim=row["claim"] + 1)
    logs.system(tx, now, get(tx, build_id), f"the same build is running as {primary}; waiting for its result")
    return "ATTACHED"


@dataclass(frozen=True, kw_only=True)
class Finished:
    """`outcome` is done, stale or incomplete (log lines are missing)."""

    outcome: str
    row: Row | None = None


def finish(store: Store, request: pb.FinishRequest, lease_ms: int, backoff_ms: int) -> Finished:
    """An owner's outcome: FINALIZE under a new claim, FAILED, CANCELLED, or PENDING again for a platform failure.

    A finish that was kept is answered "done" with the record however often and late it is repeated.
    """
    with store.transaction() as tx:
        now = store.now(tx)
        row = one(tx, builds.c.build_id == request.build_id)
        if row is not None and request.claim in json.loads(row["finished"]):
            return Finished(outcome="done", row=row)
        if row is None or row["claim"] != request.claim or row["status"] != RUNNING or row["half"] != WORK:
            return Finished(outcome="stale", row=row)
        if row["claim_lines"] < request.log_count:
            return Finished(outcome="incomplete", row=row)
        _add_phases(tx, row, request.phases)
        write(tx, row, finished=json.dumps([*json.loads(row["finished"]), request.claim]))
        if row["cancel_requested"]:
            cancelled(tx, now, row)
        elif request.WhichOneof("outcome") == "success":
            to_finalize(tx, row, now, "built", artifact=json_format.MessageToJson(request.success, indent=None))
        else:
            _failed(tx, now, row, request.failure, backoff_ms)
        return Finished(outcome="done", row=get(tx, request.build_id))


def _failed(tx: Connection, now: int, row: Row, found: pb.Failure, backoff_ms: int) -> None:
    known = REASONS.get(found.reason, REASONS["Internal"])
    if known.retried and row["retries"] < MAX_RETRIES:
        pause = min(backoff_ms * 2 ** row["retries"], MAX_BACKOFF_MS)
        pause = max(pause, min(int(found.retry_after_ms), MAX_RETRY_AFTER_MS))
        text = f"{found.reason}: {found.message}; the platform's fault, trying again in {pause} ms"
        logs.system(tx, now, row, text)
        requeue(tx, now, row, "retry", retries=row["retries"] + 1, not_before=now + pause)
        return
    if found.reason not in REASONS:  # a worker of another version: whoever reads the record must know the word
        found.message = f"{found.reason or 'no reason'}: {found.message}"
        found.reason, found.error_class = known.name, str(known.error_class)
    end(tx, now, row, "fail", FAILED, json_format.MessageToJson(found, indent=None))


def hand_back(store: Store, build_id: str, number: int, reason: str) -> Row | None:
    """The owner gives the build back: "drain" costs nothing, "lost" counts as a failure (poison). None: stale."""
    with store.transaction() as tx:
        row = owned(tx, build_id, number)
        if row is None or row["half"] != WORK:
            return None
        now = store.now(tx)
        if reason == "lost":
            lost(tx, now, row)
        elif row["cancel_requested"]:
            cancelled(tx, now, row)
        else:
            requeue(tx, now, row, "hand-back")
        return get(tx, build_id)
