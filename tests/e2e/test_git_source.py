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
from typing import Any

import pytest

from builder.attempt.git import fetch_commit, place_history
from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import Repository
from builder.git import commands
from builder.git.submodules import Submodule, named_in
from builder.local.ports import free_port
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
              history: bool = False, **more: Any) -> pb.Build:  # fmt: skip
        request = pb.CreateBuildRequest(name="app", **more)
        request.git_source.url, request.git_source.reference = url, reference
        request.git_source.secret_ref, request.git_source.context_dir = secret, folder
        request.git_source.submodules, request.git_source.history = submodules, history
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
    hosts.commit(
        folder / "with-public", {"build.py": SCRIPT, ".gitmodules": MODULE.format(name="in", url="../inner.git")}
    )
    hosts.link(folder / "with-public", "in", inner)
    hosts.publish(host, folder / "with-public", "with-public")
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
    closed = f"https://127.0.0.1:{free_port()}/x.git"
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
        named = Repository(
            url=world.host.url("private"), reference="v1", folder="", secret="s", submodules=False, at="gitSource",
            folder_at="gitSource.contextDir",
        )  # fmt: skip
        commit = fetch_commit(attempt, named)
        assert (commit.sha, commit.author) == (world.first, "Ada <ada@example.com>")
        with tarfile.open(attempt.blob) as packed:
            assert {"build.py", "data.txt"} <= set(packed.getnames())


# History


def unpacked(world: World, folder: Path, url: str, reference: str = "", *, submodules: bool = False) -> Path:
    """The source of a build with the history of its commit, in the sandbox."""
    settings = {
        "build_uid": uids.LOCAL, "ca_bundle": str(world.host.bundle), "git_hosts": (world.host.address,),
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    attempt = attempt_at(folder, settings=settings, uid=uids.LOCAL)
    attempt.chown_to_build_user(attempt.work)
    named = Repository(
        url=url, reference=reference, folder="", secret="", submodules=submodules, at="gitSource",
        folder_at="gitSource.contextDir", history=True,
    )  # fmt: skip
    commit = fetch_commit(attempt, named)
    attempt.source.mkdir()
    with tarfile.open(attempt.blob) as packed:
        packed.extractall(attempt.source, filter="data")
    assert commit.history is not None
    place_history(attempt, commit.history)
    return attempt.source


@pytest.fixture
def below_var() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ignite-builder-git-", dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def told_by_git(source: Path, *words: str) -> str:
    return hosts.git(source, "-c", "safe.directory=*", *words)


def test_a_build_with_history_has_what_a_clone_of_the_commit_has(world: World, below_var: Path) -> None:
    for number, (reference, described, branch) in enumerate(
        [("", f"v1-1-g{world.second[:7]}", "main"), ("v1", "v1", "HEAD"), (world.second[:9], "v1-1-g", "HEAD")]
    ):
        source = unpacked(world, below_var / str(number), world.host.url("app"), reference)
        assert told_by_git(source, "describe").startswith(described)
        assert told_by_git(source, "rev-parse", "--abbrev-ref", "HEAD") == branch
        assert told_by_git(source, "status", "--porcelain", "--untracked-files=all") == ""
        assert not told_by_git(source, "describe", "--dirty").endswith("-dirty")
        assert told_by_git(source, "fsck", "--full", "--strict") == ""
        commits = [world.second, world.first] if reference != "v1" else [world.first]
        assert told_by_git(source, "rev-list", "HEAD").split() == commits
        assert told_by_git(source, "tag") == "v1" and told_by_git(source, "remote") == ""
        assert "127.0.0.1" not in (source / ".git/config").read_text()


def test_submodules_with_a_history_are_files_that_git_does_not_miss(world: World, below_var: Path) -> None:
    source = unpacked(world, below_var / "w", world.host.url("with-public"), submodules=True)
    assert (source / "in/inner.txt").read_text() == "innermost"
    assert told_by_git(source, "status", "--porcelain") == ""
    assert told_by_git(source, "fsck", "--full", "--strict") == ""


def test_history_is_part_of_the_key_and_the_same_commit_is_answered_from_the_cache(world: World) -> None:
    url = world.host.url("app")
    plain = world.build(url, "v1", no_cache=True)
    first, second = (world.build(url, "v1", history=True) for _ in range(2))
    assert first.status == second.status == pb.BUILD_STATUS_SUCCEEDED, (first.failure, world.log(first))
    assert first.code_hash == second.code_hash != plain.code_hash
    assert second.from_cache_of == first.build_id and not first.from_cache_of
    assert "files ['.git', 'build.py', 'data.txt', 'sub']" in world.log(first)
    assert ".git has the history of the commit, and 1 tags" in world.log(first)


def raw(work: Path, kind: str, data: bytes) -> str:
    """An object that git would not write by itself."""
    argv = ["git", "-C", str(work), "hash-object", "-t", kind, "-w", "--literally", "--stdin"]
    done = subprocess.run(argv, input=data, env=hosts.CLEAN, capture_output=True, check=True)
    return done.stdout.decode().strip()


def commit_on(work: Path, tree: str, message: bytes = b"m") -> None:
    """A commit of a tree on the one before, on main."""
    parent = hosts.git(work, "rev-parse", "HEAD")
    who = b"Ada <a@b> 1767323045 +0000"
    head = f"tree {tree}\nparent {parent}\n".encode()
    text = head + b"author " + who + b"\ncommitter " + who + b"\n\n" + message
    hosts.git(work, "update-ref", "refs/heads/main", raw(work, "commit", text))


def entry(mode: str, name: str, sha: str) -> bytes:
    return f"{mode} {name}\0".encode() + bytes.fromhex(sha)


def test_hostile_objects_anywhere_in_a_history_end_the_build(world: World, below_var: Path) -> None:
    work = below_var / "hostile"
    hosts.commit(work, {"build.py": SCRIPT, "data.txt": "x"})
    good = hosts.git(work, "rev-parse", "HEAD^{tree}")
    blob = hosts.git(work, "hash-object", "-w", "build.py")
    evil = {
        "dotgit": entry("100644", ".git", blob),
        "dotdot": entry("40000", "..", good),
        "path": entry("100644", "a/b", blob),
        "unsorted": entry("100644", "b", blob) + entry("100644", "a", blob),
        "twice": entry("100644", "a", blob) + entry("100644", "a", blob),
    }
    start = hosts.git(work, "rev-parse", "HEAD")
    for name, tree in evil.items():
        hosts.git(work, "update-ref", "refs/heads/main", start)
        commit_on(work, raw(work, "tree", tree))
        commit_on(work, good)  # the commit that is built is good, one before it is not
        hosts.publish(world.host, work, f"evil-{name}")
        assert world.build(world.host.url(f"evil-{name}")).status == pb.BUILD_STATUS_SUCCEEDED
        failure = world.build(world.host.url(f"evil-{name}"), history=True).failure
        assert (name, failure.reason, failure.where) == (name, "ArchiveUnsafe", "gitSource.history"), failure


def test_what_a_host_keeps_beside_objects_reaches_no_build(world: World, below_var: Path) -> None:
    """Hooks, settings, grafts, alternates in a circle, replacements, other refs, names that are no text."""
    work = below_var / "beside"
    hosts.commit(work, {"build.py": SCRIPT, "data.txt": "real"})
    real = hosts.git(work, "rev-parse", "HEAD")
    hosts.git(work, "tag", "v1")
    hosts.commit(work, {"data.txt": "false"})
    false = hosts.git(work, "rev-parse", "HEAD")
    hosts.git(work, "reset", "-q", "--hard", real)
    hosts.git(work, "update-ref", f"refs/replace/{real}", false)
    hosts.git(work, "update-ref", "refs/pull/1/head", false)
    hosts.git(work, "notes", "add", "-m", "note", real)
    hosts.publish(world.host, work, "beside")
    bare = world.host.root / "beside.git"
    hosts.git(bare, "update-ref", f"refs/replace/{real}", real)
    (bare / "info").mkdir(exist_ok=True)
    (bare / "info/grafts").write_text(f"{real} {false}\n")
    (bare / "objects/info").mkdir(exist_ok=True)
    (bare / "objects/info/alternates").write_text(f"{bare}/objects\n../../beside.git/objects\n")
    for _ in range(2):
        with (bare / "packed-refs").open("ab") as refs:
            refs.write(real.encode() + b" refs/tags/not-\xff-text\n")
    source = unpacked(world, below_var / "w", world.host.url("beside"))
    assert (source / "data.txt").read_text() == "real"
    assert told_by_git(source, "for-each-ref", "--format=%(refname)").split() == [
        "refs/heads/main", "refs/ignite/commit", "refs/tags/v1",
    ]  # fmt: skip
    assert told_by_git(source, "rev-list", "--all").split() == [real]
    assert told_by_git(source, "fsck", "--full", "--strict") == ""
    kept = {str(one.relative_to(source / ".git")) for one in (source / ".git").rglob("*") if one.is_file()}
    assert {name for name in kept if not name.startswith("objects/pack/pack-")} == {
        "HEAD", "config", "index", "packed-refs", "refs/ignite/commit",
    }  # fmt: skip


def test_a_message_of_many_bytes_and_many_tags_cost_no_more_than_they_are(world: World, below_var: Path) -> None:
    work = below_var / "large"
    sha = hosts.commit(work, {"build.py": SCRIPT, "data.txt": "x"})
    commit_on(work, hosts.git(work, "rev-parse", "HEAD^{tree}"), b"\x1b[2J" + b"x" * 40_000_000)
    hosts.publish(world.host, work, "large")
    with (world.host.root / "large.git/packed-refs").open("a") as refs:
        refs.write("".join(f"{sha} refs/tags/t{number:05}\n" for number in range(2_000)))
    build = world.build(world.host.url("large"), history=True)
    assert build.status == pb.BUILD_STATUS_SUCCEEDED, (build.failure, world.log(build))
    assert "2000 tags" in world.log(build)


def test_a_host_that_is_shallow_has_no_history(world: World, below_var: Path) -> None:
    work = below_var / "deep"
    hosts.commit(work, {"build.py": SCRIPT, "data.txt": "1"})
    hosts.commit(work, {"data.txt": "2"})
    bare = world.host.root / "shallow.git"
    hosts.git(below_var, "clone", "-q", "--bare", "--depth=1", f"file://{work}", str(bare))
    hosts.git(bare, "config", "http.uploadpack", "true")
    assert world.build(world.host.url("shallow")).status == pb.BUILD_STATUS_SUCCEEDED
    failure = world.build(world.host.url("shallow"), history=True).failure
    assert (failure.reason, failure.where) == ("GitReferenceNotFound", "gitSource.history"), failure


def test_a_gitmodules_includes_no_file_of_the_machine(tmp_path: Path) -> None:
    other, text = tmp_path / "other", '[submodule "{0}"]\n\tpath = {0}\n\turl = ../{0}\n'
    other.write_text(text.format("other"))
    for included in (other, "other"):  # git takes the whole path alone, and fails for a part of one
        work = tmp_path / f"work-{len(str(included))}"
        sha = hosts.commit(work, {".gitmodules": f"[include]\n\tpath = {included}\n{text.format('own')}"})
        argv = [str(work / ".git") if word == commands.REPOSITORY else word for word in commands.submodules(sha)]
        ran = subprocess.run(argv, env=commands.ENVIRONMENT, capture_output=True, text=True, check=True)
        assert named_in(ran.stdout.split("\n")) == (Submodule(name="own", path="own", url="../own"),)
