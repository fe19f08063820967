"""Reasons that no fault of a source reaches: what the request may not name, and a wait that was too long."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder.client.api import ApiError
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import PYTHON_HANDLER, Server, tar_of
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e

HANGS = """\
import time
print("running now", flush=True)
time.sleep(600)
"""


def program_of(server: Server, home: Path) -> Program:
    return Program(home, {"server": server.embedded.url, "token": server.embedded.token})


@pytest.mark.parametrize("repository", ["other/app", "localother/app"])
def test_a_repository_of_somebody_else_is_refused(server: Server, tmp_path: Path, repository: str) -> None:
    with pytest.raises(ApiError) as refused:
        server.submit("foreign", PYTHON_HANDLER, "python", repository=repository)
    assert refused.value.code == "PERMISSION_DENIED"
    detail = refused.value.detail
    assert (detail["reason"], detail["errorClass"], detail["where"]) == ("RepositoryForbidden", "client", "repository")
    (tmp_path / "handler.py").write_text(PYTHON_HANDLER)
    argv = ("build", str(tmp_path), "--name", "foreign", "--repository", repository, "--json")
    ran = program_of(server, tmp_path).run(*argv)
    assert ran.code == 4, "the contract's exit code for PERMISSION_DENIED"
    said = json.loads(ran.out)
    assert (said["reason"], said["errorClass"]) == ("RepositoryForbidden", "client")
    assert repository in said["message"] and "local/" in said["message"]
    listed: pb.ListBuildsResponse = server.api.call("ListBuilds", pb.ListBuildsRequest(limit=100))
    assert not [build for build in listed.builds if build.name == "foreign"]


def test_a_build_that_no_slot_takes_in_time_ends_while_the_others_go_on(scripts: Server, tmp_path: Path) -> None:
    slots = scripts.embedded.settings.slots
    busy = [scripts.submit(f"busy{n}", tar_of({"build.py": HANGS + f"# {n}\n"})) for n in range(slots)]
    try:
        for build in busy:
            scripts.wait_running(build, "running now")
        late = scripts.submit("late", tar_of({"build.py": HANGS + "# late\n"}), queue_timeout_secs=1)
        done = scripts.wait(late)
        assert done.status == pb.BUILD_STATUS_FAILED
        failure = done.failure
        ended = (failure.reason, failure.error_class, pb.BuildPhase.Name(failure.phase), failure.exit_code)
        assert ended == ("QueueTimeout", "platform", "BUILD_PHASE_QUEUED", 0), failure
        # A control side that has just started waits a lease before it ends anything, so the wait may be longer.
        waited = done.ended_at_ms - done.created_at_ms
        assert waited >= 1000
        assert failure.message == f"waited {waited // 1000} s for a free slot" and failure.next
        assert (done.attempt, done.retries) == (0, 0)
        assert scripts.log(late.build_id).eof is not None
        assert [scripts.get(build.build_id).status for build in busy] == [pb.BUILD_STATUS_RUNNING] * slots
        ran = program_of(scripts, tmp_path).run("get", late.build_id, "--exit-status")
        assert ran.code == 75, ran.err
        assert "QueueTimeout" in ran.out and ran.out.splitlines()[-1].startswith("next   ")
    finally:
        for build in busy:
            scripts.api.call("CancelBuild", pb.CancelBuildRequest(build_id=build.build_id))
            scripts.wait(build, patience_s=300)
    scripts.assert_nothing_left()
