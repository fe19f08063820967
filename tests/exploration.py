"""The table of transitions, explored breadth first over the real statements of the store.

A state is what SQLite holds in memory. From each one every step that some actor can take is taken by the real
function: clients submit and cancel, owners claim, beat, plan, send lines, launch a Job and finish, a watcher adopts it,
catches up and finishes, a finalizer adopts, resolves, publishes, tags and succeeds, the reconciler sweeps. A crash is
an owner that takes no step. A pause is one that takes it late: in each state whoever has lost its claim tries every
write once more. A lost answer is a call that is repeated.

The clock stands still. That a time has come is a step of its own, in any order, so nothing here waits or depends on the
length of a lease. Two states are the same when all that the statements decide by is: times as come or not, claims by
their age.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from google.protobuf import json_format

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, granting, jobs, logs, nodes, owner, rows, sweeps
from builder.store.engine import Store, open_store
from builder.store.events import Event
from builder.store.transitions import (
    BY_NAME,
    EXTERNAL,
    FINALIZE,
    IMAGE,
    JOB,
    MAX_FAILURES,
    MAX_RETRIES,
    OWNED,
    PENDING,
    RUNNING,
    SUCCEEDED,
    TERMINAL,
    WORK,
    Transition,
)

NOW = 1_000_000_000
LEASE, BACKOFF, FAR = 1_000, 5_000, 100_000_000
NODE, OTHER, UNABLE = "node", "other", "unable"
WATCHER, STRANGER = "watcher", "stranger"
NONCE = "mine"
DIGESTS = ("sha256:" + "a" * 64, "sha256:" + "b" * 64)
TABLES = ("builds", "log_chunks", "held_lines", "reports", "in_flight", "cache", "tags")
LIVE = {"compile.go": {"go-1.26"}}
FINISHES = ("ok", "CompileFailed", "RegistryUnavailable")
LINE = {"t": 0, "p": "BUILD", "o": "STDOUT", "l": "x"}

Row = Mapping[str, Any]
Dump = Mapping[str, list[Row]]
Act = Callable[[], object]


class Violation(AssertionError):
    """A promise that a step broke; with the steps that lead there."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """`builds` have one key, or `keys` of their own, and one repository, or are `apart`. `lines`: each attempt prints
    one. `pauses`: a retry waits. `calm`: nobody cancels, fails, drains or is too late. `jobs`: who has claimed creates
    a Job instead of building; `begun`: at the start all have. `limited`: one of them may be at work at a time.
    `prebuilt`: the builds are images that are there already.
    `failures` and `retries` are the limits, in place of those of `transitions`."""

    builds: int
    lines: bool = False
    pauses: bool = False
    keys: bool = False
    apart: bool = False
    calm: bool = False
    jobs: bool = False
    begun: bool = False
    limited: bool = False
    prebuilt: bool = False
    failures: int
    retries: int


ONE = Model(builds=1, lines=True, pauses=True, failures=2, retries=1)
ONE_IN_FULL = Model(builds=1, lines=True, pauses=True, failures=MAX_FAILURES, retries=MAX_RETRIES)
TWO = Model(builds=2, failures=1, retries=1)
TWO_CALM = Model(builds=2, calm=True, failures=2, retries=1)
TWO_KEYS = Model(builds=2, keys=True, calm=True, failures=1, retries=1)
JOBS = Model(builds=1, jobs=True, lines=True, failures=2, retries=1)
BEGUN = Model(builds=1, jobs=True, begun=True, lines=True, failures=2, retries=0)
TWO_BEGUN = Model(builds=2, jobs=True, begun=True, calm=True, failures=2, retries=0)
TWO_LIMITED = Model(builds=2, jobs=True, limited=True, calm=True, failures=1, retries=0)
PREBUILT = Model(builds=1, prebuilt=True, pauses=True, failures=2, retries=1)
TWO_PREBUILT = Model(builds=2, prebuilt=True, calm=True, failures=1, retries=0)
TWO_APART = Model(builds=2, apart=True, calm=True, failures=1, retries=1)


@dataclass(frozen=True, kw_only=True)
class Step:
    """`act` takes it, for the build number `of` or, without one, for whichever is due. `again`: the call is repeated,
    which has to change nothing and, by `same`, to answer the same."""

    name: str
    act: Act
    of: int | None = None
    again: bool = True
    same: Callable[[Any, Any], bool] = lambda first, second: True


class World:
    """The store, and the moves between its states."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.events: list[Event] = []
        opened = open_store("sqlite://")
        self.store = Store(engine=opened.engine, emit=self.events.append, clock=lambda: NOW)
        self._checkout = opened.engine.raw_connection()
        driver = self._checkout.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        self._driver = driver
        for name, toolchain in ((NODE, "go-1.26"), (OTHER, "go-1.26"), (UNABLE, "go-1.25")):
            nodes.register(self.store, name, ["compile.go", IMAGE, EXTERNAL], {toolchain: "sha256:0"}, 2, LEASE)
        self.ids = [f"b{number:019d}" for number in range(model.builds)]
        for build_id in self.ids:
            row = self.submit(build_id).row
            if model.begun:
                claimed = self.claim(row).row
                assert claimed is not None
                self.launching(claimed, claimed["claim"])
                self.launched(claimed, claimed["claim"], count=0)
        self.start = self.save()

    def close(self) -> None:
        self._checkout.close()
        self.store.engine.dispose()

    def save(self) -> bytes:
        return self._driver.serialize()

    def load(self, image: bytes) -> None:
        self._driver.deserialize(image)
        self.events.clear()

    def dump(self) -> Dump:
        """All rows of all tables."""
        found: dict[str, list[Row]] = {}
        for table in TABLES:
            cursor = self._driver.execute(f"select * from {table} order by rowid")
            names = [column[0] for column in cursor.description]
            found[table] = [dict(zip(names, row, strict=True)) for row in cursor]
        return found

    def set(self, build_id: str, **columns: int) -> None:
        """A time of a build has come."""
        assignments = ", ".join(f"{name} = {value}" for name, value in columns.items())
        self._driver.execute(f"update builds set {assignments} where build_id = ?", (build_id,))

    # What actors do

    def submit(self, build_id: str, request_hash: str = "h") -> builds.Submission:
        repository = f"acme/n{build_id[-1]}" if self.model.apart else "acme/n"
        queue, toolchain = (EXTERNAL, "") if self.model.prebuilt else ("compile.go", "go-1.26")
        queue = IMAGE if self.model.limited else queue
        values = {
            "build_id": build_id, "organization": "acme", "name": "n", "request_hash": request_hash, "request": "{}",
            "source_sha256": "0" * 64, "source_size": 1, "runtime": "go", "queue": queue,
            "toolchain": toolchain, "repository": repository, "tags": '["latest"]', "priority": 0, "no_cache": False,
            "timeout_ms": FAR, "queue_timeout_ms": FAR, "idempotency_key": f"key of {build_id[-1]}",
        }  # fmt: skip
        return builds.submit(self.store, values)

    def claim(self, row: Row, node: str = NODE, nonce: str = NONCE) -> builds.Claimed:
        return builds.claim(self.store, row["build_id"], node, nonce, LEASE, int(self.model.limited))

    def finish(
        self, row: Row, claim: int, how: str, node: str = "", count: int | None = None, first: int | None = None
    ) -> builds.Finished:
        """`first`: the index of a line that travels with it."""
        request = pb.FinishRequest(build_id=row["build_id"], claim=claim, first_index=first or 0)
        request.log_count = int(self.model.lines) if count is None else count
        lines = [] if first is None else [LINE]
        if how == "ok":
            digest = DIGESTS[self.ids.index(row["build_id"])]
            request.success.CopyFrom(pb.BuiltArtifact(digest=digest, reference=f"r@{digest}", size_bytes=1))
        else:
            request.failure.CopyFrom(pb.Failure(reason=how, message="m", error_class="platform"))
        pause = BACKOFF if self.model.pauses else 0
        return builds.finish(self.store, request, pause, node, lines=lines)

    def plan(self, row: Row, claim: int, node: str = "", count: int = 0, first: int | None = None) -> builds.KeyVerdict:
        """`first`: the index of a line that travels with it."""
        key = f"key {row['build_id']}" if self.model.keys else "key"
        lines: dict[str, Any] = {
            "log_count": count,
            "first_index": first or 0,
            "lines": [] if first is None else [LINE],
        }
        return builds.planned(self.store, row["build_id"], claim, key, "code", "go", (), node, **lines)

    def line(self, row: Row, claim: int, node: str = "") -> object:
        return logs.append(self.store, row["build_id"], claim, 0, [LINE], node)

    def job(self, row: Row, name: str = "") -> pb.Job:
        return pb.Job(strategy="kaniko", name=name or f"ignite-{row['build_id']}-{row['attempt']}", namespace="n")

    def launching(self, row: Row, claim: int, node: str = "", name: str = "") -> builds.Row | None:
        job = self.job(row, name)
        return jobs.launching(self.store, row["build_id"], claim, job, json_format.MessageToJson(job), node)

    def launched(self, row: Row, claim: int, node: str = "", count: int | None = None) -> builds.Finished:
        lines = int(self.model.lines) if count is None else count
        return jobs.launched(self.store, row["build_id"], claim, lines, (), node)

    def adopt_job(self, dump: Dump, watcher: str = WATCHER) -> jobs.Adopted:
        nonce = f"try {sum(row['claim'] for row in dump['builds'])}"  # its own for each adoption
        return jobs.adopt(self.store, watcher, nonce, LEASE, look=False)

    def beat(self, row: Row, claim: int, watcher: str = WATCHER, lease_ms: int = LEASE) -> object:
        return jobs.beat(self.store, watcher, [(row["build_id"], claim, "BUILD")], lease_ms)

    def unresolved(self, row: Row, reason: str) -> builds.Row | None:
        backoff = BACKOFF if self.model.pauses else 0
        found = pb.Failure(reason=reason, message="m", error_class="platform")
        return builds.unresolved(self.store, row["build_id"], row["claim"], found, backoff)

    def publish(self, row: Row) -> builds.Published | None:
        if self.model.prebuilt:
            artifact = json.dumps({"digest": DIGESTS[0]})
            return builds.publish(self.store, row["build_id"], row["claim"], artifact=artifact, statement="s")
        digest = json.loads(row["artifact"] or "{}").get("digest", "")
        return builds.publish(self.store, row["build_id"], row["claim"], ["latest"], digest)

    def refuse(self, row: Row) -> builds.Row | None:
        backoff = BACKOFF if self.model.pauses else 0
        return builds.refuse(self.store, row["build_id"], row["claim"], "not the tag's", backoff)

    def sweep(self, sweep: sweeps.Sweep) -> None:
        with self.store.transaction() as tx:
            sweeps.run(tx, NOW, [sweep])

    def came(self, build_id: str, sweep: sweeps.Sweep, **columns: int) -> None:
        """A time has come, and the reconciler sees it."""
        self.set(build_id, **columns)
        self.sweep(sweep)


# Steps


def steps(world: World, dump: Dump) -> Iterator[Step]:
    """What can be done next."""
    every = dump["builds"]
    for number, row in enumerate(every):
        if row["status"] in TERMINAL:
            continue
        if not world.model.calm:
            yield from _from_outside(world, number, row)
        if row["status"] == PENDING and not row["attached_to"]:
            yield from _of_pending(world, number, row, every)
        elif row["status"] == RUNNING:
            if row["lease_until"] > NOW:
                yield Step(name="lease over", of=number, act=_set(world, row, lease_until=NOW))
            if row["stage"] == WORK:
                yield from _of_owner(world, number, row)
            elif row["stage"] == JOB:
                yield from _of_watcher(world, number, row)
            else:
                yield from _of_finalizer(world, number, row, dump)
    if _lost(every):
        yield Step(name="expire leases", act=lambda: world.sweep(sweeps.expired_leases()))
    if any(row["stage"] == JOB and not row["watcher"] for row in every):
        yield Step(name="adopt a Job", act=partial(world.adopt_job, dump), same=_adopted_alike)
    if _some(every, FINALIZE) or any(_asked(row) for row in every):
        # Repeated it takes the next build.
        yield Step(name="adopt", act=lambda: builds.adopt_due(world.store, LEASE, 1, look=False), again=False)


def _from_outside(world: World, number: int, row: Row) -> Iterator[Step]:
    """A cancel, and the two times that the reconciler watches."""
    yield Step(name="cancel", of=number, act=_cancel(world, row))
    if row["status"] == PENDING:
        late = _came(world, row, sweeps.queue_timeouts(LIVE), queue_until=NOW)
        yield Step(name="queue timeout", of=number, act=late)
    else:
        late = _came(world, row, sweeps.build_timeouts(LEASE), started_at=NOW - FAR - LEASE)
        yield Step(name="build timeout", of=number, act=late)


def _lost(every: list[Row]) -> bool:
    """Whether the lease of an owner outside of the control side is over."""
    return any(
        row["lease_until"] <= NOW and (row["stage"] == WORK or (row["stage"] == JOB and row["watcher"]))
        for row in every
    )


def _asked(row: Row) -> bool:
    """Whether a prebuilt image waits for a finalizer, and its time has come."""
    return bool(row["queue"] == EXTERNAL and row["status"] == PENDING and row["not_before"] <= NOW)


def _some(every: list[Row], stage: str) -> bool:
    """Whether a lease is over in this stage."""
    return any(row["stage"] == stage and row["lease_until"] <= NOW for row in every)


def _at_work(every: list[Row]) -> int:
    """The builds that an owner outside of the control side has, or may have."""
    return sum(row["stage"] in OWNED for row in every)


def _of_pending(world: World, number: int, row: Row, every: list[Row]) -> Iterator[Step]:
    if row["not_before"] > NOW:
        yield Step(name="backoff over", of=number, act=_set(world, row, not_before=NOW))
    elif row["queue"] != EXTERNAL:
        is_full = world.model.limited and _at_work(every)
        name, same = ("claim beyond the limit", _refused_alike) if is_full else ("claim", _granted_alike)
        yield Step(name=name, of=number, act=lambda: world.claim(row), same=same)


def _adopted_alike(first: jobs.Adopted, second: jobs.Adopted) -> bool:
    """A call that is refused is refused again."""
    return (first.row and first.row["claim"]) == (second.row and second.row["claim"])


def _granted_alike(first: builds.Claimed, second: builds.Claimed) -> bool:
    return first.row is not None and second.row is not None and first.row["claim"] == second.row["claim"]


def _refused_alike(first: builds.Claimed, second: builds.Claimed) -> bool:
    return first.row is None and first == second


def _equal(first: object, second: object) -> bool:
    return first == second


def _of_owner(world: World, number: int, row: Row) -> Iterator[Step]:
    claim, store, build_id = row["claim"], world.store, row["build_id"]
    beat = partial(builds.heartbeat, store, build_id, claim, "BUILD", LEASE)
    yield Step(name="heartbeat", of=number, act=beat, same=_equal)
    if world.model.jobs:
        if row["job"]:
            yield Step(name="launched", of=number, act=partial(world.launched, row, claim), same=_finished_alike)
        else:
            yield Step(name="launching", of=number, act=partial(world.launching, row, claim))
    else:
        yield Step(name="plan", of=number, act=partial(world.plan, row, claim))
        if world.model.lines:
            with_line = partial(world.plan, row, claim, count=1, first=0)
            yield Step(name="plan with its line", of=number, act=with_line)
    if world.model.lines and not row["claim_lines"]:
        line = partial(world.line, row, claim)
        yield Step(name="line", of=number, act=line, same=lambda first, second: first[:2] == second[:2])
    for how in FINISHES[:1] if world.model.calm else FINISHES:
        if how != "ok" or row["build_key"]:  # who has built has planned
            finish = partial(world.finish, row, claim, how)
            yield Step(name=f"finish {how}", of=number, act=finish, same=_finished_alike)
            if world.model.lines:
                last = partial(world.finish, row, claim, how, first=0)
                yield Step(name=f"finish {how} with its line", of=number, act=last, same=_finished_alike)
    for why in () if world.model.calm else ("drain", "lost"):
        yield Step(name=f"hand back {why}", of=number, act=partial(builds.hand_back, store, build_id, claim, why))


def _of_watcher(world: World, number: int, row: Row) -> Iterator[Step]:
    claim, store, build_id = row["claim"], world.store, row["build_id"]
    if not row["watcher"]:
        if not world.model.calm:
            late = _came(world, row, sweeps.unwatched(), lease_until=NOW - FAR)
            yield Step(name="unwatched", of=number, act=late, again=False)
            if not row["unwatched"]:
                line = _came(world, row, sweeps.unwatched_soon(LEASE), lease_until=NOW - LEASE)
                yield Step(name="unwatched soon", of=number, act=line, again=False)
        return
    yield Step(name="beat", of=number, act=partial(world.beat, row, claim), same=_equal)
    yield Step(name="caught up", of=number, act=partial(jobs.caught_up, store, build_id, claim, WATCHER))
    if world.model.lines and not row["claim_lines"]:
        line = partial(world.line, row, claim, WATCHER)
        yield Step(name="line", of=number, act=line, same=lambda first, second: first[:2] == second[:2])
    for how in FINISHES[:1] if world.model.calm else (*FINISHES, "JobVanished"):
        finish = partial(world.finish, row, claim, how, WATCHER)
        yield Step(name=f"finish {how}", of=number, act=finish, same=_finished_alike)
    for why in () if world.model.calm else ("drain", "lost"):
        give = partial(builds.hand_back, store, build_id, claim, why, WATCHER)
        yield Step(name=f"hand back {why}", of=number, act=give)


def _finished_alike(first: builds.Finished, second: builds.Finished) -> bool:
    return first.outcome == second.outcome


def _published_alike(first: builds.Published | None, second: builds.Published | None) -> bool:
    return (first and first.tags) == (second and second.tags)


def _of_finalizer(world: World, number: int, row: Row, dump: Dump) -> Iterator[Step]:
    act = partial(partial, store=world.store, build_id=row["build_id"], claim=row["claim"])
    if not row["finalizer"]:
        return
    yield Step(name="keep", of=number, act=act(builds.keep_finalize, lease_ms=LEASE), same=_equal)
    yield Step(name="later", of=number, act=act(builds.release_finalize))
    yield Step(name="publish", of=number, act=partial(world.publish, row), same=_published_alike)
    if world.model.prebuilt:
        for reason in () if row["published"] or world.model.calm else ("ImageNotFound", "RegistryUnavailable"):
            yield Step(name=f"unresolved {reason}", of=number, act=partial(world.unresolved, row, reason))
        if row["published"]:
            yield Step(name="succeed", of=number, act=act(builds.succeed, phases=()))
        return
    if row["from_cache_of"] and not row["published"]:
        yield Step(name="artifact gone", of=number, act=act(builds.rebuild, digest=DIGESTS[0]))
    if not (world.model.calm or row["from_cache_of"] or row["published"]):
        yield Step(name="artifact refused", of=number, act=partial(world.refuse, row))
    mine = [tag for tag in dump["tags"] if tag["repository"] == row["repository"]]
    if row["published"] and any(tag["number"] >= row["number"] for tag in mine):
        yield Step(name="succeed", of=number, act=act(builds.succeed, phases=()))


def _cancel(world: World, row: Row) -> Act:
    return lambda: builds.cancel(world.store, "acme", row["build_id"])


def _set(world: World, row: Row, **columns: int) -> Act:
    return lambda: world.set(row["build_id"], **columns)


def _came(world: World, row: Row, sweep: sweeps.Sweep, **columns: int) -> Act:
    return lambda: world.came(row["build_id"], sweep, **columns)


# What must change nothing


def idle_calls(world: World, number: int, dump: Dump) -> Iterator[Step]:
    """Calls of whoever has no right to them, about one build: a lost claim, the other stage, another node, a claim of
    what is not free, another organization, a line that leaves a gap, an end before the mark."""
    row = dump["builds"][number]
    claim, store, build_id = row["claim"], world.store, row["build_id"]
    works = row["stage"] == WORK
    if claim > 1:
        yield from _owner_writes(world, row, claim - 1, "", "a late owner")
        yield from _watcher_writes(world, row, claim - 1, WATCHER, "a late watcher")
        yield from _finalizer_writes(world, {**row, "claim": claim - 1}, "a late finalizer")
    yield from _owner_writes(world, row, claim, OTHER if row["stage"] in OWNED else "", "no owner")
    yield from _watcher_writes(world, row, claim, STRANGER, "no watcher")
    if row["stage"] == JOB:
        yield from _workers_writes(world, row, claim, "", "the worker")
        yield from _watcher_writes(world, row, claim, NODE, "the worker's node")
    else:
        yield from _watcher_writes(world, row, claim, WATCHER, "a watcher too early or late")
    if works:
        yield Step(name="another attempt's Job", act=_refused(partial(world.launching, row, claim, name="ignite-x-1")))
        if not row["job"]:
            yield Step(name="launched without a mark", act=_refused(partial(world.launched, row, claim)))
        elif world.model.lines and not row["claim_lines"]:
            yield Step(name="launched without its lines", act=partial(world.launched, row, claim))
        if row["cancel_requested"]:
            yield Step(name="launching though cancelled", act=partial(world.launching, row, claim))
    if not any(one["stage"] == JOB and not one["watcher"] for one in dump["builds"]):
        for watcher in (WATCHER, STRANGER):
            yield Step(name=f"{watcher} adopts what is watched", act=partial(world.adopt_job, dump, watcher))
    yield Step(name="unwatched", act=partial(world.sweep, sweeps.unwatched()))
    yield Step(name="unwatched soon", act=partial(world.sweep, sweeps.unwatched_soon(LEASE)))
    if row["stage"] != FINALIZE:
        yield from _finalizer_writes(world, row, "no finalizer")
    else:
        if not row["published"]:
            yield Step(name="succeed before the mark", act=partial(builds.succeed, store, build_id, claim, ()))
        if row["published"] or not row["from_cache_of"]:
            yield Step(name="artifact gone", act=partial(builds.rebuild, store, build_id, claim, DIGESTS[0]))
        if row["published"] or row["from_cache_of"]:
            yield Step(name="artifact refused", act=partial(world.refuse, row))
        if row["published"] or row["queue"] != EXTERNAL:
            yield Step(name="image refused", act=partial(world.unresolved, row, "ImageNotFound"))
    if works and world.model.lines and not row["claim_lines"]:
        yield Step(name="a gap", act=partial(logs.append, store, build_id, claim, 1, [LINE]))
        yield Step(name="plan without its lines", act=partial(world.plan, row, claim, count=1))
        yield Step(name="plan with a gap", act=partial(world.plan, row, claim, count=2, first=1))
        for how in FINISHES:
            yield Step(name=f"finish {how} without its lines", act=partial(world.finish, row, claim, how))
            gap = partial(world.finish, row, claim, how, count=2, first=1)
            yield Step(name=f"finish {how} with a gap", act=gap)
            short = partial(world.finish, row, claim, how, count=2, first=0)
            yield Step(name=f"finish {how} without all of its lines", act=short)
    if row["published"] or row["status"] in TERMINAL:
        yield Step(name="cancel too late", act=_cancel(world, row))
    yield Step(name="cancel by another", act=partial(builds.cancel, store, "beta", build_id))
    if row["status"] != PENDING or row["attached_to"] or row["not_before"] > NOW:
        for node, nonce in ((OTHER, "another"), (OTHER, NONCE), (NODE, "another")):
            yield Step(name=f"claim by {node} with {nonce}", act=partial(world.claim, row, node, nonce))
    else:
        for node in (NODE, UNABLE) if row["queue"] == EXTERNAL else (UNABLE,):
            yield Step(name=f"claim by {node} that cannot", act=partial(world.claim, row, node))
    yield Step(name="submit again", act=partial(world.submit, build_id))
    yield Step(name="submit something else", act=partial(world.submit, build_id, "other"))
    if not _lost(dump["builds"]):
        yield Step(name="expire leases", act=partial(world.sweep, sweeps.expired_leases()))
    yield Step(name="queue timeouts", act=partial(world.sweep, sweeps.queue_timeouts(LIVE)))
    if row["started_at"] == NOW:  # else its time has come in an earlier state
        yield Step(name="build timeouts", act=partial(world.sweep, sweeps.build_timeouts(LEASE)))
    if not _some(dump["builds"], FINALIZE) and not any(_asked(one) for one in dump["builds"]):
        # Without the first look: a statement that only reads is no guard.
        yield Step(name="adopt what is not due", act=partial(builds.adopt_due, store, LEASE, 1, look=False))


def _owner_writes(world: World, row: Row, claim: int, node: str, who: str) -> Iterator[Step]:
    store, build_id, kept = world.store, row["build_id"], row["claim_lines"]
    beat = partial(builds.heartbeat, store, build_id, claim, "PUSH", 2 * LEASE, node)
    yield Step(name=f"{who}: heartbeat", act=beat)
    yield from _workers_writes(world, row, claim, node, who)
    if row["stage"] != FINALIZE or claim != row["claim"]:  # lines are fenced by the claim alone
        yield Step(name=f"{who}: line", act=partial(logs.append, store, build_id, claim, kept, [LINE], node))
    for how in FINISHES:
        yield Step(name=f"{who}: finish {how}", act=partial(world.finish, row, claim, how, node, 0))
        last = partial(world.finish, row, claim, how, node, 0, kept)
        yield Step(name=f"{who}: finish {how} with a line", act=last)
    for why in ("drain", "lost"):
        yield Step(name=f"{who}: {why}", act=partial(builds.hand_back, store, build_id, claim, why, node))


def _workers_writes(world: World, row: Row, claim: int, node: str, who: str) -> Iterator[Step]:
    """What only an owner of WORK writes."""
    yield Step(name=f"{who}: plan", act=partial(world.plan, row, claim, node))
    with_line = partial(world.plan, row, claim, node, first=row["claim_lines"])
    yield Step(name=f"{who}: plan with a line", act=with_line)
    yield Step(name=f"{who}: launching", act=partial(world.launching, row, claim, node))
    yield Step(name=f"{who}: launched", act=partial(world.launched, row, claim, node, 0))


def _watcher_writes(world: World, row: Row, claim: int, watcher: str, who: str) -> Iterator[Step]:
    store, build_id = world.store, row["build_id"]
    yield Step(name=f"{who}: beat", act=partial(world.beat, row, claim, watcher, 2 * LEASE))
    yield Step(name=f"{who}: caught up", act=partial(jobs.caught_up, store, build_id, claim, watcher))
    yield Step(
        name=f"{who}: line", act=partial(logs.append, store, build_id, claim, row["claim_lines"], [LINE], watcher)
    )
    yield Step(name=f"{who}: finish", act=partial(world.finish, row, claim, "ok", watcher, 0))
    yield Step(name=f"{who}: release", act=partial(builds.hand_back, store, build_id, claim, "drain", watcher))


def _refused(act: Act) -> Act:
    """A call that raises, and changes nothing."""

    def refused() -> None:
        with suppress(jobs.Foreign, jobs.Unmarked):
            act()

    return refused


def _finalizer_writes(world: World, row: Row, who: str) -> Iterator[Step]:
    act = partial(partial, store=world.store, build_id=row["build_id"], claim=row["claim"])
    yield Step(name=f"{who}: keep", act=act(builds.keep_finalize, lease_ms=2 * LEASE))
    yield Step(name=f"{who}: later", act=act(builds.release_finalize))
    yield Step(name=f"{who}: artifact gone", act=act(builds.rebuild, digest=DIGESTS[0]))
    yield Step(name=f"{who}: artifact refused", act=partial(world.refuse, row))
    yield Step(name=f"{who}: image refused", act=partial(world.unresolved, row, "ImageNotFound"))
    yield Step(name=f"{who}: publish", act=partial(world.publish, row))
    yield Step(name=f"{who}: succeed", act=act(builds.succeed, phases=()))


# States


Part = tuple[object, ...]


@dataclass(frozen=True)
class State:
    """What of each build, and of the tables that builds share, a statement decides by."""

    builds: tuple[Part, ...]
    in_flight: tuple[int, ...]
    cache: tuple[int, ...]
    tags: tuple[tuple[str, int], ...]

    @property
    def has_ended(self) -> bool:
        return all(part[0] in TERMINAL for part in self.builds)


def canonical(dump: Dump) -> State:
    """What tells a state from others: all that the statements decide by."""
    names = {row["build_id"]: index for index, row in enumerate(dump["builds"])}
    return State(
        builds=tuple(_canonical(row, names) for row in dump["builds"]),
        in_flight=tuple(names[one["build_id"]] for one in dump["in_flight"]),
        cache=tuple(names[one["build_id"]] for one in dump["cache"]),
        tags=tuple((one["repository"], one["number"]) for one in dump["tags"]),
    )


def _canonical(row: Row, names: Mapping[str, int]) -> Part:
    if row["status"] in TERMINAL:
        return (row["status"],)
    artifact = json.loads(row["artifact"])["digest"] if row["artifact"] else ""
    return (
        row["status"], row["stage"], names.get(row["attached_to"]), names.get(row["from_cache_of"]), artifact,
        row["failures"], row["retries"], row["lease_until"] > NOW, row["not_before"] > NOW, row["finalizer"],
        row["cancel_requested"], row["published"], row["build_key"], row["claim_lines"], bool(row["claim"]),
        bool(row["job"]), row["job_seen"], row["watcher"], row["caught_up"], row["unwatched"],
    )  # fmt: skip


# Promises


def check(model: Model, before: Dump, after: Dump, events: list[Event]) -> None:
    """What holds of every step. Raises `Violation`."""
    by_id = {row["build_id"]: row for row in after["builds"]}
    told: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        told[event.build_id].append(event)
    for old in before["builds"]:
        new = by_id[old["build_id"]]
        if old["status"] in TERMINAL:
            _require(new == old, "changed after its end", old, new)
        for name in ("claim", "attempt", "failures", "retries", "published", "log_lines", "report_sequence"):
            _require(new[name] >= old[name], f"{name} went back", old, new)
        _check_events(model, old, new, told[old["build_id"]])
        _check_owner(old, new, told[old["build_id"]])
        if any(event.action in ("adopt", "resolve") for event in told[old["build_id"]]):
            at_work = [one for one in before["builds"] if one["finalizer"] and one["lease_until"] > NOW]
            _require(old["repository"] not in [one["repository"] for one in at_work], "two at a repository", at_work)
    for row in after["builds"]:
        _check_row(model, row, by_id, after)
    _require(not model.limited or _at_work(after["builds"]) <= 1, "more at work than may be", after["builds"])
    _check_shared(before, after, by_id)


def _require(holds: object, what: str, *seen: object) -> None:
    if not holds:
        raise Violation(f"{what}: {' → '.join(repr(one) for one in seen)}")


def _check_events(model: Model, old: Row, new: Row, events: list[Event]) -> None:
    """Only transitions of the table, each from where it starts and under its condition, none without its event."""
    status = old["status"]
    for event in events:
        _require(event.action in BY_NAME, "no transition", event)
        rule = BY_NAME[event.action]
        _require(rule.before == status and event.status in rule.after, f"not from {status}", event)
        status = event.status
        for condition in _unmet(model, rule, old, new):
            _require(False, f"{event.action} without its condition {condition!r}", old, new)
    _require(status == new["status"], "a status without an event", old["status"], new["status"], events)


def _unmet(model: Model, rule: Transition, row: Row, after: Row) -> list[str]:
    """The conditions of a transition, as the table has them, that the build before it does not meet. Lines may come
    with it."""
    met = {
        "WORK": row["stage"] == WORK,
        "JOB": row["stage"] == JOB,
        "WORK or JOB": row["stage"] in OWNED,
        "marked": bool(row["job"]),
        "not watched": not row["watcher"],
        "not watched for the queue timeout": not row["watcher"],
        "not a Job that nobody watches": row["stage"] != JOB or row["watcher"] or row["cancel_requested"],
        "retries left or the Job unseen": row["retries"] < model.retries or _is_unseen(row),
        f"queue `{EXTERNAL}`": row["queue"] == EXTERNAL,
        "FINALIZE": row["stage"] == FINALIZE,
        "attached": bool(row["attached_to"]),
        "not attached": not row["attached_to"],
        "`not_before` over": row["not_before"] <= NOW,
        "no cancel asked for": not row["cancel_requested"],
        "every line kept": max(row["claim_lines"], after["claim_lines"]) >= model.lines,
        "lease over": row["lease_until"] <= NOW,
        "PUBLISH mark": bool(row["published"]),
        "no PUBLISH mark": not row["published"],
        "reused": bool(row["from_cache_of"]),
        "not reused": not row["from_cache_of"],
    }
    conditions = {part.strip() for part in rule.guard.split(",")}
    if rule.name == "lease-expired":  # an owner that says it lost its build does not wait for the lease
        conditions.discard("lease over")
    return sorted(condition for condition in conditions if not met.get(condition, True))


def _is_unseen(row: Row) -> bool:
    return bool(row["stage"] == JOB and not row["job_seen"])


def _check_owner(old: Row, new: Row, events: list[Event]) -> None:
    """Who loses ownership loses the claim: no two have a valid one. An attempt is a claim of a queued build."""
    actions = [event.action for event in events]
    owned = old["status"] == RUNNING and (old["stage"] in OWNED or old["finalizer"])
    place = ("status", "stage", "watcher")
    moved = any(new[name] != old[name] for name in place) and new["status"] not in TERMINAL
    granted = {"claim", "adopt", "adopt-job", "resolve"} & set(actions)
    if granted or (owned and moved):
        _require(new["claim"] > old["claim"], "a claim with two owners", old, new)
    taken_over = "adopt" in actions and old["finalizer"] and not old["published"]
    if new["status"] not in TERMINAL and (taken_over or "lease-expired" in actions):
        counts = not old["cancel_requested"] and not (old["stage"] == JOB and old["caught_up"])
        _require(new["failures"] == old["failures"] + int(counts), "a lost owner that does not count", old, new)
    granted_anew = actions.count("claim") + actions.count("resolve")
    _require(new["attempt"] - old["attempt"] == granted_anew, "an attempt that is no claim", old, new)
    if "adopt-job" in actions:
        _require(new["watcher"] == WATCHER and not new["claim_lines"], "an adoption by nobody", old, new)
        _require(not new["caught_up"], "an adopter that has not read a line is caught up", old, new)
    if "cancel-request" in actions:
        _require(new["cancel_requested"], "a cancel was lost", old, new)


def _check_row(model: Model, row: Row, by_id: Mapping[str, Row], dump: Dump) -> None:
    reports = [one for one in dump["reports"] if one["build_id"] == row["build_id"]]
    _require([one["sequence"] for one in reports] == list(range(1, len(reports) + 1)), "reports", row, reports)
    _require(len(reports) == row["report_sequence"], "report_sequence", row, reports)
    ends = [any(f'"BUILD_STATUS_{status}"' in one["body"] for status in TERMINAL) for one in reports]
    is_ended = row["status"] in TERMINAL
    _require(ends == [False] * (len(ends) - is_ended) + [True] * is_ended, "terminal reports", row, reports)
    if is_ended:
        _require(f'"BUILD_STATUS_{row["status"]}"' in reports[-1]["body"], "another end was reported", row, reports)
    chunks = [one for one in dump["log_chunks"] if one["build_id"] == row["build_id"]]
    sequences = [line["s"] for chunk in chunks for line in json.loads(chunk["lines"])]
    _require(sequences == list(range(1, row["log_lines"] + 1)), "the log is not dense", row, sequences)
    if not is_ended:
        _require(row["failures"] < model.failures and row["retries"] <= model.retries, "too many tries", row)
        _require(row["stage"] in OWNED or not row["cancel_requested"], "a cancel was passed over", row)
    _require((row["stage"] in (*OWNED, FINALIZE)) == (row["status"] == RUNNING), "stage", row)
    if row["stage"] == JOB:
        _require(row["job"], "JOB without a mark", row)
        behind = [one for one in dump["builds"] if one["stage"] == JOB and one["watcher"] and not one["caught_up"]]
        _require(len(behind) <= 1, "a watcher with two builds that it has not caught up with", behind)
    if row["published"]:
        _require(row["status"] in (RUNNING, SUCCEEDED), "only forward from the mark", row)
    if row["status"] == SUCCEEDED:
        _require(row["published"] and row["artifact"], "SUCCEEDED without a mark or an artifact", row)
        _require(not row["cancel_requested"], "a cancel was lost", row)
    if row["stage"] == FINALIZE and (row["published"] or not model.prebuilt):
        _require(row["artifact"], "FINALIZE without an artifact", row)
    if row["from_cache_of"]:
        origin = by_id[row["from_cache_of"]]
        _require(origin["repository"] == row["repository"], "reused across repositories", row, origin)
    if row["attached_to"]:
        primary = by_id[row["attached_to"]]
        _require(row["status"] == PENDING, "attached and not waiting", row)
        _require(primary["status"] not in TERMINAL and not primary["attached_to"], "attached to none", row, primary)
        _require(primary["repository"] == row["repository"], "attached across repositories", row, primary)
        holders = [one["build_id"] for one in dump["in_flight"] if one["build_key"] == row["build_key"]]
        _require(holders == [primary["build_id"]], "attached to who has no key", row, holders)


def _check_shared(before: Dump, after: Dump, by_id: Mapping[str, Row]) -> None:
    for one in after["in_flight"]:
        holder = by_id[one["build_id"]]
        _require(holder["status"] not in TERMINAL and not holder["attached_to"], "a key of none", holder)
        _require(holder["build_key"] == one["build_key"], "a key of another", holder, one)
    for tag in after["tags"]:
        owner = next(row for row in by_id.values() if row["number"] == tag["number"])
        _require(owner["published"], "a tag before the mark", tag, owner)
        _require(json.loads(owner["artifact"])["digest"] == tag["digest"], "a tag of another digest", tag, owner)
    for tag in before["tags"]:
        now = next((one for one in after["tags"] if one["repository"] == tag["repository"]), None)
        _require(now is not None and now["number"] >= tag["number"], "an older build took a tag", tag, now)
    for entry in after["cache"]:
        _require(by_id[entry["build_id"]]["status"] == SUCCEEDED, "a cache entry of no success", entry)


# The exploration


@dataclass(frozen=True, kw_only=True)
class Explored:
    """`actions`: the transitions that were emitted."""

    states: int
    edges: int
    actions: frozenset[str]


Came = dict[State, tuple[State, str]]
"""State → the one that it was first reached from, and by which step."""


@contextmanager
def opened(model: Model) -> Iterator[World]:
    """The world of a model, for any number of explorations."""
    world = World(model)
    try:
        yield world
    finally:
        world.close()


def explore(world: World) -> Explored:
    """Every state there is. Raises `Violation` for a broken promise and for a state that cannot end."""
    with ExitStack() as stack:
        limits = (
            (rows, "MAX_FAILURES", world.model.failures),
            (owner, "MAX_RETRIES", world.model.retries),
            (granting, "AVOID_MS", -FAR),  # one node claims everything here; tests/store_contract/claims.py has two
        )
        for module, name, value in limits:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        return _explore(world)


def _explore(world: World) -> Explored:
    world.load(world.start)
    start = canonical(world.dump())
    images, came, leads = {start: world.start}, Came(), defaultdict[State, set[State]](set)
    seen, todo, actions, edges = set[object](), deque([start]), set[str](), 0
    while todo:
        here = todo.popleft()
        image = images.pop(here)
        world.load(image)
        before = world.dump()
        for number, part in enumerate(here.builds):
            if part not in seen:  # the conditions of these calls are about one build
                seen.add(part)
                for step in idle_calls(world, number, before):
                    with _told(here, came, f"{step.name} of {number}"):
                        step.act()
                        _require(world.dump() == before, "changed something", before, world.dump())
                        _require(not world.events, "emitted something", world.events)
        for step in steps(world, before):
            world.load(image)
            with _told(here, came, f"{step.name} {step.of if step.of is not None else ''}"):
                first = step.act()
                after = world.dump()
                check(world.model, before, after, world.events)
                actions.update(event.action for event in world.events)
                there = canonical(after)
                if there not in came and there != start:
                    came[there] = (here, step.name if step.of is None else f"{step.name} {step.of}")
                    images[there] = world.save()
                    todo.append(there)
                repeat = (step.name, here.builds[step.of], there.builds) if step.of is not None else (step.name, here)
                if step.again and repeat not in seen:
                    seen.add(repeat)
                    world.events.clear()
                    second = step.act()
                    twice = world.dump()
                    check(world.model, after, twice, world.events)
                    _require(canonical(twice) == there, "a repeated call did something", there, canonical(twice))
                    _require(step.same(first, second), "a repeated call answered otherwise", first, second)
            edges += 1
            leads[there].add(here)
    _check_ends([start, *came], leads, came)
    return Explored(states=len(came) + 1, edges=edges, actions=frozenset(actions))


@contextmanager
def _told(here: State, came: Came, step: str) -> Iterator[None]:
    """Whatever goes wrong is told with the way there."""
    try:
        yield
    except (Violation, RuntimeError, jobs.Unmarked) as error:
        raise Violation(f"{error}\nby: {_path(here, came)} → {step}") from error


def _check_ends(states: list[State], leads: Mapping[State, set[State]], came: Came) -> None:
    """From every state one can be reached in which all builds have ended."""
    reaching = {state for state in states if state.has_ended}
    todo = deque(reaching)
    while todo:
        for state in leads.get(todo.popleft(), set()) - reaching:
            reaching.add(state)
            todo.append(state)
    for state in states:
        _require(state in reaching, "stuck", _path(state, came))


def _path(state: State, came: Came) -> str:
    names: list[str] = []
    while state in came:
        state, name = came[state]
        names.append(name)
    return " → ".join(reversed(names)) or "the start"
