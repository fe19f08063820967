"""A build whose node failed it, and two nodes that wait for hints as Celery does: the other one gets it soon."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from kombu.transport.redis import Transport

from builder import config
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.control.loops import Loops
from builder.logs import event_log
from builder.services.auth import Caller
from builder.services.parts import Parts
from builder.services.workers import WorkerService
from builder.store.granting import AVOID_HINTS, AVOID_PAUSE_MS
from builder.store.offers import REFUSED, SETTLE_MS
from builder.store.transitions import PENDING
from tests.store_contract.world import LEASE, World, open_world

WAIT_MS = 1000 * Transport.brpop_timeout
NODE = Caller(organization="", scopes=frozenset({"worker"}))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


@dataclass
class Consumer:
    """A node's Celery: since when it waits for a hint, or when it begins to, or the hint that it has a claim for."""

    name: str
    since: int | None = None
    begins: int | None = None
    claims: tuple[int, str] | None = None


@dataclass
class Field:
    """The real dispatcher, service and store on virtual time, and a Redis list that two consumers wait for.

    Redis serves the consumer that waits longest. `late_ms`: how late it ends a wait that was in vain. `answer_ms`: from
    a hint to the answer of its claim. The dispatcher and the node go on at the same moment, the node first.
    """

    world: World
    late_ms: int
    answer_ms: int
    consumers: list[Consumer]
    listed: list[str] = field(default_factory=list)
    refusals: int = 0
    granted: str = ""

    def __post_init__(self) -> None:
        settings = config.load({"lease_ms": LEASE, "message_key": "k" * 32}).settings
        self.loops = Loops(
            settings=settings,
            store=self.world.store,
            celery=cast(Any, self),
            finalizers=cast(Any, None),
            reports=cast(Any, None),
            retention=cast(Any, None),
            redis=cast(Any, SimpleNamespace(lrange=lambda *_: [])),
            log=event_log(io.StringIO()),
        )
        self.service = WorkerService(
            Parts(
                settings=settings,
                store=self.world.store,
                sources=cast(Any, None),
                catalog=cast(Any, None),
                runtimes={},
                wake=lambda: self.loops.wake("dispatch"),
                changed=lambda build_id: None,
                stale=lambda call: None,
                dropped=lambda count: None,
            ),
            with_claim_bytes=0,
        )

    @property
    def now(self) -> int:
        return self.world.at[0]

    def send_task(self, name: str, *, kwargs: dict[str, str], **options: object) -> None:
        """LPUSH, as Celery does it."""
        self.listed.append(kwargs["build_id"])
        waiting = [one for one in self.consumers if one.since is not None]
        if waiting:
            self._pop(min(waiting, key=lambda one: cast(int, one.since)))

    def _pop(self, consumer: Consumer) -> None:
        consumer.since, consumer.begins = None, None
        consumer.claims = (self.now + self.answer_ms, self.listed.pop(0))

    def step(self) -> None:
        """On to the next moment at which anything happens."""
        wake, tick_ms = self.loops._wakes["dispatch"], self.loops.settings.tick_ms
        due = [self.now // tick_ms * tick_ms + tick_ms]
        for one in self.consumers:
            ends = None if one.since is None else one.since + WAIT_MS + self.late_ms
            due += [at for at in (ends, one.begins, one.claims and one.claims[0]) if at is not None]
        self.world.at[0] = max(self.now, min(due))
        for one in self.consumers:
            if one.since is not None and self.now >= one.since + WAIT_MS + self.late_ms:
                one.since, one.begins = None, self.now + 1
            elif one.claims is not None and self.now >= one.claims[0]:
                self._claim(one, one.claims[1])
            if one.begins is not None and self.now >= one.begins:
                one.since, one.begins = self.now, None
                if self.listed:
                    self._pop(one)
        if wake.is_set():
            wake.clear()
            self.loops.dispatch(woken=True)
        elif self.now % tick_ms == 0:
            self.loops.dispatch()

    def run(self, ms: int) -> None:
        """Until a claim is granted, at the longest for so long."""
        until = self.now + ms
        while not self.granted and self.now < until:
            self.step()

    def _claim(self, consumer: Consumer, build_id: str) -> None:
        request = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=build_id, node_id=consumer.name, nonce=consumer.name)
        answer = self.service.claim_build(NODE, request)
        consumer.claims, consumer.begins = None, self.now
        if answer.granted:
            self.granted = consumer.name
        else:
            self.refusals += 1


def failed_on_a_node(world: World) -> str:
    world.register("other")
    build = world.submit()
    world.fail_work(build, world.claim(build), "NodeDiskFull")
    world.at[0] = world.row(build)["not_before"]
    return build


@pytest.mark.parametrize("late_ms", [0, 3, 40, 100])
@pytest.mark.parametrize("answer_ms", [1, 20, 300])
def test_the_other_node_gets_the_hint_after_a_few_refusals(world: World, late_ms: int, answer_ms: int) -> None:
    """Wherever in its wait each of them is, and though a node's wait is as long as the dispatcher's tick."""
    for waited in range(0, WAIT_MS + late_ms, 97):
        build = failed_on_a_node(world)
        world.register("node")
        began = world.at[0]
        consumers = [Consumer("node", since=began), Consumer("other", since=began - waited)]
        field_ = Field(world, late_ms, answer_ms, consumers)
        field_.run(60_000)
        assert (field_.granted, world.row(build)["node_id"]) == ("other", "other")
        assert field_.refusals < AVOID_HINTS
        assert world.at[0] - began <= 2 * WAIT_MS + late_ms + AVOID_HINTS * answer_ms
        world.fail_work(build, world.row(build)["claim"])


def test_a_node_that_has_a_slot_and_takes_nothing_costs_a_few_claims_in_a_pause(world: World) -> None:
    build = failed_on_a_node(world)
    field_ = Field(world, 0, 1, [Consumer("node", since=world.at[0])])
    field_.run(10_000)
    assert world.row(build)["status"] == PENDING
    assert AVOID_HINTS < field_.refusals <= AVOID_HINTS * 10_000 // field_.loops.settings.tick_ms


def test_while_no_other_node_has_a_free_slot_one_hint_comes_in_a_pause(world: World) -> None:
    build = failed_on_a_node(world)
    busy = [world.submit() for _ in range(2)]
    for one in busy:
        request = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=one, node_id="other", nonce="other")
        assert Field(world, 0, 1, []).service.claim_build(NODE, request).granted
    field_ = Field(world, 0, 1, [Consumer("node", since=world.at[0])])
    field_.run(10_000)
    assert 1 < field_.refusals <= 10_000 // field_.loops.settings.tick_ms
    assert world.row(build)["status"] == PENDING
    world.fail_work(busy[0], world.row(busy[0])["claim"])
    field_.consumers.append(Consumer("other", begins=world.at[0] + 1))
    before = field_.refusals
    field_.run(10_000)
    assert field_.granted == "other"
    assert field_.refusals - before < AVOID_HINTS


def test_a_refusal_wakes_the_dispatcher_only_where_another_node_is_free(world: World) -> None:
    build = failed_on_a_node(world)
    woken = Field(world, 0, 1, [])

    def refused() -> tuple[bool, int]:
        woken.loops._wakes["dispatch"].clear()
        request = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=build, node_id="node", nonce="n")
        assert not woken.service.claim_build(NODE, request).granted
        return woken.loops._wakes["dispatch"].is_set(), world.row(build)["offer_from"] - world.at[0]

    for _ in range(AVOID_HINTS - 1):
        assert world.offer(4) == [build]
        assert refused() == (True, 0)
    assert world.offer(4) == [build]
    assert refused() == (False, AVOID_PAUSE_MS)


@pytest.mark.parametrize("refusals", range(AVOID_HINTS))
def test_a_hint_that_is_lost_after_refusals_comes_again_as_soon_as_any(world: World, refusals: int) -> None:
    build = failed_on_a_node(world)
    service = Field(world, 0, 1, []).service
    for _ in range(refusals):
        assert world.offer(4) == [build]
        request = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=build, node_id="node", nonce="n")
        assert not service.claim_build(NODE, request).granted
    assert world.offer(4) == [build]
    for lost_first in (True, False):  # seen in its list meanwhile, it counts as new
        world.at[0] += SETTLE_MS
        assert world.compare(set()) == 1
        assert world.offer(4) == [build]
        world.at[0] += SETTLE_MS
        assert world.compare({build} if lost_first else set()) == 0
    assert world.offer(4) == [], "a taker that is slow makes no flood"
    assert world.row(build)["offers"] // REFUSED == refusals
