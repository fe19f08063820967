"""The history that a build may get: its refs, its files, its bounds, and what a request may say of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from builder import sandbox
from builder.attempt import git
from builder.attempt.attempt import Attempt
from builder.cli.requests import BuildOptions, check_sources, git_request
from builder.cli.stop import Stop
from builder.contract.codec import dump, parse
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import repository_of
from builder.errors import BuildError
from builder.git import commands
from builder.git.history import HEAD, MOST_OBJECTS, MOST_TAGS, History, check_objects, history_of
from builder.git.source import parse_url
from builder.services import intake
from builder.settings import Settings
from tests.attempt_fixtures import attempt_at

A, B = "a" * 40, "b" * 40
URL = "https://git.example/acme/app.git"


def test_files_of_a_branch_and_of_a_tag() -> None:
    lines = [f"{B} refs/tags/v1", f"{A} refs/tags/a/b"]
    files = history_of(lines, A, "main", "gitSource").files
    assert files["HEAD"] == "ref: refs/heads/main\n" and files["refs/ignite/commit"] == f"{A}\n"
    rows = f"{A} refs/heads/main\n{A} refs/tags/a/b\n{B} refs/tags/v1\n"
    assert files["packed-refs"] == f"# pack-refs with: sorted \n{rows}"
    assert history_of(lines, A, "", "gitSource").files["HEAD"] == f"{A}\n"
    assert "hook" not in files["config"] and "remote" not in files["config"]
    assert sorted(files) == ["HEAD", "config", "packed-refs", "refs/ignite/commit"]


@pytest.mark.parametrize(
    "name",
    ["a\ufffd", "a b", "a..b", "-a", "a.lock", ".a", "a/../b", "a" * 256, "a@{1}", "a\\b", "a***b", "a\x1bb", "x/"],
)
def test_a_name_that_no_file_should_have_is_left_out_and_told(name: str) -> None:
    found = history_of([f"{A} refs/tags/{name}", f"{A} refs/tags/v1"], A, "main", "gitSource")
    assert found.tags == (("v1", A),) and found.left_out == 1
    assert "1 of the repository's tags" in found.warnings[0]


def test_its_digest_is_what_a_program_can_read_of_it() -> None:
    one = History(sha=A, branch="main", tags=(("v1", A),))
    others = [
        History(sha=B, branch="main", tags=(("v1", A),)),
        History(sha=A, branch="", tags=(("v1", A),)),
        History(sha=A, branch="main", tags=()),
        History(sha=A, branch="main", tags=(("v1", B),)),
    ]
    assert len({each.digest for each in (one, *others)}) == 5
    assert one.digest == History(sha=A, branch="main", tags=(("v1", A),), left_out=3).digest


def test_it_is_bounded() -> None:
    check_objects([f"in-pack: {MOST_OBJECTS}", "count: 0", "garbage: 9", "in-pack: x"], "gitSource")
    for lines in ([f"in-pack: {MOST_OBJECTS}", "count: 1"], [f"in-pack: {MOST_OBJECTS + 1}"]):
        with pytest.raises(BuildError) as refused:
            check_objects(lines, "gitSource")
        assert (refused.value.reason, refused.value.where) == ("ArchiveTooLarge", "gitSource.history")
    with pytest.raises(BuildError, match="more than 20000 tags"):
        history_of([f"{A} refs/tags/v"] * (MOST_TAGS + 1), A, "main", "gitSource")


def test_an_object_that_git_refuses_is_the_repositorys_fault() -> None:
    lines = [f"error: object {A}: hasDotgit: contains '.git'", "fatal: fsck error in packed object"]
    error = commands.failed(parse_url(URL), lines, refused=False, unreachable=False, login=False)
    assert (error.reason, error.where) == ("ArchiveUnsafe", "gitSource.history")
    assert f"object {A}: hasDotgit" in error.message and "without its history" in error.next


def test_a_history_is_fetched_whole_and_checked_with_no_more_protocols_than_a_commit() -> None:
    words = commands.fetch_history(parse_url(URL), A, "/ca.pem")
    assert "fetch.fsckObjects=true" in words and "protocol.allow=never" in words and "core.hooksPath=/dev/null" in words
    assert words[-3:] == ("--", URL, f"+{A}:refs/ignite/head")
    assert not [word for word in words if "depth" in word or "no-tags" in word]
    assert [word for word in words if "allow=always" in word] == ["protocol.https.allow=always"]
    for dangerous in ("hasDotgit", "hasDotdot", "fullPathname", "gitmodulesUrl", "treeNotSorted", "badTree"):
        assert not [word for word in words if f"{dangerous}=" in word]


class Host:
    """`sandbox.run` in memory: a repository with one pack."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.shallow, self.link = False, False

    def run(self, command: sandbox.Command, *_: object, on_line: sandbox.OnLine, **more: object) -> sandbox.Result:
        words, folder, out = command.argv, command.work / "git", list[str]()
        self.commands.append(words)
        packs = folder / "repository/objects/pack"
        if "ls-remote" in words:
            out = [f"{A}\trefs/heads/main"]
        elif "init" in words:
            packs.mkdir(parents=True)
            (folder / "repository/hooks").mkdir()
            (folder / "repository/hooks/post-checkout").write_text("#!/bin/sh\n")
            (folder / "repository/config").write_text("[core]\n\tfsmonitor = evil\n")
            (folder / "repository/objects/info").mkdir()
            (folder / "repository/objects/info/alternates").write_text("/etc\n")
        elif "count-objects" in words:
            out = ["in-pack: 3"]
        elif "for-each-ref" in words:
            out = [f"{B} refs/tags/v1"]
        elif "rev-parse" in words:
            assert words[-1] == f"{HEAD}^{{commit}}"
            out = [] if self.shallow else [A]
        elif "repack" in words:
            name = f"pack-{A}"
            (packs / f"{name}.pack").write_bytes(b"PACK")
            if self.link:
                os.symlink("/etc/passwd", packs / f"{name}.idx")
            else:
                (packs / f"{name}.idx").write_bytes(b"IDX")
            (packs / "evil.keep").write_bytes(b"x")
        elif "read-tree" in words:
            assert command.env["GIT_INDEX_FILE"] == commands.OWN_INDEX
            (folder / "index-of-commit").write_bytes(b"DIRC")
        elif "--get-regexp" in words:
            return self._end(1)
        elif "log" in words:
            out = [A, "1767323045", "Ada <a@b>"]
        elif "archive" in words:
            (folder / "source.tar").write_bytes(b"tar")
        for line in out:
            on_line(sandbox.Stream.STDOUT, line.encode())
        return self._end(0)

    def _end(self, code: int) -> sandbox.Result:
        return sandbox.Result(exit_code=code, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0,
                              duration_ms=0)  # fmt: skip


def fetched(folder: Path, monkeypatch: pytest.MonkeyPatch, host: Host) -> tuple[Attempt, History]:
    monkeypatch.setattr(sandbox, "run", host.run)
    attempt = attempt_at(folder)
    attempt.source.mkdir(exist_ok=True)
    source = pb.GitSource(url=URL, history=True)
    asked = repository_of(pb.CreateBuildRequest(git_source=source))
    assert asked is not None and asked.history
    commit = git.fetch_commit(attempt, asked)
    assert commit.history is not None
    return attempt, commit.history


def test_packs_and_files_of_ours_are_all_that_a_build_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, history = fetched(tmp_path, monkeypatch, Host())
    git.place_history(attempt, history)
    top = attempt.source / ".git"
    pack = f"objects/pack/pack-{A}"
    assert sorted(str(one.relative_to(top)) for one in top.rglob("*") if one.is_file()) == [
        "HEAD", "config", "index", f"{pack}.idx", f"{pack}.pack", "packed-refs", "refs/ignite/commit",
    ]  # fmt: skip
    assert "evil" not in (top / "config").read_text()
    assert (top / f"{pack}.pack").read_bytes() == b"PACK" and not (attempt.private / "history").exists()


def test_a_link_among_the_packs_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    host.link = True
    with pytest.raises(BuildError) as refused:
        fetched(tmp_path, monkeypatch, host)
    assert refused.value.reason == "GitUnavailable"


def test_a_shallow_host_has_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    host.shallow = True
    with pytest.raises(BuildError, match="may be shallow") as refused:
        fetched(tmp_path, monkeypatch, host)
    assert refused.value.where == "gitSource.history"


@pytest.mark.parametrize("name", [".git", ".GIT"])
def test_a_commit_with_a_git_folder_of_its_own_gets_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    attempt, history = fetched(tmp_path, monkeypatch, Host())
    os.symlink("/etc", attempt.source / name)
    with pytest.raises(BuildError) as refused:
        git.place_history(attempt, history)
    assert refused.value.reason == "ArchiveUnsafe"


def test_a_history_that_is_too_large_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "MOST_BYTES", 6)
    with pytest.raises(BuildError) as refused:
        fetched(tmp_path, monkeypatch, Host())
    assert (refused.value.reason, refused.value.where) == ("ArchiveTooLarge", "gitSource.history")


def test_without_a_request_a_commit_comes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    monkeypatch.setattr(sandbox, "run", host.run)
    asked = repository_of(pb.CreateBuildRequest(git_source=pb.GitSource(url=URL)))
    assert asked is not None and git.fetch_commit(attempt_at(tmp_path), asked).history is None
    (fetching,) = [words for words in host.commands if "fetch" in words]
    assert "--depth=1" in fetching and not [words for words in host.commands if "repack" in words]


# Requests


@pytest.mark.parametrize("folder", ["", "svc"])
def test_an_image_of_a_folder_has_no_history(folder: str) -> None:
    request = pb.CreateBuildRequest()
    request.code.image.from_git.url, request.code.image.from_git.history = URL, True
    request.code.image.from_git.sub_path = folder
    asked = repository_of(request)
    assert asked is not None
    if not folder:
        intake._git(request, asked, "acme", None)  # type: ignore[arg-type]
        return
    with pytest.raises(BuildError) as refused:
        intake._git(request, asked, "acme", None)  # type: ignore[arg-type]
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "code.image.fromGit.history")
    assert "dockerfilePath" in refused.value.next


def test_the_command_line_asks_for_it_of_a_repository_alone() -> None:
    with pytest.raises(Stop, match="--history is for a repository"):
        check_sources(BuildOptions(path="x", history=True))
    compiled = git_request(BuildOptions(path="", git=URL, history=True), (), Settings())
    assert compiled.git_source.history
    made = git_request(BuildOptions(path="", git=URL, history=True, buildpacks=True), (), Settings(server="https://s"))
    assert made.code.image.from_git.history


def test_its_name_on_the_wire() -> None:
    made = parse(pb.CreateBuildRequest, b'{"gitSource": {"url": "u", "history": true}}')
    assert made.git_source.history and b'"history":true' in dump(made).replace(b" ", b"")
