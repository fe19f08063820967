"""The guards of the store's statements, each as the text that is its condition, and what stands there without it.

`removed` compiles the function again without one guard. A guard that moved is not found, which fails its test: name it
anew. Not here are the conditions that no reachable state needs, because another guard stands before them: the status
beside the stage in `rows.fence`, the condition of `rows.write` (the row is locked), a cancel that is asked for in
FINALIZE (`closing.publish`, `closing.rebuild`: a cancel there ends the build at once), the look for the key in
`builds.submit` (the index refuses the second row), the new claim of `rows._let_go_on` (attaching has granted one that
nobody holds).
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

from tests.exploration import ONE, TWO, TWO_APART, TWO_CALM, TWO_KEYS, Model


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
    _guard("fence: the node", "rows.granted_to", "(builds.c.node_id == node,) if node else ()", "()"),
    # Claims
    _guard("claim: it is queued", "owner._refusal", 'row["status"] != PENDING or row["attached_to"]', "False"),
    _guard("claim: it is not attached", "owner._refusal", ' or row["attached_to"]', model=TWO),
    _guard("claim: its time has come", "owner._refusal", 'row["not_before"] > now', "False"),
    _guard("claim: the node can", "owner._refusal", 'return "this node cannot build it"', 'return ""'),
    _guard("claim: the nonce", "owner.claim", 'row["nonce"] == nonce and '),
    _guard("claim: the nonce's node", "owner.claim", 'row["node_id"] == node_id and '),
    _guard("claim: again with its nonce", "owner.claim", 'row["nonce"] == nonce and', "False and"),
    _guard("claim: a new one", "owner.claim", 'claim=row["claim"] + 1, '),
    _guard("claim: a new attempt", "owner.claim", 'attempt=row["attempt"] + 1,'),
    # Owners
    _guard("planned: cancel", "owner.planned", _CANCEL, "if False:"),
    _guard("finish: cancel", "owner.finish", _CANCEL, "if False:"),
    _guard("finish: every line", "owner.finish", 'row["claim_lines"] < request.log_count', "False"),
    _guard(
        "finish: claim, status, stage", "owner.finish",
        '(row["claim"], row["status"], row["stage"]) != (request.claim, RUNNING, WORK)', "False",
    ),
    _guard("finish: the claim", "owner.finish", '!= (request.claim, RUNNING', '!= (row["claim"], RUNNING'),
    _guard("finish: the stage", "owner.finish", "RUNNING, WORK)", 'RUNNING, row["stage"])'),
    _guard("finish: the node", "owner.finish", ", *granted_to(node)"),
    _guard("finish: kept already", "owner.finish", "request.claim in finished", "False"),
    _guard("finish: retries", "owner.failed", ' and row["retries"] < MAX_RETRIES'),
    _guard("hand back: cancel", "owner.hand_back", _CANCEL, "if False:"),
    _guard("FINALIZE: a new claim", "rows.to_finalize", '"claim": row["claim"] + 1, '),
    _guard("queued again: a new claim", "rows.requeue", 'claim=row["claim"] + 1, '),
    # Lost owners
    _guard("lost: cancel", "rows.lost", _CANCEL, "if False:"),
    _guard("lost: poison", "rows.poisoned", "failures < MAX_FAILURES", "True"),
    _guard("lost: it counts", "rows.lost", ', failures=row["failures"] + 1'),
    # Lines
    _guard("lines: the claim", "logs.append", "builds.c.claim == claim, "),
    _guard("lines: the status", "logs.append", ", builds.c.status == RUNNING"),
    _guard("lines: the node", "logs.append", " if node else and_(*mine)", " if False else and_(*mine)"),
    _guard("lines: a gap", "logs.append", "first_index > kept", "False"),
    _guard("lines: once", "logs.append", "lines[kept - first_index :]", "lines"),
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
    _guard("expired: the stage", "sweeps.expired_leases", ", builds.c.stage == WORK"),
    _guard("expired: the lease", "sweeps.expired_leases", ", builds.c.lease_until <= now"),
    _guard("queue timeout: not attached", "sweeps.queue_timeouts", 'builds.c.attached_to == "", ', model=TWO),
    _guard("queue timeout: its time", "sweeps.queue_timeouts", ", builds.c.queue_until <= now"),
    _guard("build timeout: the mark", "sweeps.build_timeouts", "builds.c.published.is_(False), "),
    _guard("build timeout: its time", "sweeps.build_timeouts", ", late)", ")"),
    # Builds that share a key
    _guard("attach: a new claim", "owner._by_key", '"claim": row["claim"] + 1, ', model=TWO),
    _guard("attach: the repository", "owner._by_key", 'first["repository"] != row["repository"]', "False", TWO_APART),
    _guard("reuse: the repository", "owner._by_key", ", cache.c.repository == row[\"repository\"]", "", TWO_APART),
    _guard("end: who waits goes on", "rows.end", 'if not row["attached_to"]:', "if False:", TWO),
    _guard("end: a key that is waited for stays", "rows._dropped_key", ", ~waits", model=TWO),
    _guard("promoted: the key", "rows._promote", "_in_flight(primary)", "_in_flight(first)", TWO),
)  # fmt: skip


@contextmanager
def removed(guard: Guard) -> Iterator[None]:
    """The store without this guard."""
    module_name, _, name = guard.function.partition(".")
    module = importlib.import_module(f"builder.store.{module_name}")
    real: Any = getattr(module, name)
    assert isinstance(real, FunctionType)
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
    try:
        yield
    finally:
        for holder, key in holders:
            setattr(holder, key, real)
