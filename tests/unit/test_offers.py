"""The dispatcher's offers against what lies in the queue: what is there stays, what vanished is offered again."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.contract.messages import RUN, run_message
from builder.control.loops import read_queued
from builder.store import offers
from tests.store_contract.world import World, open_world

QUEUE = "compile.go"
KEY = "k" * 32


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path}/builder.db")
    yield made
    made.store.engine.dispose()


def offer(world: World, limit: int = 2) -> list[str]:
    return world.offer(limit)


def test_a_hint_that_lies_in_its_list_is_never_offered_again_and_fills_the_window(world: World) -> None:
    listed = {world.submit(), world.submit()}
    world.submit()
    assert set(offer(world)) == listed
    for _ in range(100):
        world.at[0] += 1_000
        assert world.compare(listed) == 0
        assert offer(world) == []


def test_hints_that_vanished_are_offered_again_at_once_and_in_turn(world: World) -> None:
    mine = [world.submit(), world.submit()]
    assert offer(world) == mine
    world.at[0] += offers.SETTLE_MS - 1
    assert world.compare(set()) == 0  # it may be on its way to the list, or to its claim
    world.at[0] += 1
    assert world.compare({mine[1]}) == 1
    assert offer(world) == [mine[0]]


def test_a_hint_whose_taker_is_slow_makes_no_flood(world: World) -> None:
    build = world.submit()
    assert offer(world) == [build]
    sent = 0
    for _ in range(60):
        world.at[0] += 1_000
        world.compare(set())
        sent += len(offer(world))
    assert sent == 3  # after 1 s, 10 s and 20 s later, and so on every 30 s


def test_a_hint_that_was_seen_again_counts_as_new_when_it_vanishes(world: World) -> None:
    build = world.submit()
    offer(world)
    for listed, vanished in ((set(), 1), ({build}, 0), (set(), 1)):
        world.at[0] += offers.SETTLE_MS
        assert world.compare(listed) == vanished
        if vanished:
            assert offer(world) == [build]


def test_what_was_claimed_is_not_touched(world: World) -> None:
    build = world.submit()
    offer(world)
    world.claim(build)
    before = dict(world.row(build))
    world.at[0] += 60_000
    assert world.compare(set()) == 0
    assert dict(world.row(build)) == before


def envelope(kwargs: object) -> bytes:
    body = base64.b64encode(json.dumps([[], kwargs, {}]).encode()).decode()
    return json.dumps({"body": body, "headers": {"task": RUN}, "properties": {}}).encode()


def test_a_queued_message_is_read_only_if_it_is_ours() -> None:
    build_id = "b" * 20
    message = run_message(build_id, KEY)
    assert read_queued(envelope(message), KEY) == build_id
    strange = (
        envelope(message | {"build_id": "c" * 20}), envelope([]), envelope(None), b"", b"[]", b"\xff", b'{"body": 1}',
        b'{"body": "eA=="}', json.dumps({"body": base64.b64encode(b"[1]").decode()}).encode(),
    )  # fmt: skip
    assert [read_queued(each, KEY) for each in strange] == [None] * len(strange)
