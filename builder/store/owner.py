"""What an owner writes: heartbeat, planned, finish, hand back. Each carries the claim that `granting.py` gave."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format
from sqlalchemy import BigInteger, ColumnElement, Connection, Select, and_, bindparam, case, or_, select, update
from sqlalchemy.sql.dml import ReturningUpdate

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS
from builder.store import logs, record, retention
from builder.store.engine import Store
from builder.store.rows import (
    Row,
    cancelled,
    end,
    fence,
    fence_of,
    fenced,
    fenced_by,
    followers,
    give_up_key,
    holder,
    is_owner,
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
from builder.store.schema import builds, cache
from builder.store.transitions import (
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
MAX_RETRY_AFTER_MS = 600_000  # a registry may ask for patience, not for a day
Phases = Iterable[pb.PhaseRecord]
_TRIES = 3  # a primary may end while its lock is awaited; then it is in the cache, or another has the key


def heartbeat(
    store: Store, build_id: str, claim: int, phase: str, lease_ms: int, node: str = "", waited_ms: int = 0
) -> Row | None:
    """Renew the lease: one fenced UPDATE. None: stale.

    `waited_ms` is what the owner has waited for us so far; more than has passed since its claim is not possible, and
    a number that no sum can hold would end the look at every build's time. A heartbeat that log lines have overtaken
    leads back to no earlier phase.
    """
    with store.transaction() as tx:
        now, parameters = store.clock_parameter(tx)
        same = fenced_by(build_id, claim, node)
        given = {"lease_ms": lease_ms, "waited": waited_ms, "most": max(0, waited_ms)}
        beat = _beat(now, phase if phase in WORK_PHASES else "", bool(node))
        return tx.execute(beat, {**parameters, **same, **given}).mappings().first()


@functools.cache
def _beat(now: ColumnElement[int], phase: str, by_node: bool) -> ReturningUpdate[Any]:
    """The heartbeat of an owner in this phase, "" for none that is known."""
    lease_ms, waited, most = (bindparam(name, type_=BigInteger) for name in ("lease_ms", "waited", "most"))
    passed = now - builds.c.started_at
    waits = case((passed < waited, passed), else_=most)
    values: dict[str, Any] = {"lease_until": now + lease_ms, "updated_at": now, "waited_ms": waits}
    if phase:
        before = WORK_PHASES[: WORK_PHASES.index(phase)]
        values["phase"] = case((builds.c.phase.in_(before), phase), else_=builds.c.phase)
    owned = update(builds).where(*fence_of(WORK, by_node))
    return owned.values(**values).returning(builds.c.cancel_requested)


@dataclass(frozen=True, kw_only=True)
class KeyVerdict:
    """`verdict` is GO_ON, REUSE (built before), ATTACHED (in flight), STALE (also when it was cancelled) or INCOMPLETE:
    log lines are missing; the store has those of the claim below `kept`."""

    verdict: str
    kept: int = 0


STALE = KeyVerdict(verdict="STALE")


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
    log_count: int = 0,
    first_index: int = 0,
    lines: Sequence[logs.Line] = (),
) -> KeyVerdict:
    """The key is known. `lines`: the newest of the `log_count` ones of the claim, from `first_index` on, which are kept
    with the verdict; of a call that is not accepted none is.

    `version`, `target` and `warnings` are the plan's, for the record. `phases` are those of this claim so far; stored
    where it ends here. `start_check` is the server's setting: a build that requires a start neither waits for one that
    does not, nor takes an artifact that nobody saw start; one that warns neither waits for one without a start check,
    nor takes an artifact without a verdict. `provenance` is the commit of a git source. `unchanged`, of a rebase: the
    artifact of the build that it names is its own.
    """
    lines = logs.cleaned(lines)  # before the lock
    with store.transaction() as tx:
        row, now = fenced(store, tx, build_id, claim, WORK, node)
        if row is None:
            return STALE
        if logs.lacks(row, log_count, first_index, lines):
            return KeyVerdict(verdict="INCOMPLETE", kept=row["claim_lines"])
        kept = logs.batch(tx, row, first_index, lines)[1] if lines else {}
        kept["phase"] = furthest(row["phase"], ("PLAN",))
        row = {**row, **kept}
        if row["cancel_requested"]:  # nothing of the build runs at this point: STALE stops its owner
            cancelled(tx, now, row, **kept)
            return STALE
        if row["build_key"] and row["build_key"] != key:  # a retry with another key is the primary of the old no more
            give_up_key(tx, now, row)
        found = {"build_key": key, "code_hash": code_hash, "runtime": runtime}
        found |= {"runtime_version": version, "target": target, "warnings": json.dumps(list(warnings))}
        found["provenance"] = provenance
        row = transition(tx, now, row, "planned", **kept, **found)
        if unchanged and (origin := _rebased(tx, row)) is not None:
            line = f"{origin['build_id']} is on this run image already; nothing was run or sent"
            reused = {"artifact": origin["artifact"], "from_cache_of": origin["build_id"]}
            to_finalize(tx, now, row, "reuse", **reused, phases=all_phases(row, phases), line=line)
            return KeyVerdict(verdict="REUSE")
        return KeyVerdict(verdict=_by_key(tx, now, row, phases, start_check))


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


@functools.cache
def _hit() -> Select[Any]:
    """The cache entry of a key, of the build's own organization and repository."""
    mine = (cache.c.organization == bindparam("organization"), cache.c.build_key == bindparam("build_key"))
    return select(cache).where(*mine, cache.c.repository == bindparam("repository"))


def _by_key(tx: Connection, now: int, row: Row, phases: Phases, start_check: str) -> str:
    """The verdict for a key. Only a build without followers can be attached: a primary holds its key itself."""
    mode = record.start_mode(row, start_check)
    build_id, key = row["build_id"], row["build_key"]
    if row["no_cache"] or not key:  # without a key nothing is the same
        return "GO_ON"
    where = {"organization": row["organization"], "build_key": key, "repository": row["repository"]}
    for _ in range(_TRIES):
        hit = tx.execute(_hit(), where).mappings().first()
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
    store: Store,
    request: pb.FinishRequest,
    backoff_ms: int,
    node: str = "",
    stages: Collection[str] = OWNED,
    lines: Sequence[logs.Line] = (),
) -> Finished:
    """The outcome of an owner of WORK or JOB: FINALIZE under a new claim, FAILED, CANCELLED, or PENDING again for a
    platform failure. `stages`: those that the caller may end. `lines`: the last ones of the claim, from the request's
    `first_index` on, which are kept with the outcome; of a finish that is not accepted none is.

    A finish that was stored is answered "done" with the record however often and late it is repeated.
    """
    lines = logs.cleaned(lines)  # before the lock
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
        if logs.lacks(row, request.log_count, request.first_index, lines):
            return Finished(outcome="incomplete", row=row)
        kept = logs.batch(tx, row, request.first_index, lines)[1] if lines else {}
        row = {**row, **kept}  # on which the line of the end counts
        row["phase"] = _phase_of(row, request)  # which that line belongs to
        kept.pop("phase", None)
        kept |= {"finished": json.dumps([*finished, request.claim]), "phases": all_phases(row, request.phases)}
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
