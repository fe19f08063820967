"""The start check and the cache: who requires a start takes no artifact that nobody saw start, and who warns none
without a verdict."""

from __future__ import annotations

import json
from typing import Any

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import builds, record
from tests.store_contract.world import World, attached

REQUIRED = json.dumps({"buildArgs": {"start_check": "require"}})


def checked(world: World, status: pb.StartStatus.ValueType, **more: Any) -> str:
    """A build of the key "key" that succeeded, whose start check found this."""
    build_id = world.submit(**more)
    claim = world.claim(build_id)
    assert builds.planned(world.store, build_id, claim, "key", "code", "go").verdict == "GO_ON"
    check = pb.StartCheck(
        status=status, message="" if status == pb.START_STATUS_LISTENS else "exited 1", cold_start_ms=7
    )
    success = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r", size_bytes=1, start_check=check)
    builds.finish(world.store, pb.FinishRequest(build_id=build_id, claim=claim, success=success), 1000)
    world.finalize(build_id)
    return build_id


def verdict(world: World, setting: str = "off", **more: Any) -> tuple[str, str]:
    """(build, what the store decides about the key "key")."""
    build_id = world.submit(**more)
    found = builds.planned(world.store, build_id, world.claim(build_id), "key", "code", "go", start_check=setting)
    return build_id, found.verdict


def test_a_cached_answer_repeats_what_the_start_check_found(world: World) -> None:
    checked(world, pb.START_STATUS_EXITED)
    again, said = verdict(world)
    assert said == "REUSE"
    world.finalize(again)
    found = record.build(world.row(again)).start_check
    assert (found.status, found.message, found.cold_start_ms) == (pb.START_STATUS_EXITED, "exited 1", 7)


def test_who_requires_a_start_is_not_answered_with_one_that_nobody_saw(world: World) -> None:
    checked(world, pb.START_STATUS_EXITED)
    assert verdict(world, request=REQUIRED)[1] == "GO_ON"
    assert verdict(world, "require")[1] == "GO_ON"
    assert verdict(world, "require", request=json.dumps({"buildArgs": {"start_check": "off"}}))[1] == "REUSE"


def test_a_start_that_was_seen_answers_whoever_requires_one(world: World) -> None:
    first = checked(world, pb.START_STATUS_LISTENS)
    again, said = verdict(world, request=REQUIRED)
    assert said == "REUSE" and world.row(again)["from_cache_of"] == first


def test_a_start_that_is_seen_later_replaces_the_entry(world: World) -> None:
    checked(world, pb.START_STATUS_UNKNOWN)
    required = world.submit(request=REQUIRED)
    claim = world.claim(required)
    assert builds.planned(world.store, required, claim, "key", "code", "go").verdict == "GO_ON"
    success = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r", size_bytes=1)
    success.start_check.status = pb.START_STATUS_LISTENS
    builds.finish(world.store, pb.FinishRequest(build_id=required, claim=claim, success=success), 1000)
    world.finalize(required)
    assert verdict(world, request=REQUIRED)[1] == "REUSE"


def test_who_requires_a_start_neither_waits_for_another_build_nor_is_waited_for(world: World) -> None:
    attached(world)
    assert verdict(world, request=REQUIRED)[1] == "GO_ON"
    first, said = verdict(world, request=REQUIRED, repository="acme/other")
    assert said == "GO_ON"
    assert builds.planned(world.store, first, world.row(first)["claim"], "alone", "code", "go").verdict == "GO_ON"
    other = world.submit(repository="acme/other")
    assert builds.planned(world.store, other, world.claim(other), "alone", "code", "go").verdict == "GO_ON"


OFF = json.dumps({"buildArgs": {"start_check": "off"}})


def finished(world: World, build_id: str, status: pb.StartStatus.ValueType | None) -> None:
    """The end of a build that has a claim, with what its start check found; None: there was none."""
    success = pb.BuiltArtifact(digest="sha256:" + "a" * 64, reference="r", size_bytes=1)
    if status is not None:
        success.start_check.status = status
    claim = world.row(build_id)["claim"]
    builds.finish(world.store, pb.FinishRequest(build_id=build_id, claim=claim, success=success), 1000)
    world.finalize(build_id)


def test_an_entry_without_a_verdict_gets_one_from_the_next_build_that_warns(world: World) -> None:
    first, said = verdict(world, "warn", request=OFF)
    assert said == "GO_ON"
    finished(world, first, None)
    assert verdict(world)[1] == "REUSE"
    second, said = verdict(world, "warn")
    assert said == "GO_ON"
    finished(world, second, pb.START_STATUS_EXITED)
    third, said = verdict(world, "warn")
    assert said == "REUSE" and world.row(third)["from_cache_of"] == second


def test_a_verdict_is_not_replaced_by_one_that_knows_no_more(world: World) -> None:
    first = checked(world, pb.START_STATUS_EXITED)
    other, said = verdict(world, request=REQUIRED)
    assert said == "GO_ON"
    finished(world, other, pb.START_STATUS_UNKNOWN)
    again, said = verdict(world, "warn")
    assert said == "REUSE" and world.row(again)["from_cache_of"] == first


def test_who_warns_waits_for_no_build_without_a_start_check(world: World) -> None:
    assert verdict(world, request=OFF)[1] == "GO_ON"
    assert verdict(world, "warn")[1] == "GO_ON"
    assert verdict(world, "off")[1] == "ATTACHED"
