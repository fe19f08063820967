"""Sources from git over SSH: a real sshd with a host key of its own, a real build, and what ends one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests import git_fixtures as hosts
from tests import ssh_fixtures
from tests.build_fixtures import Server
from tests.e2e.conftest import Start, scripting
from tests.e2e.test_prebuilt import assert_nowhere
from tests.ssh_fixtures import SshHost

pytestmark = pytest.mark.e2e

SCRIPT = """\
import os, pathlib
assert not [name for name in os.environ if "GIT" in name or "SSH" in name]
assert not {"agent", "known_hosts"} & set(os.listdir("/work")) and not os.path.exists("/run/ssh")
print("content", pathlib.Path("data.txt").read_text(), pathlib.Path("lib/lib.txt").exists(), flush=True)
pathlib.Path("/work/out/server.py").write_text("")
"""
MODULE = '[submodule "lib"]\n\tpath = lib\n\turl = ../lib.git\n'


@dataclass(frozen=True)
class World:
    """A server that has the operator's known hosts, an sshd, and the commit of its tag "v1", which no branch is at."""

    server: Server
    host: SshHost
    tagged: str

    def build(
        self, url: str, secret: str, reference: str = "v1", *, submodules: bool = False, history: bool = False
    ) -> pb.Build:
        request = pb.CreateBuildRequest(name="app", no_cache=True)
        request.git_source.url, request.git_source.reference = url, reference
        request.git_source.secret_ref, request.git_source.submodules = secret, submodules
        request.git_source.history = history
        return self.server.wait(self.server.api.call("CreateBuild", request).build)

    def save(self, name: str, key: str, known: str) -> None:
        save = pb.SaveBuildSecretsRequest()
        save.named.add(name=name, git_ssh_key=pb.GitSshKey(private_key=key, known_hosts=known))
        self.server.api.call("SaveBuildSecrets", save)


@pytest.fixture(scope="module")
def world(start: Start, request: pytest.FixtureRequest) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-ssh-", dir="/var/tmp"))
    folder.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    with ssh_fixtures.serving(folder) as host:
        lib = hosts.commit(folder / "lib", {"lib.txt": "x"})
        work = folder / "work"
        hosts.commit(work, {"build.py": SCRIPT, "data.txt": "one", ".gitmodules": MODULE})
        tagged = hosts.link(work, "lib", lib)
        hosts.git(work, "tag", "-a", "v1", "-m", "first")
        hosts.commit(work, {"data.txt": "two"})
        for name in ("lib", "work"):
            hosts.git(folder / name, "clone", "-q", "--bare", "--no-hardlinks", ".", str(host.root / f"{name}.git"))
        known = folder / "known_hosts"
        known.write_text(host.known)
        with scripting(start, git_hosts=(host.address,), git_known_hosts=str(known)) as server:
            yield World(server, host, tagged)


def test_a_tag_is_built_over_ssh_and_no_file_repeats_the_key(world: World) -> None:
    world.save("own", world.host.key, world.host.known)
    world.save("operators", world.host.key, "")
    for secret, submodules in (("own", True), ("operators", False)):
        before = world.host.logins()
        build = world.build(world.host.url("work"), secret, submodules=submodules)
        log = world.server.log(build.build_id).text
        assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, log, world.host.log.read_text())
        assert build.provenance.commit_sha == world.tagged
        assert f"content one {submodules}" in log and world.host.logins() > before
        assert not any(line in log + str(build) for line in world.host.key.splitlines()[1:-1])
    build = world.build(world.host.url("work"), "own", history=True)  # of a tag whose commit has no other name
    log = world.server.log(build.build_id).text
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, log)
    assert ".git has the history of the commit, and 1 tags" in log
    body = world.host.key.splitlines()[1:-1]
    assert_nowhere(Path(world.server.embedded.settings.data_dir), tuple(body))


def test_a_host_or_key_that_is_not_the_right_one_ends_the_build(world: World) -> None:
    host = world.host
    kind, body = host.known.split()[1:]
    other = body[:-8] + ("AAAAAAAA" if body[-8:] != "AAAAAAAA" else "BBBBBBBB")
    world.save("good", host.key, host.known)
    world.save("unknown", host.key, f"other.example {kind} {body}\n")
    world.save("changed", host.key, f"{host.known.split()[0]} {kind} {other}\n")
    world.save("refused", host.other_key, host.known)
    rows = [
        (host.url("work"), "unknown", "GitAuthFailed", "is not among the known hosts"),
        (host.url("work"), "changed", "GitAuthFailed", "has another key"),
        (host.url("work"), "refused", "GitAuthFailed", "refused the secret's key"),
        (host.url("none"), "good", "GitReferenceNotFound", "no repository"),
        (host.url("work").replace("127.0.0.1", "localhost"), "good", "GitUrlRefused", "is not a public host"),
    ]
    for url, secret, reason, words in rows:
        before = host.logins()
        failure = world.build(url, secret).failure
        assert failure.reason == reason and words in failure.message, (failure, host.log.read_text())
        assert failure.next and failure.phase == pb.BUILD_PHASE_FETCH_SOURCE
        assert host.logins() == before or secret == "good"
