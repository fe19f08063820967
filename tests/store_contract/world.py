"""A store on a clock of its own, what the contract does with it again and again, and threads that start at once."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, nodes, offers, outbox, sweeps
from builder.store.engine import Store, open_store
from builder.store.events import Event

LEASE = 30_000
LIVE_MS = 2 * LEASE
LIVE = {"compile.go": {"go-1.26"}}
_IDS = itertools.count()


@dataclass
class World:
    """A store, its clock and what it emitted. The node "node" is registered."""

    store: Store
    at: list[int]
    events: list[Event] = field(default_factory=list)

    def submit(self, organization: str = "acme", **more: Any) -> str:
        build_id = f"b{next(_IDS):019d}"
        values = {
            "build_id": build_id, "organization": organization, "name": "n", "request_hash": "h", "request": "{}",
            "source_sha256": "0" * 64, "source_size": 1, "runtime": "go", "queue": "compile.go",
            "toolchain": "go-1.26", "repository": f"{organization}/n", "tags": '["latest"]', "priority": 0,
            "no_cache": False, "timeout_ms": 600_000, "queue_timeout_ms": 3_600_000,
        }  # fmt: skip
        builds.submit(self.store, values | more)
        return build_id

    def row(self, build_id: str) -> Any:
        row = builds.by_id(self.store, build_id)
        assert row is not None
        return row

    def register(self, *names: str, queue: str = "compile.go", toolchain: str = "go-1.26") -> None:
        """Nodes that can build what `submit` asks for, unless told otherwise."""
        for name in names:
            nodes.register(self.store, name, [queue], {toolchain: "sha256:0"}, 2, LIVE_MS)

    def claim(self, build_id: str, nonce: str = "n") -> int:
        granted = builds.claim(self.store, build_id, "node", nonce, LEASE)
        assert granted.row is not None, granted.refused
        return int(granted.row["claim"])

    def succeed_work(self, build_id: str, claim: int) -> builds.Finished:
        built = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r@sha256:" + "a" * 64, size_bytes=1)
        return builds.finish(self.store, pb.FinishRequest(build_id=build_id, claim=claim, success=built), 1000)

    def fail_work(
        self, build_id: str, claim: int, reason: str = "CompileFailed", count: int = 0, message: str = "m"
    ) -> builds.Finished:
        failure = pb.Failure(reason=reason, message=message)
        request = pb.FinishRequest(build_id=build_id, claim=claim, failure=failure, log_count=count)
        return builds.finish(self.store, request, 1000)

    def finalize(self, build_id: str) -> None:
        while self.row(build_id)["status"] == "RUNNING":
            row = builds.adopt_finalize(self.store, LEASE)
            assert row is not None
            assert builds.publish(self.store, row["build_id"], row["claim"])
            assert builds.succeed(self.store, row["build_id"], row["claim"], ())

    def sweep(self, *sweeps_: sweeps.Sweep) -> list[builds.Row]:
        """What the reconciler does of these."""
        with self.store.transaction() as tx:
            return sweeps.run(tx, self.store.now(tx), sweeps_)

    def expire_leases(self) -> list[builds.Row]:
        return self.sweep(sweeps.expired_leases())

    def queue_timeouts(self, live: sweeps.Live = LIVE) -> list[builds.Row]:
        return self.sweep(sweeps.queue_timeouts(live))

    def build_timeouts(self) -> list[builds.Row]:
        return self.sweep(sweeps.build_timeouts(LEASE))

    def offer(self, limit: int, queue: str = "compile.go", toolchains: tuple[str, ...] = ("go-1.26",)) -> list[str]:
        """What the dispatcher offers of a queue whose window is so large."""
        with self.store.transaction() as tx:
            return offers.offerable(tx, self.store.now(tx), queue, (*toolchains, ""), limit)

    def compare(self, listed: set[str], queue: str = "compile.go") -> int:
        """How many hints vanished, by the ids that lie in the queue's list."""
        with self.store.transaction() as tx:
            return offers.compare(tx, self.store.now(tx), queue, listed)

    def reports(self, build_id: str) -> list[Any]:
        return [report for report in outbox.due(self.store, 10_000) if report["build_id"] == build_id]


Worlds = Callable[[], World]
"""Makes an empty store; the test that asks for it ends it."""


def open_world(url: str) -> World:
    """The store at this URL, its clock at 1,000,000 ms."""
    at: list[int] = [1_000_000]
    events: list[Event] = []
    opened = open_store(url, emit=events.append)
    world = World(store=Store(engine=opened.engine, emit=events.append, clock=lambda: at[0]), at=at, events=events)
    world.register("node")
    return world


def line(text: str) -> dict[str, Any]:
    """A line of a build step."""
    return {"t": 0, "p": "BUILD", "o": "STDOUT", "l": text}


def attached(world: World) -> tuple[str, int, list[str]]:
    """(primary, its claim, three builds attached to it)"""
    primary = world.submit()
    claim = world.claim(primary)
    assert builds.planned(world.store, primary, claim, "key", "code", "go").verdict == "GO_ON"
    followers = [world.submit() for _ in range(3)]
    for follower in followers:
        number = world.claim(follower)
        assert builds.planned(world.store, follower, number, "key", "code", "go").verdict == "ATTACHED"
    return primary, claim, followers


def in_finalize(world: World) -> Any:
    """The row of a build that is adopted in FINALIZE."""
    build = world.submit()
    world.succeed_work(build, world.claim(build))
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None and row["build_id"] == build
    return row


def two_in_finalize(world: World) -> tuple[Any, Any]:
    """The rows of an older and a newer build of one repository, both adopted: the older's finalizer is slower than its
    lease, so that another has the newer one meanwhile."""
    old = in_finalize(world)
    new = world.submit()
    world.succeed_work(new, world.claim(new))
    world.at[0] += LEASE
    row = builds.adopt_finalize(world.store, LEASE)
    assert row is not None and row["build_id"] == new
    return old, row


def race(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, each on a thread (so on a connection) of its own, all let go at once."""
    start = threading.Barrier(len(calls))
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(index: int) -> None:
        start.wait(300)
        try:
            results[index] = calls[index]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
