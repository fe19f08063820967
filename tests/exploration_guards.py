"""The guards of the store's statements, each as the text that is its condition, and what stands there without it.

`removed` compiles the function again without one guard. A guard that moved is not found, which fails its test: name it
anew. Not here are the conditions that no reachable state needs, because another guard stands before them: the status
beside the stage in `rows.fence` and `owner.finish`, the condition of `rows.write` (the row is locked), a cancel that is
asked for in FINALIZE (`closing.publish`, `closing.rebuild`: a cancel there ends the build at once), status and queue in
`closing._asked` (whose turn it is shows an organization with queued images alone), stage and watcher in
`sweeps.unwatched` (no other lease is over for so long here; tests/store_contract/watching.py has one), `unseen` of
`owner.failed` (a Job that nobody saw costs no retry; retries have a bound without it, and watching.py counts them), the
look for the key in `builds.submit` (the index refuses the second row), the new claim of `rows._let_go_on` (attaching
has granted one that nobody holds).
"""

from __future__ import annotations

import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from tests.exploration import (
    BEGUN,
    JOBS,
    ONE,
    PREBUILT,
    TWO,
    TWO_APART,
    TWO_BEGUN,
    TWO_CALM,
    TWO_KEYS,
    TWO_LIMITED,
    TWO_PREBUILT,
    Model,
)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """`text` in `function` (a module of the store and a name), `without` in its place; `model` shows that it lacks."""

    name: str
    function: str
    text: str
    without: str
    model: Model


def _guard(name: str, function: str, text: str, without: str = "", model: Model = ONE) -> Guard:
    return Guard(name=name, function=function, text=text, without=without, model=model)


_CANCEL = 'if row["cancel_requested"]:'
GUARDS = (
    # What every write of an owner and of a finalizer has
    _guard("fence: the claim", "rows.fence", "builds.c.claim == claim, "),
    _guard("fence: the stage", "rows.fence", ", builds.c.stage == stage"),
    _guard("fence: the node", "rows.granted_to", "if asks else ()", "if False else ()"),
    _guard("fence: the watcher", "rows.granted_to", "builds.c.watcher if stage == JOB else ", model=BEGUN),
    # Claims
    _guard("claim: it is queued", "granting._refusal", 'row["status"] != PENDING or row["attached_to"]', "False"),
    _guard("claim: it is not attached", "granting._refusal", ' or row["attached_to"]', model=TWO),
    _guard("claim: its time has come", "granting._refusal", 'row["not_before"] > now', "False"),
    _guard("claim: the node can", "granting._refusal", 'return "this node cannot build it"', 'return ""'),
    _guard("claim: the nonce", "granting.claim", 'row["nonce"] == nonce and '),
    _guard("claim: the nonce's node", "granting.claim", 'row["node_id"] == node_id and '),
    _guard("claim: again with its nonce", "granting.claim", 'row["nonce"] == nonce and', "False and"),
    _guard("claim: room", "granting.claim", "not cluster.has_room(tx, row, jobs)", "False", TWO_LIMITED),
    _guard("claim: a Job takes room", "cluster._at_work", "in_(OWNED)", "in_(OWNED[:1])", TWO_LIMITED),
    _guard("claim: a new one", "granting.claim", 'claim=row["claim"] + 1, '),
    _guard("claim: a new attempt", "granting.claim", 'attempt=row["attempt"] + 1,'),
    # Owners
    _guard("planned: cancel", "owner.planned", _CANCEL, "if False:"),
    _guard("finish: cancel", "owner.finish", _CANCEL, "if False:"),
    _guard("planned: every line", "owner.planned", "logs.lacks(row, log_count, first_index, lines)", "False"),
    _guard(
        "finish: every line", "owner.finish",
        "logs.lacks(row, request.log_count, request.first_index, lines)", "False",
    ),
    _guard("lines of another call: no gap", "logs.lacks", 'if first_index <= row["claim_lines"] else 0'),
    _guard("finish: the claim", "owner.finish", '!= (request.claim, RUNNING', '!= (row["claim"], RUNNING'),
    _guard("finish: the stage", "owner.finish", ' or row["stage"] not in stages'),
    _guard("finish: the owner", "owner.finish", "not is_owner(row, node)", "False", BEGUN),
    _guard("finish: kept already", "owner.finish", "request.claim in finished", "False"),
    _guard("finish: retries", "owner.failed", ' and (unseen or row["retries"] < MAX_RETRIES)'),
    _guard("finish: a Job that was seen costs a retry", "owner.failed", ' and not row["job_seen"]', model=BEGUN),
    _guard("hand back: cancel", "owner.hand_back", _CANCEL, "if False:"),
    _guard("FINALIZE: a new claim", "rows.to_finalize", '"claim": row["claim"] + 1, '),
    _guard("queued again: a new claim", "rows.requeue", 'claim=row["claim"] + 1, '),
    # Lost owners
    _guard("lost: cancel", "rows.lost", 'row["cancel_requested"] or '),
    _guard("lost: poison", "rows.poisoned", "failures < MAX_FAILURES", "True"),
    _guard("lost: it counts", "rows.lost", 'row["failures"] + 1', 'row["failures"]'),
    # Jobs
    _guard(
        "launching: the attempt's name", "jobs.launching",
        'not job.name.endswith(f"-{build_id}-{row[\'attempt\']}")', "False", JOBS,
    ),
    _guard("launching: cancel", "jobs.launching", 'row["cancel_requested"] or ', model=JOBS),
    _guard(
        "launched: the claim", "jobs.launched",
        "!= (claim, RUNNING, WORK)", '!= (row["claim"], RUNNING, WORK)', JOBS,
    ),
    _guard("launched: the stage", "jobs.launched", "(claim, RUNNING, WORK)", '(claim, RUNNING, row["stage"])', JOBS),
    _guard("launched: the node", "jobs.launched", ", *worked_on(node)", model=JOBS),
    _guard("launched: kept already", "jobs.launched", "claim in finished", "False", JOBS),
    _guard("launched: the mark", "jobs.launched", 'not row["job"]', "False", JOBS),
    _guard("launched: every line", "jobs.launched", 'row["claim_lines"] < log_count', "False", JOBS),
    _guard("launched: cancel", "jobs.launched", _CANCEL, "if False:", JOBS),
    _guard("JOB: a new claim", "rows.to_watch", 'claim=row["claim"] + 1, ', model=JOBS),
    _guard("JOB: nobody has it", "rows.to_watch", '"watcher": "", ', model=BEGUN),
    _guard("JOB: nobody has caught up", "rows.to_watch", '"caught_up": False, ', model=BEGUN),
    _guard("adopt a Job: the stage", "jobs._free", "builds.c.stage == JOB, ", model=JOBS),
    _guard("adopt a Job: nobody has it", "jobs._free", ', builds.c.watcher == ""', model=BEGUN),
    _guard("adopt a Job: the nonce", "jobs._adopted", "builds.c.nonce == nonce", "True", BEGUN),
    _guard("adopt a Job: again with its nonce", "jobs._adopted", "builds.c.nonce == nonce", "False", BEGUN),
    _guard(
        "adopt a Job: one after the other", "jobs.adopt",
        "other := tx.execute(behind.limit(1)).scalar()", "other := ''", TWO_BEGUN,
    ),
    _guard("adopt a Job: a new claim", "jobs.adopt", 'claim=row["claim"] + 1, ', model=BEGUN),
    _guard("adopt a Job: its own lines", "jobs.adopt", "claim_lines=0,", model=BEGUN),
    _guard("beat: the watcher", "jobs._watched", ", builds.c.watcher == watcher", model=BEGUN),
    _guard(
        "beat: the claim", "jobs.beat",
        "(builds.c.build_id, builds.c.claim).in_([one[:2] for", "(builds.c.build_id).in_([one[:1] for", BEGUN,
    ),
    _guard("lost: who had caught up costs nothing", "rows.lost", ' or row["caught_up"]', model=BEGUN),
    _guard("unwatched: its time", "sweeps.unwatched", ", waited)", ")", BEGUN),
    _guard("unwatched: cancel", "sweeps.unwatched", _CANCEL, "if False:", BEGUN),
    _guard("unwatched soon: its time", "sweeps.unwatched_soon", ", since)", ")", BEGUN),
    _guard("build timeout: a Job that nobody watches", "sweeps.build_timeouts", ", late, known)", ", late)", BEGUN),
    # Prebuilt images
    _guard(
        "claim: no node takes a prebuilt image", "granting._refusal",
        'row["queue"] == EXTERNAL\n        or ', model=PREBUILT,
    ),
    _guard("resolve: its time has come", "closing._asked", ", builds.c.not_before <= now", model=PREBUILT),
    _guard("resolve: a new claim", "closing._taken", 'claim=row["claim"] + 1, ', model=PREBUILT),
    _guard("resolve: a new attempt", "closing._taken", 'attempt=row["attempt"] + 1,', model=PREBUILT),
    _guard(
        "resolve: one at a repository", "closing._next_asked",
        "builds.c.repository.not_in(_at_work(NOW))", "True", TWO_PREBUILT,
    ),
    _guard("image refused: not published", "closing.unresolved", 'row["published"] or ', model=PREBUILT),
    _guard("image refused: the queue", "closing.unresolved", ' or row["queue"] != EXTERNAL'),
    # Lines
    _guard("lines: the claim", "logs._owned", 'builds.c.claim == bindparam("same_claim"),'),
    _guard("lines: status and stage", "logs._owned", "builds.c.status == RUNNING,\n        stage,"),
    _guard("lines: the node", "logs._owned", " if by_node else mine", " if False else mine"),
    _guard(
        "lines: the watcher", "logs._owned",
        "(builds.c.stage == JOB, builds.c.watcher)", '(builds.c.stage == JOB, bindparam("same_node"))', BEGUN,
    ),
    _guard("lines: a gap", "logs.batch", "first_index > kept", "False"),
    _guard("lines: once", "logs.batch", "lines[kept - first_index :]", "lines"),
    # Finalizers
    _guard("adopt: the lease is over", "closing._late", ", builds.c.lease_until <= now"),
    _guard("adopt: a new claim", "closing.adopt_due", 'claim=row["claim"] + 1, '),
    _guard("adopt: poison ends at the mark", "closing.adopt_due", ' and not row["published"]'),
    _guard("adopt: one at a repository", "closing._due", "builds.c.repository.not_in(_at_work(now))", "True", TWO_KEYS),
    _guard("artifact gone: not published", "closing.rebuild", 'row["published"] or ', model=TWO_CALM),
    _guard("artifact gone: reused", "closing.rebuild", ' or not row["from_cache_of"]'),
    _guard("artifact refused: not published", "closing.refuse", 'row["published"] or '),
    _guard("artifact refused: not reused", "closing.refuse", ' or row["from_cache_of"]', model=TWO_CALM),
    _guard("tag: the newest", "closing._claim_tags", ", where=newest", model=TWO_CALM),
    _guard("succeed: the mark", "closing.succeed", ' or not row["published"]'),
    # Clients
    _guard("cancel: the mark", "builds.cancel", ' or row["published"]'),
    _guard("cancel: its organization", "builds.cancel", ", builds.c.organization == organization", ","),
    # Times
    _guard("expired: the stage", "sweeps.expired_leases", ", owned, ", ", "),
    _guard("expired: a Job that somebody watches", "sweeps.expired_leases", ', builds.c.watcher != ""', model=BEGUN),
    _guard("expired: the lease", "sweeps.expired_leases", ", builds.c.lease_until <= now"),
    _guard("queue timeout: not attached", "sweeps.queue_timeouts", 'builds.c.attached_to == "", ', model=TWO),
    _guard("queue timeout: its time", "sweeps.queue_timeouts", ", builds.c.queue_until <= now"),
    _guard("build timeout: the mark", "sweeps.build_timeouts", "builds.c.published.is_(False), "),
    _guard("build timeout: its time", "sweeps.build_timeouts", ", late, known)", ", known)"),
    # Builds that share a key
    _guard("attach: a new claim", "owner._by_key", '"claim": row["claim"] + 1, ', model=TWO),
    _guard("attach: the repository", "owner._by_key", 'first["repository"] != row["repository"]', "False", TWO_APART),
    _guard("reuse: the repository", "owner._hit", ', cache.c.repository == bindparam("repository")', "", TWO_APART),
    _guard("end: who waits goes on", "rows.end", 'if not row["attached_to"]:', "if False:", TWO),
    _guard("end: a key that is waited for stays", "rows._dropped", ", ~waits", model=TWO),
    _guard("promoted: the key", "rows._promote", "_in_flight(primary)", "_in_flight(first)", TWO),
)  # fmt: skip


@contextmanager
def removed(guard: Guard) -> Iterator[None]:
    """The store without this guard."""
    module_name, _, name = guard.function.partition(".")
    module = importlib.import_module(f"builder.store.{module_name}")
    real: Any = getattr(module, name)
    assert isinstance(inspect.unwrap(real), FunctionType)
    source = textwrap.dedent(inspect.getsource(real))
    assert source.count(guard.text) == 1, (
        f"{guard.name}: {guard.function} has {guard.text!r} {source.count(guard.text)} times"
    )
    found: dict[str, Any] = {}
    exec(compile(source.replace(guard.text, guard.without), guard.function, "exec"), module.__dict__, found)  # noqa: S102
    holders = [
        (one, key)
        for one in list(sys.modules.values())
        if one.__name__.startswith("builder.store")
        for key, value in list(vars(one).items())
        if value is real
    ]
    for holder, key in holders:
        setattr(holder, key, found[name])
    _forget_statements()
    try:
        yield
    finally:
        for holder, key in holders:
            setattr(holder, key, real)
        _forget_statements()


def _forget_statements() -> None:
    """Those that are built once are built anew, with the guards that are there now."""
    for module in list(sys.modules.values()):
        if module.__name__.startswith("builder.store"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()
