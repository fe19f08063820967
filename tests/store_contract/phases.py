"""The phase of a record and of the control side's lines follows the line, whatever heartbeats come and when."""

from __future__ import annotations

from typing import Any

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, logs, record
from builder.store.transitions import WORK_PHASES
from tests.store_contract.world import LEASE, World, line

KEY = ("key", "code", "go")


def beat(world: World, build: str, claim: int, phase: str) -> None:
    assert builds.heartbeat(world.store, build, claim, phase, LEASE)


def system_lines(world: World, build: str) -> list[tuple[str, str]]:
    """(phase, text) of each line of the control side."""
    return [(one["p"], one["l"]) for one in logs.read(world.store, build, 0) if one["o"] == "SYSTEM"]


def finish(world: World, build: str, claim: int, **outcome: Any) -> builds.Row:
    done = builds.finish(world.store, pb.FinishRequest(build_id=build, claim=claim, **outcome), 1000)
    assert done.outcome == "done" and done.row is not None and done.row == world.row(build)
    return done.row


@pytest.mark.parametrize("phase", WORK_PHASES)
def test_the_line_of_a_failure_and_the_record_have_the_phase_that_failed(world: World, phase: str) -> None:
    """No heartbeat has come since the claim."""
    build = world.submit()
    claim = world.claim(build)
    failure = pb.Failure(reason="CompileFailed", message="m", phase=pb.BuildPhase.Value(f"BUILD_PHASE_{phase}"))
    row = finish(world, build, claim, failure=failure)
    assert system_lines(world, build) == [(phase, "FAILED CompileFailed")]
    assert record.build(row).phase == record.build(row).failure.phase == failure.phase


def test_the_line_of_a_retry_has_the_phase_that_failed_and_the_build_is_queued_again(world: World) -> None:
    build = world.submit()
    failure = pb.Failure(reason="RegistryUnavailable", message="m", phase=pb.BUILD_PHASE_PUSH)
    row = finish(world, build, world.claim(build), failure=failure)
    assert [phase for phase, _ in system_lines(world, build)] == ["PUSH"]
    assert (row["status"], row["phase"]) == ("PENDING", "QUEUED")


def test_a_build_from_the_cache_was_in_plan_when_it_was_answered(world: World) -> None:
    first = world.submit()
    claim = world.claim(first)
    assert builds.planned(world.store, first, claim, *KEY).verdict == "GO_ON"
    world.succeed_work(first, claim)
    world.finalize(first)
    again = world.submit()
    assert builds.planned(world.store, again, world.claim(again), *KEY).verdict == "REUSE"
    assert world.row(again)["phase"] == "PLAN"
    assert system_lines(world, again) == [("PLAN", f"same key as {first}; nothing was run or sent")]
    world.finalize(again)
    assert system_lines(world, again)[-1] == ("FINALIZE", "SUCCEEDED")


def test_the_record_follows_planned_and_the_lines_and_never_goes_back(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    assert builds.planned(world.store, build, claim, *KEY).verdict == "GO_ON"
    assert world.row(build)["phase"] == "PLAN"
    logs.append(world.store, build, claim, 0, [line("one")])
    assert world.row(build)["phase"] == "BUILD"
    beat(world, build, claim, "DETECT")  # it was on its way for long
    logs.append(world.store, build, claim, 1, [line("two") | {"p": "PLAN"}, line("three") | {"p": ""}])
    assert world.row(build)["phase"] == "BUILD"
    beat(world, build, claim, "PUSH")
    assert world.row(build)["phase"] == "PUSH"


@pytest.mark.parametrize("phase", ["QUEUED", "ATTEST", "FINALIZE"])
def test_an_owner_reports_no_phase_that_is_not_of_its_work(world: World, phase: str) -> None:
    build = world.submit()
    claim = world.claim(build)
    beat(world, build, claim, phase)
    logs.append(world.store, build, claim, 0, [line("one") | {"p": phase}])
    assert world.row(build)["phase"] == "FETCH_SOURCE"
    failure = pb.Failure(reason="CompileFailed", message="m", phase=pb.BuildPhase.Value(f"BUILD_PHASE_{phase}"))
    assert finish(world, build, claim, failure=failure)["phase"] == "FETCH_SOURCE"


def test_a_build_whose_work_is_done_was_in_its_last_phase(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    worked = (pb.BUILD_PHASE_BUILD, pb.BUILD_PHASE_PACKAGE, pb.BUILD_PHASE_PUSH)
    phases = [pb.PhaseRecord(phase=one, status=pb.PHASE_STATUS_SUCCEEDED) for one in worked]
    built = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r@sha256:" + "a" * 64, size_bytes=1)
    assert finish(world, build, claim, success=built, phases=phases)["phase"] == "PUSH"


@pytest.mark.parametrize("how", ["planned", "finish"])
def test_a_cancelled_build_was_in_the_phase_in_which_its_owner_stopped(world: World, how: str) -> None:
    build = world.submit()
    claim = world.claim(build)
    builds.cancel(world.store, "acme", build)
    if how == "planned":
        assert builds.planned(world.store, build, claim, *KEY).verdict == "STALE"
    else:
        failure = pb.Failure(reason="Cancelled", message="m", phase=pb.BUILD_PHASE_BUILD)
        finish(world, build, claim, failure=failure)
    ended_in = "PLAN" if how == "planned" else "BUILD"
    assert world.row(build)["phase"] == ended_in
    assert system_lines(world, build) == [(ended_in, "CANCELLED Cancelled")]
