"""How many statements the store's own writes of a build are: counted on SQLite, so a loaded machine changes nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from bench.results import Row, judged
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, logs
from tests.store_contract.statements import counted, outcome, real
from tests.store_contract.world import LEASE, World, line, open_world

MOST: Mapping[str, int] = {"finish": 6, "finish with the last lines": 6, "succeed": 8, "append": 4}
LINES = 10


def measure() -> tuple[Row, ...]:
    """One row for each write, of a build that succeeds and whose log stays within its limit."""
    with tempfile.TemporaryDirectory() as folder:
        world = open_world(f"sqlite:///{Path(folder) / 'store.db'}")
        try:
            found = count(world)
        finally:
            world.store.engine.dispose()
    return tuple(
        Row(
            what=f"statements of `{name}`",
            target=f"≤ {most}",
            measured=str(found[name]),
            spread="counted",
            pairs=1,
            verdict=judged(found[name], most),
        )
        for name, most in MOST.items()
    )


def count(world: World) -> dict[str, int]:
    """Statements of each write, BEGIN and COMMIT apart."""
    store = real(world)
    finish, last = _finish(world, 0), _finish(world, LINES)
    adopted = builds.adopt_finalize(store, LEASE)  # the older of both
    if adopted is None or not builds.publish(store, adopted["build_id"], adopted["claim"]):
        raise RuntimeError("nothing to finalize")
    with counted(world.store) as succeed:
        builds.succeed(store, adopted["build_id"], adopted["claim"], (("ATTEST", 1, 2), ("FINALIZE", 2, 3)))
    build = world.submit()
    claim = world.claim(build)
    with counted(world.store) as append:
        logs.append(store, build, claim, 0, [line("x" * 90)] * LINES)
    found = {"finish": finish, "finish with the last lines": last, "succeed": len(succeed), "append": len(append)}
    return found


def _finish(world: World, lines: int) -> int:
    """The statements of a finish with so many lines, of a build whose work has succeeded."""
    build = world.submit()
    claim = world.claim(build)
    logs.append(world.store, build, claim, 0, [line("x" * 90)] * LINES)
    builds.planned(world.store, build, claim, f"key-{lines}", "code", "go")
    phase = pb.PhaseRecord(phase=pb.BUILD_PHASE_BUILD, status=pb.PHASE_STATUS_SUCCEEDED, started_at_ms=1, ended_at_ms=2)
    request = pb.FinishRequest(build_id=build, claim=claim, phases=[phase], first_index=LINES, **outcome(""))
    with counted(world.store) as seen:
        done = builds.finish(real(world), request, 1000, lines=[line("x" * 90)] * lines)
    if done.outcome != "done":
        raise RuntimeError(f"finish answered {done.outcome}")
    return len(seen)
