"""Git sources before anything is asked: hostile URLs and references, the command lines, what git's words mean."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builder import sandbox
from builder.attempt import git
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import repository_of
from builder.errors import BuildError
from builder.git import commands
from builder.git.source import check_reference, is_commit, parse_url
from builder.git.submodules import MOST_LISTED, Submodule, left_out, links_in, named_in, url_of
from builder.services import intake
from tests.attempt_fixtures import attempt_at

URLS = [
    "https://example.com/a.git", "https://example.com:8443/group/sub/a.git", "https://EXAMPLE.com/a",
    "https://192.0.2.1/a.git", "https://[2001:db8::1]:443/a.git", "https://example.com/~user/a%20b.git",
    "https://example.com/a/_git/b", "https://example.com/a/b/",
]  # fmt: skip
HOSTILE_URLS = [
    "", " ", "-", "--upload-pack=touch /tmp/x", "-oProxyCommand=id", "ext::sh -c id% >&2", "ext::sh -c touch% /tmp/x",
    "fd::17/foo", "file:///etc/passwd", "file://localhost/etc", "/etc", "./a", "../a", "http://example.com/a.git",
    "git://example.com/a.git", "ssh://-oProxyCommand=id/a",
    "ftp://example.com/a.git", "ftps://example.com/a", "rsync://example.com/a", "javascript:alert(1)",
    "data:text/plain,x",
    "https::https://example.com/a", "transport::address", "https:/example.com/a", "https:example.com/a", "https://",
    "https:///a.git", "https://example.com", "https://example.com/", "https://user@example.com/a.git",
    "https://user:token@example.com/a.git", "https://:x@example.com/a", "https://example.com@evil.example/a.git",
    "https://example.com:0/a", "https://example.com:65536/a", "https://example.com:x/a", "https://example.com:/a",
    "https://example.com/a?x=1", "https://example.com/a#b", "https://example.com/a b", "https://example.com/a\n",
    "https://example.com/a\r\nHost: evil", "https://example.com/a\0b", "https://example.com/\x1b[2J",
    "https://example.com/../a", "https://example.com/a/../../b", "https://example.com/./a", "https://example.com//a",
    "https://example.com/%2e%2e/a", "https://example.com/a%2fb", "https://example.com/a%00b", "https://example.com/a%zz",
    "https://example.com/a%0d%0aHost:%20evil", "https://example.com\\@evil.example/a", "https://exa mple.com/a",
    "https://-example.com/a", "https://example-.com/a", "https://.example.com/a", "https://example..com/a",
    "https://ex\u0430mple.com/a", "https://example.com\u3002evil/a", "https://2130706433/a", "https://127.1/a",
    "https://0x7f.0.0.1/a", "https://0177.0.0.01/a", "https://[::1/a", "https://[fe80::1%25eth0]/a", "https://[x]/a",
    "https://" + "a" * 64 + ".com/x", "https://example.com/" + "a" * 3000, "HTTPS\x00://example.com/a",
    "https://example.com/$(id)", "https://example.com/`id`", "https://example.com/a;id", "https://example.com/a|id",
    "https://example.com/'", 'https://example.com/"', "https://example.com/a&b", "https://example.com/<x>",
]  # fmt: skip
HOSTILE_REFERENCES = [
    "-", "--upload-pack=id", "-q", " ", "a b", "a\nb", "a\0", "a\tb", "a..b", "../main", "a/../b", "/main", "main/",
    "a//b", ".a", "a/.b", "a.lock", "a/b.lock/c", "a~1", "a^", "a^{}", "a:b", "+a:b", "a?", "a*", "refs/*", "a[b",
    "a\\b",    "@", "a@{0}", "@{u}", "a.", "\x7f", "\x1b[2J", "a\u202eb", "a\u2028b", "a" * 256,
    "HEAD:.git",    ":/fix", "main@{yesterday}",
]  # fmt: skip


@pytest.mark.parametrize("text", URLS)
def test_a_url_of_a_host_is_taken(text: str) -> None:
    found = parse_url(text)
    assert found.text.startswith("https://") and found.host == found.host.lower() and 0 < found.port < 65536


@pytest.mark.parametrize("text", HOSTILE_URLS, ids=range(len(HOSTILE_URLS)))
def test_a_hostile_url_is_refused_before_git_sees_it(text: str) -> None:
    with pytest.raises(BuildError) as refused:
        parse_url(text)
    error = refused.value
    assert (error.reason, str(error.error_class)) == ("GitUrlRefused", "client")
    assert error.next and error.message.isprintable() and len(error.message) < 300
    assert "token@" not in error.message and "user:token" not in error.message


@pytest.mark.parametrize("text", HOSTILE_REFERENCES, ids=range(len(HOSTILE_REFERENCES)))
def test_a_hostile_reference_is_refused_before_git_sees_it(text: str) -> None:
    with pytest.raises(BuildError) as refused:
        check_reference(text)
    assert refused.value.reason == "InvalidRequest" and refused.value.message.isprintable()


@pytest.mark.parametrize("text", ["", "main", "v1.2.3", "feature/x-1", "a_b", "é", "0" * 40, "abc1234", "a@b", "$(id)"])
def test_a_reference_as_git_has_it_is_taken(text: str) -> None:
    assert check_reference(text) == (text or "main")


def test_there_are_more_than_sixty_hostile_rows() -> None:
    assert len(HOSTILE_URLS) + len(HOSTILE_REFERENCES) > 100


URL = parse_url("https://example.com/a.git")


@pytest.mark.parametrize("reference", ["trunk", "$(id)", "a;b", "é", "abc1234"])
def test_what_a_stranger_names_stands_behind_a_double_dash(reference: str) -> None:
    for argv in (commands.list_remote(URL, reference, "/ca"), commands.fetch(URL, "0" * 40, "/ca")):
        assert argv.index("--") < argv.index(URL.text)
        assert argv[argv.index("--") + 1] == URL.text
        assert all(reference not in word for word in argv[: argv.index("--")])
        assert "protocol.allow=never" in argv and "core.hooksPath=/dev/null" in argv
        assert [word for word in argv if word.endswith(".allow=always")] == ["protocol.https.allow=always"]
    assert commands.ENVIRONMENT["GIT_ALLOW_PROTOCOL"] == "https"
    assert commands.ENVIRONMENT["GIT_CONFIG_NOSYSTEM"] == "1"


A, B, C = ("a" * 40, "b" * 40, "c" * 40)
LISTED = [
    f"{A}\trefs/heads/main", f"{B}\trefs/tags/v1", f"{C}\trefs/tags/v1^{{}}", f"{B}\trefs/heads/v1",
    f"{B}\trefs/heads/x/refs/heads/only", "warning: redirecting", f"{A[:39]}\trefs/heads/short",
]  # fmt: skip


@pytest.mark.parametrize(
    ("reference", "sha", "branch"),
    [
        ("main", A, "main"),
        ("v1", C, ""),  # a tag goes before a branch, and what it is of before itself
        ("only", "", ""),
        ("short", "", ""),
        (A, A, ""),
        ("0" * 40, "0" * 40, ""),
        ("aaaaaaa", A, ""),
        ("0000000", "", ""),
    ],
)
def test_the_commit_of_a_reference(reference: str, sha: str, branch: str) -> None:
    assert commands.found_in(LISTED, reference) == (sha, branch)


def test_a_short_commit_that_is_two_is_refused() -> None:
    with pytest.raises(BuildError, match="start of several"):
        commands.found_in([f"{'a' * 39}b\trefs/heads/x", f"{A}\trefs/heads/y"], "a" * 8)
    assert is_commit("a" * 7) and not is_commit("a" * 6) and not is_commit("A" * 40)


@pytest.mark.parametrize(
    ("lines", "facts", "reason"),
    [
        (["fatal: could not read Username for 'https://x': terminal prompts disabled"], {}, "GitAuthFailed"),
        (["fatal: Authentication failed for 'https://x/'"], {"login": True}, "GitAuthFailed"),
        (["fatal: unable to access 'x': The requested URL returned error: 403"], {}, "GitAuthFailed"),
        (["fatal: repository 'https://x/' not found"], {}, "GitReferenceNotFound"),
        (["error: Server does not allow request for unadvertised object 00"], {}, "GitReferenceNotFound"),
        (["fatal: remote error: upload-pack: not our ref 00"], {}, "GitReferenceNotFound"),
        (["fatal: unable to access 'x': SSL certificate problem: self signed"], {}, "GitUrlRefused"),
        (["fatal: unable to access 'x': CONNECT tunnel failed, response 403"], {"refused": True}, "GitUrlRefused"),
        (["fatal: unable to access 'x': CONNECT tunnel failed"], {"unreachable": True}, "GitUnavailable"),
        (['fatal: unable to access: Protocol "http" not supported or disabled in libcurl'], {}, "GitUrlRefused"),
        (["fatal: early EOF"], {}, "GitUnavailable"),
        (["\x1b[2Jfatal: \u202e"], {}, "GitUnavailable"),
    ],
)
def test_what_gits_words_mean(lines: list[str], facts: dict[str, bool], reason: str) -> None:
    refused, unreachable, login = (facts.get(name, False) for name in ("refused", "unreachable", "login"))
    error = commands.failed(URL, lines, refused=refused, unreachable=unreachable, login=login)
    assert error.reason == reason and all(line.isprintable() for line in error.said)


def test_a_commit_is_described_by_its_own_sha() -> None:
    found = commands.commit_of([A, "1767323045", "Ada \x1b <a@b>"], A, "main")
    assert (found.time_ms, found.author) == (1_767_323_045_000, "Ada \\x1b <a@b>")
    for lines in ([], [B, "1", "x"], [A, "x", "y"]):
        with pytest.raises(BuildError):
            commands.commit_of(lines, A, "")


@pytest.mark.parametrize(
    ("fields", "reason", "where"),
    [
        ({"url": "ext::sh -c id"}, "GitUrlRefused", "gitSource.url"),
        ({"url": URL.text, "reference": "-x"}, "InvalidRequest", "gitSource.reference"),
        ({"url": URL.text, "context_dir": "../x"}, "InvalidRequest", "gitSource.contextDir"),
    ],
)
def test_intake_judges_a_repository_by_its_name_alone(fields: dict[str, Any], reason: str, where: str) -> None:
    request = pb.CreateBuildRequest(name="app", git_source=pb.GitSource(**fields))
    asked = repository_of(request)
    assert asked is not None
    with pytest.raises(BuildError) as refused:
        intake._git(request, asked, "acme", SimpleNamespace())  # type: ignore[arg-type] # the server is not looked at
    assert (refused.value.reason, refused.value.where) == (reason, where)


def test_no_module_but_the_fetch_names_the_secret_in_an_environment() -> None:
    root = Path(commands.__file__).parents[1]

    def having(text: str) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*.py") if text in path.read_text()}

    assert having("IGNITE_GIT_TOKEN") == {"git/commands.py"}
    assert having("login_of(") == {"git/commands.py", "attempt/gitrun.py", "attempt/hosts.py"}
    assert having("private_environment(") == {"attempt/hosts.py", "attempt/steps.py"}


MODULES = [
    "submodule.libs/a.path", "libs/a\0submodule.libs/a.url", "../a.git\0submodule.x y.z.url",
    "https://other.example/b.git\0submodule.x y.z.path", "b\0submodule.path.path", "deep/c\0submodule.none.path\0",
]  # fmt: skip


def test_the_submodules_of_a_commit() -> None:
    assert named_in(MODULES) == (
        Submodule(name="libs/a", path="libs/a", url="../a.git"),
        Submodule(name="x y.z", path="b", url="https://other.example/b.git"),
        Submodule(name="path", path="deep/c", url=""),
    )
    assert named_in([]) == named_in([""]) == named_in(["\0\0", "submodule"]) == ()
    twice = ["submodule.a.path", "x\0submodule.a.url", "../a\0submodule.b.path", "x\0submodule.b.url", "../b\0"]
    assert named_in(twice) == (Submodule(name="b", path="x", url="../b"),)  # as git does
    lines = [f"160000 commit {A}\tlibs/a", f"100644 blob {B}\tb", f'160000 commit {C}\t"\\303"', "160000 commit x\ty"]
    assert links_in(lines) == {"libs/a": A, '"\\303"': C}


@pytest.mark.parametrize(
    "path",
    ["", "/etc", "../x", "a/../b", "a//b", "a/", "./a", ".git", "a/.GIT/hooks", "a\x1b[2J", "a\u202eb", 'a"b', "a\\b",
     "a" * 2000],
)  # fmt: skip
def test_a_folder_that_no_submodule_can_have_is_none(path: str) -> None:
    assert named_in([f"submodule.a.path\n{path}\0submodule.a.url\nhttps://example.com/a.git\0"]) == ()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("../lib.git", "https://example.com:8443/group/lib.git"),
        ("../../other/lib", "https://example.com:8443/other/lib"),
        ("./lib.git", "https://example.com:8443/group/app.git/lib.git"),
        (".././../lib.git", "https://example.com:8443/lib.git"),
        ("https://other.example/a.git", "https://other.example/a.git"),
    ],
)
def test_where_a_submodule_is(url: str, found: str) -> None:
    for text in ("https://example.com:8443/group/app.git", "https://example.com:8443/group/app.git/"):
        assert url_of(parse_url(text), Submodule(name="a", path="a", url=url)).text == found


@pytest.mark.parametrize(
    "url",
    [*HOSTILE_URLS, "../../../../x", "../..", "..", ".", "../", "../a/../../../b", "lib.git", "../x?y", "../x y",
     "../-x;id", "../../evil.example:1/@x", "../../@evil.example/x", "../$(id)"],
)  # fmt: skip
def test_a_hostile_url_of_a_submodule_reaches_no_other_host(url: str) -> None:
    one = Submodule(name="\x1b[2J", path="a", url=url)
    try:
        found = url_of(parse_url("https://example.com/group/app.git"), one)
    except BuildError as error:
        assert error.reason == "GitUrlRefused" and error.where.startswith(".gitmodules: submodule.")
        assert error.where.isprintable() and error.message.isprintable()
    else:
        assert (found.host, found.port) == ("example.com", 443)


def test_what_is_left_out_is_named() -> None:
    modules = [Submodule(name=str(number), path=f"libs/{number}", url="") for number in range(10)]
    assert left_out([]) == ""
    assert left_out(modules[:1]).startswith("libs/0 is a submodule, whose folder is empty")
    assert "libs/7 and 2 more are submodules" in left_out(modules) and "--submodules" in left_out(modules)


class Hosts:
    """Git's answers in the place of a sandbox: what each commit names, and who was asked with which token."""

    def __init__(self, modules: dict[str, dict[str, str]]) -> None:
        self.modules, self.asked, self.placed = modules, list[tuple[str, str]](), list[str]()
        self.gone, self.broken, self.refused = frozenset[str](), "", ""

    def run(self, command: sandbox.Command, *_: object, on_line: sandbox.OnLine, **more: object) -> sandbox.Result:
        words = [word for word in command.argv if "=" not in word or word.startswith("--")]
        named, out, code = self.modules, list[str](), 0
        if "ls-remote" in words:
            out = [f"{A}\trefs/heads/main"]
        elif "--get-regexp" in words and self.broken:
            on_line(sandbox.Stream.STDERR, self.broken.encode())
            code = 128
        elif "--get-regexp" in words:
            sha = next(word for word in words if word.startswith("--blob="))[7:47]
            pairs = named.get(sha, {}).items()
            text = "".join(f"submodule.{path}.path\n{path}\0submodule.{path}.url\n{url}\0" for path, url in pairs)
            out = text.split("\n")
        elif "ls-tree" in words:
            out = [f"160000 commit {B}\t{path}" for path in words[words.index("--") + 1 :] if path not in self.gone]
        elif "log" in words:
            out = [A, "1767323045", "Ada <a@b>"]
        elif "write-tree" in words:
            out = [C]
        elif "read-tree" in words and self.refused:
            on_line(sandbox.Stream.STDERR, self.refused.encode())
            code = 128
        elif "read-tree" in words:
            self.placed += [word for word in words if word.startswith("--prefix=")]
        elif "archive" in words:
            self.placed.append(words[-1])
            (command.work / "git/source.tar").write_bytes(b"tar")
        elif "init" in words:
            (command.work / "git/repository").mkdir()
        if "fetch" in words or "ls-remote" in words:
            url = next(word for word in words if word.startswith("https://"))
            self.asked.append((url, command.env.get("IGNITE_GIT_TOKEN", "")))
        else:
            assert "IGNITE_GIT_TOKEN" not in command.env
        for line in out:
            on_line(sandbox.Stream.STDOUT, line.encode())
        return sandbox.Result(exit_code=code, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0,
                              duration_ms=0)  # fmt: skip


def fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hosts: Hosts, **more: Any) -> commands.Commit:
    monkeypatch.setattr(sandbox, "run", hosts.run)
    tmp_path.mkdir(exist_ok=True)
    attempt = attempt_at(tmp_path)
    attempt.grant.secrets.update({"git.token": "ghp_0123456789", "git.username": "ada"})
    source = pb.GitSource(url="https://example.com/g/a.git", **more)
    asked = repository_of(pb.CreateBuildRequest(git_source=source))
    assert asked is not None
    return git.fetch_commit(attempt, asked)


def test_the_token_goes_to_the_host_of_the_repository_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts({A: {"b": "../b.git", "c": "https://other.example/c.git", "d": "https://example.com:8443/d.git"}})
    assert not fetched(tmp_path, monkeypatch, hosts, submodules=True).warning
    main, token = "https://example.com/g/a.git", "ghp_0123456789"
    assert hosts.asked == [
        (main, token), (main, token), ("https://example.com/g/b.git", token), ("https://other.example/c.git", ""),
        ("https://example.com:8443/d.git", ""),
    ]  # fmt: skip
    assert hosts.placed == ["--prefix=b/", "--prefix=c/", "--prefix=d/", C]


def test_without_a_request_no_submodule_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts({A: {"b": "../b.git"}})
    assert fetched(tmp_path, monkeypatch, hosts).warning.startswith("b is a submodule")
    assert len(hosts.asked) == 2 and hosts.placed == [A]


def test_a_leftover_is_no_submodule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts({A: {"b": "../b.git", "c": "../c.git"}})
    hosts.gone = frozenset({"c"})
    assert fetched(tmp_path, monkeypatch, hosts).warning.startswith("b is a submodule")


def test_names_that_cannot_be_read_end_a_build_that_asks_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = Hosts({})
    hosts.broken = "fatal: bad config line 1 in blob x"
    with pytest.raises(BuildError, match="bad config line 1") as refused:
        fetched(tmp_path / "asked", monkeypatch, hosts, submodules=True)
    assert (refused.value.reason, refused.value.where) == ("ManifestInvalid", ".gitmodules")
    assert "bad config line 1" in fetched(tmp_path / "not asked", monkeypatch, hosts).warning


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("error: invalid path '.git/config'", "ArchiveUnsafe"),
        ("fatal: unable to write new index file", "GitUnavailable"),
    ],
)
def test_a_path_that_git_refuses_is_the_repositorys_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, reason: str
) -> None:
    hosts = Hosts({A: {"b": "../b.git"}})
    hosts.refused = line
    with pytest.raises(BuildError) as refused:
        fetched(tmp_path, monkeypatch, hosts, submodules=True)
    assert refused.value.reason == reason


def test_names_without_an_end_are_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = Hosts({A: {"b": "./" * git.MOST_NAMES}})
    with pytest.raises(BuildError, match="more than 1 MiB") as refused:
        fetched(tmp_path / "asked", monkeypatch, hosts, submodules=True)
    assert refused.value.reason == "ManifestInvalid"
    assert "more than 1 MiB" in fetched(tmp_path / "not asked", monkeypatch, hosts).warning


@pytest.mark.parametrize(
    ("modules", "words", "asked"),
    [
        ({A: {f"b{number}": "../b.git" for number in range(65)}}, "64", 2 + 64),
        ({A: {f"b{number}": "../b.git" for number in range(MOST_LISTED + 1)}}, "1000 names", 2),
        ({A: {"b": "../b.git"}, B: {"b": "../b.git"}}, "4 in one another", 2 + 4),  # a repository that has itself
    ],
)
def test_submodules_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modules: dict[str, dict[str, str]], words: str, asked: int
) -> None:
    hosts = Hosts(modules)
    with pytest.raises(BuildError, match=words) as refused:
        fetched(tmp_path, monkeypatch, hosts, submodules=True)
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "gitSource.submodules")
    assert len(hosts.asked) == asked
