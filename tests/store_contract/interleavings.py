"""Whatever comes in whatever order, what the store promises of every build holds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.store import builds, logs
from builder.store.transitions import BY_NAME, TERMINAL
from tests.store_contract.world import LEASE, World, Worlds

ACTIONS = ("submit", "claim", "plan", "line", "ok", "user", "platform", "back", "lost", "cancel",
           "adopt", "publish", "rebuild", "succeed", "time", "sweep")  # fmt: skip


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 4), st.integers(0, 2)), max_size=60))
def test_whatever_comes_in_whatever_order(worlds: Worlds, steps: list[Any]) -> None:
    world = worlds()
    ids = [world.submit(), world.submit()]
    ended: dict[str, str] = {}
    asked: set[str] = set()
    claims: dict[str, int] = {}
    seen = dict.fromkeys(ids, "PENDING")
    for action, which, age in steps:
        build = ids[which % len(ids)]
        before = world.row(build)
        if action == "cancel" and not before["published"] and before["status"] not in TERMINAL:
            asked.add(build)
        told = len(world.events)
        act(world, action, build, max(0, before["claim"] - age), ids)
        events = [(event.build_id, event.status) for event in world.events[told:]]
        for one in ids:
            row = world.row(one)
            if row["status"] != seen.get(one):
                assert (one, row["status"]) in events, "a transition was not told"
            seen[one] = row["status"]
            assert row["claim"] >= claims.get(one, 0)
            claims[one] = row["claim"]
            assert ended.setdefault(one, row["status"]) == row["status"] if one in ended else True
            if row["status"] in TERMINAL:
                ended[one] = row["status"]
            assert not (one in asked and row["status"] == "SUCCEEDED"), "a cancel was lost"
            if row["attached_to"]:
                assert row["status"] == "PENDING"
                primary = world.row(row["attached_to"])
                assert primary["status"] not in TERMINAL, "an attached build is stuck"
                assert not primary["attached_to"], "a primary is attached"
    for one in ids:
        lines = logs.read(world.store, one, 0, 100_000)
        assert [line["s"] for line in lines] == list(range(1, len(lines) + 1))
        reports = world.reports(one)
        finals = [report for report in reports if f'"{world.row(one)["status"]}"' in report["body"]
                  or "BUILD_STATUS_" + world.row(one)["status"] in report["body"]]  # fmt: skip
        if one in ended:
            assert len(finals) == 1
    for event in world.events:
        assert event.action in BY_NAME and event.status in BY_NAME[event.action].after


def act(world: World, action: str, build: str, claim: int, ids: list[str]) -> None:
    store = world.store
    if action == "submit" and len(ids) < 5:
        ids.append(world.submit())
    elif action == "claim":
        builds.claim(store, build, "node", f"{world.at[0]}", LEASE)
    elif action == "plan":
        builds.planned(store, build, claim, "key", "code", "go")
    elif action == "line":
        kept = world.row(build)["claim_lines"]
        logs.append(store, build, claim, kept, [{"t": 0, "p": "BUILD", "o": "STDOUT", "l": "x"}])
    elif action == "ok":
        world.succeed_work(build, claim)
    elif action in ("user", "platform"):
        world.fail_work(build, claim, "CompileFailed" if action == "user" else "RegistryUnavailable")
    elif action in ("back", "lost"):
        builds.hand_back(store, build, claim, "drain" if action == "back" else "lost")
    elif action == "cancel":
        builds.cancel(store, "acme", build)
    elif action == "adopt":
        builds.adopt_finalize(store, LEASE)
    elif action == "publish":
        builds.publish(store, build, claim)
    elif action == "rebuild":
        builds.rebuild(store, build, claim, "sha256:gone")
    elif action == "succeed":
        builds.succeed(store, build, claim, ())
    elif action == "time":
        world.at[0] += 15_000
    elif action == "sweep":
        world.expire_leases()
        world.queue_timeouts()
        world.build_timeouts()
