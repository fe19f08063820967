"""Real projects, unmodified: pinned, built by the real service, run, called; and built again to the same digest."""

from __future__ import annotations

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local import run
from tests.build_fixtures import CALLER, Server
from tests.corpus.projects import Project, allowed_hashes, build, count_lines, go_sum, integrity, pinned
from tests.image_difference import pushed_difference

pytestmark = pytest.mark.e2e


def test_it_is_the_archive_of_its_row(project: Project, archive: bytes) -> None:
    assert count_lines(project, archive) == project.lines >= 1500


def test_what_the_build_fetches_is_pinned_to_the_same_archive(project: Project, archive: bytes) -> None:
    """The manifest allows this one file of the package and no other."""
    if project.folder is not None:
        return
    if project.runtime == "go":
        sums = [
            line for path, data in project.ours.items() if path.endswith("go.sum") for line in data.decode().split("\n")
        ]
        prefix = f"{project.package} {project.version} h1:"
        assert [line for line in sums if line.startswith(prefix)] == [
            f"{project.package} {project.version} {go_sum(archive)}"
        ]
    elif project.runtime == "python":
        assert allowed_hashes(project) == {project.sha256}
    else:
        assert pinned(project) == (project.sha256 if project.runtime == "rust" else integrity(archive))


def test_it_answers(project: Project, built: pb.Build, server: Server) -> None:
    assert built.runtime == project.runtime
    with run.started(server.embedded.settings, built) as running:
        for call in project.call:
            answer = httpx.request(
                call.method,
                running.url + call.path,
                content=call.send,
                headers=CALLER,
                timeout=120,
                trust_env=False,
            )
            assert (answer.status_code, answer.text) == (call.status, call.answer)


def test_it_builds_again_to_the_same_digest(
    project: Project, built: pb.Build, sent: bytes, server: Server, elsewhere: Server, registry: str
) -> None:
    again = build(server, project.name, sent, no_cache=True)
    other = build(elsewhere, project.name, sent, no_cache=True)
    for later in (again, other):
        assert not later.from_cache_of
        assert pushed_difference(registry, built, later) == ""
    assert built.image_digest == again.image_digest == other.image_digest
