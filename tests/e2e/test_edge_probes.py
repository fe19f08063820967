"""Attacks of our own on API, worker's protocol, Redis, egress proxy and node, against one running service.

Each probe is a function of tests/edges/ with its verdict. docs/security.md names the borders that they hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edges import PROBES, Probe, api, egress, protocol, redis_queue, steps
from tests.edges.world import HONEST, World, of_record, running

pytestmark = pytest.mark.e2e

AREAS = {module.__name__.rpartition(".")[2] for module in (api, protocol, redis_queue, egress, steps)}


@pytest.fixture(scope="module")
def world(kept: Path, registry: str) -> Iterator[World]:
    with running(kept, registry) as made:
        yield made


def test_there_are_enough_in_each_area_and_each_has_a_name_of_its_own() -> None:
    assert {one.area for one in PROBES} == AREAS
    assert len({str(one) for one in PROBES}) == len(PROBES) >= 60


@pytest.mark.parametrize("probe", PROBES, ids=str)
def test_probe_ends_with_its_verdict(probe: Probe, world: World) -> None:
    assert probe.attack(world) == probe.verdict


def test_the_service_is_as_it_was(world: World) -> None:
    """After all probes: an honest build, the same processes, no error of ours that nobody foresaw."""
    found = world.ended(world.script("honest-again", HONEST + "# again\n"))
    assert of_record(found) == "SUCCEEDED", found
    assert world.node.process.poll() is None and world.node.children() == world.children
    assert world.ask("GET", "/readyz").status_code == 200
    said = world.serve.err.read_text(errors="replace") + world.serve.out.read_text(errors="replace")
    assert '"unforeseen' not in said and "Traceback" not in said + world.node.said()
