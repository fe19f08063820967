"""What a node or a watcher says of a build is of bounded length, and printable, before the store sees it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Column, String

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError, ErrorClass
from builder.services import checks
from builder.services.auth import Caller
from builder.store import nodes, schema
from tests.unit.test_service import OfClaim, Services, node_of, of_claim, register, services  # noqa: F401

HUGE = "\x1b" * 100_000
WATCHER = Caller(organization="", scopes=frozenset({"watch"}))


def claimed(services: Services) -> OfClaim:  # noqa: F811
    """The fields that every call of the owner of a fresh build has."""
    build = services.submit()
    register(services, "n")
    asked = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x")
    return of_claim(build, services.worker.claim_build(node_of("n"), asked).claim)


def planned(common: OfClaim, field: str, text: str) -> pb.PlannedRequest:
    request = pb.PlannedRequest(**common)
    setattr(request, field, text)
    return request


def most_of(column: Column[Any]) -> int:
    """How many characters a column holds."""
    assert isinstance(column.type, String) and column.type.length is not None
    return column.type.length


@pytest.mark.parametrize(
    ("reason", "said", "found"),
    [
        ("CompileFailed", HUGE, "user_code"),
        ("CompileFailed", "", "user_code"),
        ("InvalidRequest", "user", "client"),
        ("InvalidRequest", "user_code", "user_code"),
    ],
)
def test_a_class_that_is_none_becomes_that_of_the_reason(
    services: Services,  # noqa: F811
    reason: str,
    said: str,
    found: str,
) -> None:
    common = claimed(services)
    failure = pb.Failure(reason=reason, message="m", error_class=said)
    services.worker.finish(node_of("n"), pb.FinishRequest(**common, failure=failure))
    assert services.get(common["build_id"]).failure.error_class == found
    unknown = pb.Failure(reason="NoSuchReason", error_class=HUGE)
    checks.clean(unknown)
    assert unknown.error_class == "platform", "as of Internal, which it becomes"


def test_no_text_of_a_failure_is_longer_than_its_bound(services: Services) -> None:  # noqa: F811
    """Whatever fields the message has: one that is new has a bound, too."""
    words = [field for field in pb.Failure.DESCRIPTOR.fields if field.cpp_type == field.CPPTYPE_STRING]
    failure = pb.Failure()
    for field in words:
        if field.is_repeated:
            getattr(failure, field.name).extend(["x" * 100_000] * 50)
        else:
            setattr(failure, field.name, "x" * 100_000)
    checks.clean(failure)
    bounds = {"reason": checks.NAME_CHARACTERS, "error_class": max(map(len, ErrorClass))}
    for field in words:
        value = getattr(failure, field.name)
        texts = list(value) if field.is_repeated else [value]
        assert len(texts) <= checks.SAID_LINES
        assert max(map(len, texts)) <= bounds.get(field.name, checks.TEXT_CHARACTERS), field.name


@pytest.mark.parametrize(
    ("field", "column"),
    [
        ("key", schema.builds.c.build_key),
        ("code_hash", schema.builds.c.code_hash),
        ("runtime", schema.builds.c.runtime),
        ("runtime_version", schema.builds.c.runtime_version),
        ("target", schema.builds.c.target),
    ],
)
def test_a_plan_that_no_record_can_hold_is_refused(services: Services, field: str, column: Column[Any]) -> None:  # noqa: F811
    """SQLite holds what is longer than its column, PostgreSQL ends the call as a fault of ours."""
    common, most = claimed(services), most_of(column)
    wire = pb.PlannedRequest.DESCRIPTOR.fields_by_name[field].json_name
    for wrong in ("x" * (most + 1), HUGE, "a\x1b[2Jb", "a\nb"):
        with pytest.raises(BuildError, match=f"InvalidRequest: {wire} takes up to {most} printable characters"):
            services.worker.planned(node_of("n"), planned(common, field, wrong))
    answer = services.worker.planned(node_of("n"), planned(common, field, "x" * most))
    assert answer.verdict == pb.PLANNED_GO_ON


def test_a_nonce_that_no_record_can_hold_is_refused(services: Services) -> None:  # noqa: F811
    build, most = services.submit(), most_of(schema.builds.c.nonce)
    register(services, "n")
    for wrong in ("x" * (most + 1), "\x00"):
        with pytest.raises(BuildError, match="InvalidRequest: nonce takes"):
            asked = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce=wrong)
            services.worker.claim_build(node_of("n"), asked)
        with pytest.raises(BuildError, match="InvalidRequest: nonce takes"):
            services.worker.adopt_job(WATCHER, pb.AdoptJobRequest(protocol=1, watcher="w", nonce=wrong))
    asked = pb.ClaimBuildRequest(protocol=1, build_id=build, node_id="n", nonce="x" * most)
    assert services.worker.claim_build(node_of("n"), asked).granted


def test_what_a_node_names_is_printable(services: Services) -> None:  # noqa: F811
    """It is shown by `nodes ls`, on the page of metrics, and in the log of a build that nobody takes."""
    with pytest.raises(BuildError, match="InvalidRequest: queues takes"):
        asked = pb.RegisterNodeRequest(protocol=1, node_id="n", queues=["compile.\x1b[2Jgo"])
        services.worker.register_node(node_of("n"), asked)
    with pytest.raises(BuildError, match="InvalidRequest: toolchains takes"):
        register(services, "n", toolchains={"go\n": "d"})
    register(services, "n", lacks="\u202e" * 1000)
    [node] = nodes.all_nodes(services.store)
    assert node.lacks.isprintable() and len(node.lacks) == most_of(schema.nodes.c.lacks)


def test_a_watcher_names_no_build_that_cannot_be_one(services: Services) -> None:  # noqa: F811
    """Its answer would repeat the name."""
    beats = [pb.JobBeat(build_id=HUGE, claim=1)]
    with pytest.raises(BuildError, match="InvalidRequest: buildId takes"):
        services.worker.beat_jobs(WATCHER, pb.BeatJobsRequest(protocol=1, watcher="w", beats=beats))
    jobs = [pb.JobAttempt(build_id=HUGE, attempt=1)]
    with pytest.raises(BuildError, match="InvalidRequest: buildId takes"):
        services.worker.current_jobs(WATCHER, pb.CurrentJobsRequest(protocol=1, jobs=jobs))
