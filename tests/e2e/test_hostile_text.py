"""A node whose parser is under attack goes on with the sources of others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import Server, tar_gz_of
from tests.e2e.conftest import Start, scripting

HONEST = "import pathlib\npathlib.Path('/work/out/server.py').write_text('')\n"


@pytest.fixture(scope="module")
def attacked(start: Start) -> Iterator[Server]:
    """A parser may use the processor for a second, and wait for longer than any test does."""
    with scripting(start, "tests.hostile_pipelines", read_cpu_ms=1000, read_ms=3_600_000) as running:
        yield running


def attack(server: Server, name: str, what: str) -> pb.Build:
    return server.submit(name, tar_gz_of({"attack.txt": what}))


def test_every_attack_ends_as_its_sources_fault_and_others_are_built(attacked: Server) -> None:
    attacks = [attack(attacked, f"attack-{what}", what) for what in ("spin", "allocate", "write", "recurse")]
    honest = [attacked.submit(f"honest-{at}", tar_gz_of({"build.py": f"{HONEST}# {at}\n"})) for at in range(2)]
    for build in attacks:
        done = attacked.wait(build)
        assert (done.status, done.failure.reason) == (pb.BUILD_STATUS_FAILED, "ManifestInvalid")
        assert (done.failure.error_class, done.attempt) == ("user_code", 1)
    for build in honest:
        assert attacked.wait(build).status == pb.BUILD_STATUS_SUCCEEDED
    attacked.assert_nothing_left()


def test_a_cancel_frees_the_slots_that_hanging_parsers_hold(attacked: Server) -> None:
    hanging = [attack(attacked, f"hanging-{at}", "sleep") for at in range(attacked.embedded.settings.slots)]
    for build in hanging:
        attacked.wait_running(build, "hostile, because attack.txt")
    honest = attacked.submit("honest", tar_gz_of({"build.py": f"{HONEST}# others\n"}))
    for build in hanging:
        assert attacked.get(build.build_id).status == pb.BUILD_STATUS_RUNNING
        attacked.api.call("CancelBuild", pb.CancelBuildRequest(build_id=build.build_id))
    for build in hanging:
        assert attacked.wait(build).status == pb.BUILD_STATUS_CANCELLED
    assert attacked.wait(honest).status == pb.BUILD_STATUS_SUCCEEDED
    attacked.assert_nothing_left()
