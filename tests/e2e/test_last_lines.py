"""The lines of a claim travel with its plan and its finish, over HTTP: whoever dies around them, each is kept once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.attempt.planned import report_key
from builder.claims.calls import Unanswered
from builder.claims.lease import lease_of
from builder.claims.left import send_left_behind
from builder.claims.outcome import Outcome, Verdict
from builder.claims.requests import Close, append_request, claim_request, finish_request
from builder.claims.spool import Spool, spool_path
from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.local import embedded
from builder.node.calls import ApiCalls
from builder.node.close import close
from builder.node.drive import driving
from builder.plan import Toolchain
from tests.attempt_fixtures import node_at
from tests.serve_fixtures import Serve, serving

pytestmark = pytest.mark.e2e

FAILED = Outcome(failure=BuildError("CompileFailed", "no"))
LINES = ["one", "two", "three"]


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("last")
    with embedded.private_redis(folder / "redis") as (_, url), serving(folder / "serve", url) as running:
        yield running


class Losing(ApiCalls):
    """The answers to its first plan and its first finish are lost, once they are stored."""

    def __init__(self, api: Api) -> None:
        super().__init__(api)
        self.batches, self.plans, self.finished = 0, 0, 0

    def planned(self, request: pb.PlannedRequest) -> pb.PlannedResponse:
        answer = super().planned(request)
        self.plans += 1
        if self.plans == 1:
            raise Unanswered("lost")
        return answer

    def append_log(self, request: pb.AppendLogRequest) -> pb.AppendLogResponse:
        self.batches += 1
        return super().append_log(request)

    def finish(self, request: pb.FinishRequest) -> pb.FinishResponse:
        answer = super().finish(request)
        self.finished += 1
        if self.finished == 1:
            raise Unanswered("lost")
        return answer


def granted(serve: Serve, calls: ApiCalls) -> pb.ClaimBuildResponse:
    """A claim as a node gets it: a small source is in it, and the server takes last lines."""
    build_id = serve.submit("last")
    serve.register()
    grant = calls.claim(claim_request("node-1", build_id, "n"))
    assert grant.granted and grant.takes_last_lines and grant.source.content == b"x = 1\n"
    return grant


def kept(serve: Serve, build_id: str) -> tuple[str, list[str]]:
    """How a build ended, and its lines but those of the control side."""
    text = serve.ask("GET", f"/v1/ignite/builds/{build_id}/logs/stream?fromSequence=1", "both").text
    entries = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")][:-1]
    assert [int(entry["sequence"]) for entry in entries] == list(range(1, len(entries) + 1))
    status = serve.ask("GET", f"/v1/ignite/builds/{build_id}", "both").json()["status"]
    return status, [entry["line"] for entry in entries if entry["stream"] == "LOG_STREAM_STDOUT"]


def test_a_finish_whose_answer_is_lost_keeps_its_lines_once(serve: Serve, tmp_path: Path) -> None:
    with serve.api("worker") as api:
        calls = Losing(api)
        grant = granted(serve, calls)
        with driving(node_at(tmp_path, calls), grant) as attempt:
            for line in LINES:
                attempt.log.emit("STDOUT", line)
            assert close(attempt, FAILED) is Close.FINISH
        assert calls.finished == 2 and not list(tmp_path.glob("*/*"))
    assert kept(serve, grant.build_id) == ("BUILD_STATUS_FAILED", LINES)


def test_a_plan_whose_answer_is_lost_keeps_its_lines_once(serve: Serve, tmp_path: Path) -> None:
    with serve.api("worker") as api:
        calls = Losing(api)
        grant = granted(serve, calls)
        assert grant.takes_planned_lines
        with driving(node_at(tmp_path, calls), grant) as attempt, attempt.phase("PLAN"):
            for line in LINES[:2]:
                attempt.log.emit("STDOUT", line)
            toolchain = Toolchain(runtime="go", version="1.26", target="", name="go-1.26", base="go")
            assert report_key(attempt, "key of lines", "sha256:0", toolchain) is Verdict.GO_ON
            attempt.log.emit("STDOUT", LINES[2])
            assert close(attempt, FAILED) is Close.FINISH
        assert (calls.plans, calls.finished) == (2, 2) and not list(tmp_path.glob("*/*"))
    assert kept(serve, grant.build_id) == ("BUILD_STATUS_FAILED", LINES)


@pytest.mark.parametrize("stored", [False, True], ids=["before its finish", "behind it"])
def test_what_an_owner_leaves_that_dies_is_kept_once(serve: Serve, tmp_path: Path, stored: bool) -> None:
    with serve.api("worker") as api:
        calls = ApiCalls(api)
        grant = granted(serve, calls)
        spool = Spool(spool_path(tmp_path, grant.build_id, grant.claim), 1 << 20)
        for line in LINES:
            spool.add(1, "BUILD", "STDOUT", line)
        calls.append_log(append_request(grant.build_id, grant.claim, spool.batch(1)))
        spool.acknowledge(1)
        count = spool.close()
        if stored:
            lease = lease_of(grant, 10, 0)
            last = spool.batch()
            request = finish_request(lease, FAILED, log_count=count, phase="BUILD", phases=(), last=last)
            assert (request.first_index, len(request.lines)) == (1, 2)
            assert calls.finish(request).status == pb.BUILD_STATUS_FAILED
        assert send_left_behind(calls, tmp_path) == 1 and not list(tmp_path.iterdir())
    if not stored:  # handed back as lost: it is queued
        assert serve.ask("POST", f"/v1/ignite/builds/{grant.build_id}/cancel", "both", json={}).status_code == 200
    assert kept(serve, grant.build_id) == (f"BUILD_STATUS_{'FAILED' if stored else 'CANCELLED'}", LINES)
