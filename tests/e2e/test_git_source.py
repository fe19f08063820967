"""Sources from git: a real smart-HTTP host behind TLS, a real build, and what a hostile host or commit cannot do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from builder.attempt.git import fetch_commit
from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import Repository
from builder.git import commands
from builder.git.submodules import Submodule, named_in
from builder.local import embedded
from tests import git_fixtures as hosts
from tests import uids
from tests.attempt_fixtures import attempt_at
from tests.build_fixtures import Server
from tests.e2e.conftest import Start, scripting
from tests.git_fixtures import TOKEN, USERNAME, Host

pytestmark = pytest.mark.e2e

SCRIPT = """\
import os, pathlib
assert not [name for name in os.environ if "GIT" in name]
print("files", sorted(os.listdir(".")), flush=True)
print("content", pathlib.Path("data.txt").read_text(), flush=True)
pathlib.Path("/work/out/server.py").write_text("")
"""
NESTING = """\
import pathlib
for path in ("libs/README", "libs/lib/lib.txt", "libs/lib/in/inner.txt"):
    print("file", path, pathlib.Path(path).exists(), flush=True)
pathlib.Path("/work/out/server.py").write_text("")
"""
MODULE = '[submodule "{name}"]\n\tpath = {name}\n\turl = {url}\n'
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n"


@dataclass(frozen=True)
class World:
    """A server, a git host, and the commits of its repository "app"."""

    server: Server
    host: Host
    first: str
    second: str

    def build(self, url: str, reference: str = "", secret: str = "", folder: str = "", *, submodules: bool = False,
              **more: object) -> pb.Build:  # fmt: skip
        request = pb.CreateBuildRequest(name="app", **more)
        request.git_source.url, request.git_source.reference = url, reference
        request.git_source.secret_ref, request.git_source.context_dir = secret, folder
        request.git_source.submodules = submodules
        return self.server.wait(self.server.api.call("CreateBuild", request).build)

    def log(self, build: pb.Build) -> str:
        return self.server.log(build.build_id).text


def make_submodules(host: Host, folder: Path) -> None:
    """Repositories "nesting" → "private-lib" → "inner", by relative URLs; "leading" names a host that is not listed."""
    inner = hosts.commit(folder / "inner", {"inner.txt": "innermost"})
    lib = hosts.commit(folder / "lib", {"lib.txt": "x", ".gitmodules": MODULE.format(name="in", url="./../inner.git")})
    lib = hosts.link(folder / "lib", "in", inner)
    modules = MODULE.format(name="libs/lib", url="../private-lib.git") + MODULE.format(name="gone", url="../gone.git")
    hosts.commit(folder / "nesting", {"build.py": NESTING, ".gitmodules": modules, "libs/README": "beside it"})
    hosts.link(folder / "nesting", "libs/lib", lib)
    away = f"https://localhost:{host.address.rpartition(':')[2]}/inner.git"
    hosts.commit(folder / "leading", {"build.py": SCRIPT, ".gitmodules": MODULE.format(name="in", url=away)})
    hosts.link(folder / "leading", "in", inner)
    for name, served in (("inner", "inner"), ("lib", "private-lib"), ("nesting", "nesting"), ("leading", "leading")):
        hosts.publish(host, folder / name, served)


@pytest.fixture(scope="module")
def world(start: Start, request: pytest.FixtureRequest) -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="ignite-builder-git-", dir="/var/tmp"))  # build users read the CA bundle
    folder.chmod(0o755)
    request.addfinalizer(lambda: shutil.rmtree(folder, ignore_errors=True))
    with hosts.serving(folder, load({}).settings.ca_bundle) as host:
        work = folder / "work"
        first = hosts.commit(work, {"build.py": SCRIPT, "data.txt": "one", "sub/build.py": SCRIPT, "sub/data.txt": "s"})
        hosts.git(work, "tag", "-a", "v1", "-m", "first")
        second = hosts.commit(
            work, {"data.txt": "two", ".gitattributes": "* export-ignore filter=evil text eol=crlf\n"}
        )
        hosts.git(work, "branch", "feature/x", first)
        hosts.publish(host, work, "app")
        hosts.publish(host, work, "private")
        lfs = folder / "lfs"
        hosts.commit(lfs, {"build.py": SCRIPT, "data.txt": "x", "model.bin": POINTER})
        hosts.publish(host, lfs, "lfs")
        make_submodules(host, folder)
        with scripting(start, git_hosts=(host.address,), ca_bundle=str(host.bundle)) as server:
            yield World(server, host, first, second)


def test_a_branch_a_tag_and_commits_are_built_and_recorded(world: World) -> None:
    rows = {
        "": (world.second, "main", "two"),
        "feature/x": (world.first, "feature/x", "one"),
        "v1": (world.first, "", "one"),
        world.first: (world.first, "", "one"),
        world.second[:9]: (world.second, "", "two"),
    }
    for reference, (sha, branch, content) in rows.items():
        build = world.build(world.host.url("app"), reference, no_cache=True)
        assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, world.log(build))
        found = build.provenance
        assert (found.commit_sha, found.branch, found.author) == (sha, branch, "Ada <ada@example.com>")
        assert found.source_timestamp_ms == 1_767_323_045_000
        assert f"content {content}" in world.log(build)
    build = world.build(world.host.url("app"), "v1", folder="sub")
    assert "content s" in world.log(build), build.failure


def test_attributes_of_a_commit_change_nothing_of_its_files(world: World) -> None:
    build = world.build(world.host.url("app"), no_cache=True)
    assert "files ['.gitattributes', 'build.py', 'data.txt', 'sub']" in world.log(build)


def test_a_private_repository_takes_its_secret(world: World) -> None:
    url = world.host.url("private")
    assert world.build(url).failure.reason == "GitAuthFailed"
    save = pb.SaveBuildSecretsRequest()
    for name, token in (("ci", TOKEN), ("old", "ghp_wrongwrongwrong")):
        save.named.add(name=name, git_token=pb.GitToken(username=USERNAME, token=token))
    save.named.add(name="elsewhere", host="git.example.com", git_token=pb.GitToken(token=TOKEN))
    world.server.api.call("SaveBuildSecrets", save)
    build = world.build(url, secret="ci", no_cache=True)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, world.log(build))
    assert TOKEN not in world.log(build) + str(build)
    assert world.build(url, secret="old").failure.reason == "GitAuthFailed"
    assert world.build(url, secret="elsewhere").failure.reason == "InvalidRequest"


def test_submodules_are_fetched_on_request_and_named_without(world: World) -> None:
    save = pb.SaveBuildSecretsRequest()
    save.named.add(name="sub", git_token=pb.GitToken(username=USERNAME, token=TOKEN))
    world.server.api.call("SaveBuildSecrets", save)
    url, before = world.host.url("nesting"), len(world.host.asked)
    build = world.build(url, no_cache=True)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, world.log(build))
    assert "file libs/lib/lib.txt False" in world.log(build)
    assert [line for line in build.warnings if line.startswith("libs/lib is a submodule")], build.warnings
    assert not [path for path in world.host.asked[before:] if not path.startswith("/nesting.git/")]
    build = world.build(url, secret="sub", submodules=True, no_cache=True)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, world.log(build))
    for path in ("libs/README", "libs/lib/lib.txt", "libs/lib/in/inner.txt"):
        assert f"file {path} True" in world.log(build)
    assert not [line for line in build.warnings if "submodule" in line] and TOKEN not in world.log(build)
    assert world.build(url, submodules=True).failure.reason == "GitAuthFailed"
    refused = world.build(world.host.url("leading"), secret="sub", submodules=True).failure
    assert (refused.reason, refused.where) == ("GitUrlRefused", ".gitmodules: submodule.in.url"), refused


def test_each_trouble_has_its_reason(world: World) -> None:
    closed = f"https://127.0.0.1:{embedded.free_port()}/x.git"
    other = Path(world.host.root / "app.git").parent
    assert other.is_dir()
    rows = [
        (world.host.url("app"), "nowhere", "GitReferenceNotFound"),
        (world.host.url("app"), "0" * 40, "GitReferenceNotFound"),
        (world.host.url("app"), "abcdef1", "GitReferenceNotFound"),
        (world.host.url("none"), "", "GitReferenceNotFound"),
        (world.host.url("lfs"), "", "LfsUnavailable"),
        (closed, "", "GitUrlRefused"),
    ]
    for url, reference, reason in rows:
        build = world.build(url, reference)
        assert (url, reference, build.failure.reason) == (url, reference, reason), (build.failure, world.log(build))
        assert build.failure.next and build.failure.phase == pb.BUILD_PHASE_FETCH_SOURCE


def test_no_private_address_is_connected_to_by_url_or_redirect(world: World) -> None:
    met = [0]
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    listener.accept()[0].close()
                except OSError:
                    return
                met[0] += 1

        threading.Thread(target=accept, daemon=True).start()
        port = listener.getsockname()[1]
        world.host.moved["/moved.git"] = f"https://127.0.0.1:{port}/x.git"
        world.host.moved["/plain.git"] = f"http://127.0.0.1:{port}/x.git"
        world.host.moved["/file.git"] = "file:///etc"
        urls = [world.host.url(name) for name in ("moved", "plain", "file")]
        urls += [f"https://{name}:{port}/x.git" for name in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]")]
        for url in urls:
            failure = world.build(url).failure
            assert failure.reason in ("GitUrlRefused", "GitReferenceNotFound"), (url, failure)
        assert met == [0]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_redirect_on_the_same_host_is_followed(world: World) -> None:
    world.host.moved["/renamed.git"] = f"https://{world.host.address}/app.git"
    assert world.build(world.host.url("renamed"), "v1").provenance.commit_sha == world.first


def test_hooks_and_settings_of_the_host_or_the_machine_run_nothing(world: World, tmp_path: Path) -> None:
    marker = Path("/tmp") / f"ignite-git-{os.getpid()}"
    for name in ("post-checkout", "reference-transaction", "fsmonitor-watchman"):
        hook = world.host.root / "app.git/hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
    assert world.build(world.host.url("app"), "v1", no_cache=True).status == pb.BUILD_STATUS_SUCCEEDED
    assert not marker.exists()


def test_without_a_sandbox_git_runs_as_the_steps_do(world: World) -> None:
    """On the host itself: its files are where the worker has them, and there is no proxy to go through."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-git-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        settings = {"unsandboxed": True, "build_uid": uids.LOCAL, "ca_bundle": str(world.host.bundle)}
        attempt = attempt_at(folder, settings=settings, uid=uids.LOCAL)
        attempt.chown_to_build_user(attempt.work)
        attempt.grant.secrets.update({"git.username": USERNAME, "git.token": TOKEN})
        asked = {"url": world.host.url("private"), "reference": "v1", "folder": "", "secret": "s"}
        named = Repository(**asked, submodules=False, at="gitSource", folder_at="gitSource.contextDir")
        commit = fetch_commit(attempt, named)
        assert (commit.sha, commit.author) == (world.first, "Ada <ada@example.com>")
        with tarfile.open(attempt.blob) as packed:
            assert {"build.py", "data.txt"} <= set(packed.getnames())


def test_a_gitmodules_includes_no_file_of_the_machine(tmp_path: Path) -> None:
    other, text = tmp_path / "other", '[submodule "{0}"]\n\tpath = {0}\n\turl = ../{0}\n'
    other.write_text(text.format("other"))
    for included in (other, "other"):  # git takes the whole path alone, and fails for a part of one
        work = tmp_path / f"work-{len(str(included))}"
        sha = hosts.commit(work, {".gitmodules": f"[include]\n\tpath = {included}\n{text.format('own')}"})
        argv = [str(work / ".git") if word == commands.REPOSITORY else word for word in commands.submodules(sha)]
        ran = subprocess.run(argv, env=commands.ENVIRONMENT, capture_output=True, text=True, check=True)
        assert named_in(ran.stdout.split("\n")) == (Submodule(name="own", path="own", url="../own"),)
