"""The whole program over streams in memory: help, mistakes, exit codes, `--json`, `plan`, our own bugs."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

import builder
from builder.cli import program
from builder.cli.app import command_options
from builder.cli.commands.operate import doctor_rows
from builder.cli.commands.read import described, listed
from builder.cli.context import Context, Out
from builder.cli.pack import pack
from builder.cli.requests import BuildOptions, request_of
from builder.cli.stop import Stop
from builder.cli.terminal import ASCII, Look
from builder.config import Loaded, load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1.ignite_common_pb2 import CODE_KIND_PREBUILT, VERSION_STATUS_DRAFT
from builder.errors import REASONS
from builder.local.doctor import Finding
from builder.settings import Settings
from tests.cli_fixtures import START_MS, Ran, build, failed_build, play, run

GO = {"go.mod": "module example.com/hello\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"}


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    root = tmp_path / "hello-go"
    root.mkdir()
    for name, text in GO.items():
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize("argv", [(), ("-h",), ("--help",), ("help",)])
def test_help_is_on_stdout_and_fits_88_columns(argv: tuple[str, ...]) -> None:
    ran = run(*argv)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Turn source code into a runnable artifact, and say how it went.\n")
    assert max(map(len, ran.out.splitlines())) <= 88


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        (
            ("buidl", "."),
            ['there is no command "buidl"', "Is ignite-builder build meant?", "See: ignite-builder --help"],
        ),
        (
            ("build", "--runtme", "go", "."),
            ["build has no option --runtme", "Is --runtime meant?", "See: ignite-builder build --help"],
        ),
        (("plan",), ["plan: Missing argument 'PATH|-'", "See: ignite-builder plan --help"]),
        (("bases",), ["bases: Missing command", "See: ignite-builder bases --help"]),
        (
            ("bases", "biuld"),
            [
                'there is no command "bases biuld"',
                "Is ignite-builder bases build meant?",
                "See: ignite-builder bases --help",
            ],
        ),
        (
            ("bases", "build", "--nope"),
            ["bases build has no option --nope", "See: ignite-builder bases build --help"],
        ),
        (("xyzzy", "ls"), ['there is no command "xyzzy"', "See: ignite-builder --help"]),
        (("help", "xyzzy"), ['there is no command "xyzzy"', "See: ignite-builder --help"]),
        (
            ("ls", "--jsn"),
            ["ls has no option --jsn", "Is --json meant?", "See: ignite-builder ls --help"],
        ),
        (
            ("build", "--detach=3", "."),
            ["build: Option '--detach' does not take a value", "See: ignite-builder build --help"],
        ),
        (
            ("logs", "--from", "x"),
            ['logs: --from is "x"; it takes a whole number, 0 or more', "See: ignite-builder logs --help"],
        ),
        (
            ("ls", "--limit=0"),
            ['ls: --limit is "0"; it takes a whole number, 1 to 10000', "See: ignite-builder ls --help"],
        ),
        (
            ("build", "--no-cach", "."),
            ["build has no option --no-cach", "Is --no-cache meant?", "See: ignite-builder build --help"],
        ),
        (("xqzw",), ['there is no command "xqzw"', "See: ignite-builder --help"]),
    ],
)
def test_a_mistake_is_what_nearest_help(argv: tuple[str, ...], lines: list[str]) -> None:
    ran = run(*argv)
    assert (ran.code, ran.out, ran.err.splitlines()) == (2, "", lines)


def test_a_mistake_with_json_is_one_document() -> None:
    ran = run("build", "--runtme", "go", ".", "--json")
    assert ran.code == 2
    assert json.loads(ran.out)["reason"] == "InvalidRequest"
    assert ran.out.count("\n") == 1


@pytest.mark.parametrize("argv", [("--version",), ("build", ".", "--version"), ("--version", "--json")])
def test_the_version_is_asked_for_anywhere(argv: tuple[str, ...]) -> None:
    assert run(*argv) == Ran(code=0, out=f"ignite-builder {builder.__version__}\n", err="")
    assert run("build", "/nonexistent/path", "--name", "--version").code == 2


@pytest.mark.parametrize("server", ["ftp://x", "127.0.0.1:8480", "ignite.example.com", "http://", "http://[x"])
def test_a_server_that_is_no_url_is_refused_before_any_call(server: str) -> None:
    home = {"HOME": "/nonexistent"}
    for command in (("ls",), ("get", "k7m2"), ("build", ".")):
        ran = run(*command, f"--server={server}", load=load, environ=home)
        assert (ran.code, ran.out) == (2, "") and f"server: {server} is no URL" in ran.err
        assert "whose  the request (client): --server\n" in ran.err
    node = run("worker", f"--server={server}", load=load, environ=home)
    assert node.code == 75 and f"server: {server} is no URL" in node.err and "next   " in node.err
    watcher = run("watch", f"--server={server}", load=load, environ=home)
    assert watcher.code == 75 and f"server: {server} is no URL" in watcher.err
    named = run("ls", load=load, environ=home | {"IGNITE_BUILDER_SERVER": server})
    assert "whose  the request (client): IGNITE_BUILDER_SERVER\n" in named.err


@pytest.mark.parametrize("named", ["server", "token"])
def test_a_watcher_without_server_or_token_names_the_setting(named: str) -> None:
    home = {"HOME": "/nonexistent", "IGNITE_BUILDER_SERVER": "" if named == "server" else "http://127.0.0.1:1"}
    ran = run("watch", load=load, environ=home)
    assert ran.code == 75 and f"a watcher needs the {named}" in ran.err and "scope watch" in " ".join(ran.err.split())


@pytest.mark.parametrize(("command", "code"), [("ls", 2), ("get k7m2", 2), ("watch", 75), ("worker", 75)])
@pytest.mark.parametrize("token", ["s3cret-é", "s3cret word", "s3cret\nline"])
def test_a_token_that_no_header_carries_is_a_wrong_setting_and_not_shown(command: str, code: int, token: str) -> None:
    ran = run(*command.split(), settings=Settings(server="http://127.0.0.1:1", token=token, data_dir="/nonexistent"))
    assert (ran.code, ran.out) == (code, "") and ": token\n" in ran.err and "s3cret" not in ran.err, ran
    assert "IGNITE_BUILDER_TOKEN_FILE" in ran.err


@pytest.mark.parametrize(
    ("argv", "code", "word"),
    [
        (("get", "k7m"), 2, "shorter than 4"),
        (("cancel",), 2, "needs the build named"),
        (("get",), 2, "no build was started here"),
        (("reasons", "Compilefailed"), 2, "is not a reason"),
        (("completion", "tcsh"), 2, "no completion"),
        (("build", "/nonexistent/path"), 2, "does not exist"),
        (("build", ".", "--timeout", "soon"), 2, "--timeout"),
        (("plan", "/nonexistent/path"), 2, "does not exist"),
        (("ls", "--color=blue"), 2, "--color"),
    ],
)
def test_refusals_before_any_call(argv: tuple[str, ...], code: int, word: str) -> None:
    ran = run(*argv)
    assert ran.code == code and ran.out == "" and word in ran.err
    with_json = run(*argv, "--json")
    assert with_json.code == code
    assert set(json.loads(with_json.out)) == {"reason", "errorClass", "message", "hint"}


def test_a_wrong_setting_names_where_it_came_from(tmp_path: Path) -> None:
    def reading(flags: Mapping[str, Any], environ: Mapping[str, str]) -> Loaded:
        return load(flags, environ)

    environ = {"HOME": str(tmp_path), "IGNITE_BUILDER_SLOTS": "many"}
    ran = run("config", environ=environ, load=reading)
    assert ran.code == 2 and "IGNITE_BUILDER_SLOTS" in ran.err


def test_config_shows_origins_and_no_token(tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path),
        "IGNITE_BUILDER_TOKEN": "canary-1",
        "IGNITE_BUILDER_REGISTRY_PASSWORD": "canary-2",
        "IGNITE_BUILDER_SERVER": "https://ignite.example.com",
    }
    for argv in (("config", "-vv"), ("config", "--json"), ("config", "--server=https://other.example.com")):
        ran = run(*argv, environ=environ, load=load)
        assert ran.code == 0 and "canary" not in ran.out + ran.err
    rows = {row["name"]: row for row in json.loads(run("config", "--json", environ=environ, load=load).out)["settings"]}
    assert rows["token"] == {"name": "token", "value": "***", "from": "IGNITE_BUILDER_TOKEN"}
    assert rows["server"]["from"] == "IGNITE_BUILDER_SERVER"
    assert rows["slots"]["from"] == "default"


def test_reasons_lists_all_of_the_table() -> None:
    lines = run("reasons").out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(REASONS)
    record = json.loads(run("reasons", "OutOfMemory", "--json").out)["reasons"][0]
    assert (record["errorClass"], record["exitCode"], record["retried"]) == ("user_code", 1, False)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_every_command(shell: str) -> None:
    ran = run("completion", shell)
    assert ran.code == 0 and ran.err == ""
    assert all(word in ran.out for name in command_options() for word in name.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_names_the_commands_of_a_group_and_their_options(shell: str) -> None:
    script = run("completion", shell).out
    assert all("set ls rm" in script and option in script for option in ("known-hosts", "undo", "refresh"))
    assert {"secret", "secret set", "runtimes fetch"} <= set(command_options())


@pytest.mark.parametrize("option", ["--username", "--host"])
def test_the_value_of_a_groups_command_is_no_common_option(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    saved: list[tuple[Context, dict[str, Any]]] = []

    def save(ctx: Context, name: str, **given: Any) -> int:
        saved.append((ctx, given))
        return 0

    monkeypatch.setattr("builder.cli.commands.secret.save", save)
    assert run("secret", "set", "hub", "--type", "registry", option, "-q").code == 0
    ((context, given),) = saved
    assert given[option[2:]] == "-q" and not context.common.quiet


def test_plan_shows_every_decision_and_runs_nothing(hello: Path) -> None:
    ran = run("plan", str(hello), environ={"PATH": ""})
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert re.fullmatch(r" +VALUE +WHY", lines[0])
    assert [line.split()[0] for line in lines[1:6]] == ["runtime", "version", "entry", "target", "source"]
    assert re.search(r"2 files, \d+ B +sha256:[0-9a-f]{12}$", lines[5])
    assert any(re.match(r"STEP +NETWORK +CACHES +COMMAND", line) for line in lines)
    assert lines[-2].startswith("output   static binary")
    assert lines[-1] == f"next     ignite-builder build {hello}"


@pytest.mark.parametrize(
    "options",
    [
        ("--runtime", "go", "--runtime-version", "1.25", "--target", "native"),
        ("--entry", "./.", "--build-arg", "tags=a,b", "--include", "*.env x", "--no-ignore"),
        ("--start", "./app serve",),
    ],
)  # fmt: skip
def test_what_a_plan_names_next_builds_what_it_shows(hello: Path, options: tuple[str, ...]) -> None:
    spaced = hello.rename(hello.with_name("hello go"))
    shown = json.loads(run("plan", str(spaced), *options, "--json").out)
    words = shlex.split(run("plan", str(spaced), *options).out.splitlines()[-1])
    assert words[:3] == ["next", "ignite-builder", "build"]
    assert json.loads(run("plan", *words[3:], "--json").out) == shown
    assert len(words) > 4


def test_plan_sees_what_build_would_send(hello: Path) -> None:
    before = json.loads(run("plan", str(hello), "--json").out)
    (hello / ".git").mkdir()
    (hello / ".git" / "HEAD").write_text("ref")
    (hello / "node_modules").mkdir()
    (hello / "node_modules" / "junk.js").write_text("x")
    after = json.loads(run("plan", str(hello), "--json").out)
    assert before.pop("leftOut") == [] and [each["path"] for each in after.pop("leftOut")] == [".git/", "node_modules/"]
    assert before == after
    assert before["plan"]["toolchain"]["runtime"] == "go"
    assert before["source"]["files"] == 2


def test_plan_of_a_file_stdin_and_an_archive(hello: Path, tmp_path: Path) -> None:
    archive = tmp_path / "hello.tar.gz"
    archive.write_bytes(b"".join(pack(str(hello), io.BytesIO()).chunks()))
    of_folder = json.loads(run("plan", str(hello), "--json").out)
    of_archive = json.loads(run("plan", str(archive), "--json").out)
    of_stdin = json.loads(run("plan", "-", "--json", stdin=archive.read_bytes()).out)
    assert of_folder["source"] == of_archive["source"] == of_stdin["source"]
    assert json.loads(run("plan", str(hello / "main.go"), "--json").out)["plan"]["detection"]["runtime"] == "go"


def test_plan_refuses_with_the_reason_and_its_code(hello: Path, tmp_path: Path) -> None:
    ran = run("plan", str(hello), "--runtime-version", "1.19", "--json")
    assert ran.code == 2 and json.loads(ran.out)["reason"] == "UnknownRuntimeVersion"
    assert "REFUSED  UnknownRuntimeVersion" in ran.err
    (tmp_path / "readme").mkdir()
    (tmp_path / "readme" / "README").write_text("x")
    nothing = run("plan", str(tmp_path / "readme"), "--json")
    assert nothing.code == 1 and json.loads(nothing.out)["errorClass"] == "user_code"


def test_ascii_and_the_c_locale_send_no_byte_above_127(hello: Path) -> None:
    for argv, environ in ((("--ascii",), {}), ((), {"LANG": "", "LC_ALL": "C"})):
        for command in (("plan", str(hello)), ("reasons",), ("get", "k7m"), ("--help",)):
            ran = run(*command, *argv, environ=environ)
            assert (ran.out + ran.err).isascii()


@pytest.mark.parametrize("argv", [("reasons",), ("get", "k7m"), ("config",)])
def test_no_escape_where_no_terminal_is_and_colour_only_where_allowed(argv: tuple[str, ...]) -> None:
    assert "\x1b" not in run(*argv).out + run(*argv).err
    dumb = run(*argv, environ={"TERM": "dumb"}, out_terminal=True, err_terminal=True)
    assert "\x1b" not in dumb.out + dumb.err
    without = run(*argv, environ={"NO_COLOR": "1", "FORCE_COLOR": "1"}, out_terminal=True, err_terminal=True)
    assert "\x1b[3" not in without.out + without.err


def test_colour_always_beats_no_color() -> None:
    assert "\x1b[31m" in run("get", "k7m", "--color=always", environ={"NO_COLOR": "1"}).err


def test_our_own_bug_is_10_with_a_report_that_holds_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> int:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("builder.cli.commands.about.reasons", broken)
    settings = Settings(data_dir=str(tmp_path), token="canary")
    ran = run("reasons", "--json", settings=settings)
    assert ran.code == 10
    assert json.loads(ran.out)["reason"] == "Internal"
    assert "Traceback" not in ran.err
    (report,) = (tmp_path / "reports").iterdir()
    assert str(report) in ran.err
    assert "ZeroDivisionError: oh" in report.read_text() and "canary" not in report.read_text()


def test_interrupted_before_anything_exists_is_130_and_still_one_document(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("builder.cli.commands.about.reasons", interrupted)
    ran = run("reasons", "--json")
    assert ran.code == 130 and json.loads(ran.out)["reason"] == "Cancelled"
    assert run("reasons").err == "CANCELLED  stopped\n"


class Failing:
    """A stream that cannot be written."""

    def __init__(self, number: int) -> None:
        self.error = OSError(number, os.strerror(number))

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error

    def fileno(self) -> int:
        raise ValueError


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
@pytest.mark.parametrize("is_answer", [True, False])
def test_a_closed_pipe_and_a_hung_up_terminal_end_silently(number: int, is_answer: bool) -> None:
    out = Out(Failing(number), is_answer=is_answer)  # type: ignore[arg-type]
    out.line("a")
    out.line("b")
    assert out.closed


def test_an_answer_that_cannot_be_written_is_said_and_is_no_bug_of_ours() -> None:
    err = io.StringIO()
    full: Any = Failing(errno.ENOSPC)
    code = program.run_program(["reasons"], {"LANG": "C.UTF-8"}, full, err, io.BytesIO(), load)
    assert code == 7 and "REFUSED  ResourceExhausted" in err.getvalue() and "No space left" in err.getvalue()
    answer = io.StringIO()
    assert program.run_program(["reasons"], {}, answer, full, io.BytesIO(), load) == 0 and answer.getvalue()


def test_request_of_build_has_what_was_typed(hello: Path) -> None:
    options = BuildOptions(
        path=str(hello),
        runtime="go",
        runtime_version="1.26",
        target="wasm",
        build_args={"A": "1"},
        tags=("v1", "v2"),
        labels=("deploy=d=17", "app="),
        repository="acme/x",
        timeout="2m",
        no_cache=True,
    )
    request = request_of(options, pack(str(hello), io.BytesIO()))
    go = request.code.compile.runtime.go
    assert (go.toolchain_version, go.target, request.timeout_secs) == ("1.26", 2, 120)
    assert (request.name, list(request.tags), request.no_cache) == ("hello-go", ["v1", "v2"], True)
    assert dict(request.code.compile.build_args) == {"A": "1"}
    assert dict(request.labels) == {"deploy": "d=17", "app": ""}
    assert len(request.idempotency_key) == 32


def test_a_version_without_a_runtime_belongs_to_the_detected_one(hello: Path) -> None:
    request = request_of(BuildOptions(path=str(hello), runtime_version="1.19"), pack(str(hello), io.BytesIO()))
    assert request.code.compile.runtime.go.toolchain_version == "1.19"
    plain = request_of(BuildOptions(path=str(hello)), pack(str(hello), io.BytesIO()))
    assert plain.code.compile.runtime.WhichOneof("runtime") is None


@pytest.mark.parametrize(("runtime", "target"), [("cobol", ""), ("rust", "arm"), ("go", "arm"), ("python", "wasm")])
def test_runtimes_and_targets_that_do_not_exist(hello: Path, runtime: str, target: str) -> None:
    with pytest.raises(Stop) as caught:
        request_of(BuildOptions(path=str(hello), runtime=runtime, target=target), pack(str(hello), io.BytesIO()))
    assert caught.value.exit_code == 2


def test_get_of_a_success_is_the_mock_up() -> None:
    phases = [
        pb.PhaseRecord(phase=pb.BuildPhase.Value(f"BUILD_PHASE_{name}"), duration_ms=ms)
        for name, ms in (
            ("QUEUED", 200),
            ("FETCH_SOURCE", 100),
            ("BUILD", 19_800),
            ("PACKAGE", 200),
            ("PUSH", 600),
            ("ATTEST", 100),
        )
    ]
    record = build(
        phases=phases,
        size_bytes=9_856_614,
        image_refs=["reg.example.com/acme/hello-go@sha256:3b1f"],
        code_hash="sha256:9f2c41d7b3a0ffff",
        runtime="go",
        attempt=1,
        tags=["latest"],
        version_status=VERSION_STATUS_DRAFT,
    )
    assert described(record, Look(), now_ms=START_MS, terminal=False) == (
        "SUCCEEDED  k7m2xq9d4t1zv6wh5r3p  hello-go  2026-11-23T13:02:11Z  reported DRAFT",
        "source  sha256:9f2c41d7b3a0               plan  go, attempt 1",
        "phases  queued 0.2s  build 19.8s  package 0.2s  push 0.6s  (others below 0.2s)",
        "output  reg.example.com/acme/hello-go@sha256:3b1f  9.4 MiB  tags latest",
        "next    ignite-builder run k7m2xq9d",
    )


def test_get_names_what_an_image_and_a_commit_are_of() -> None:
    image = build(code_kind=CODE_KIND_PREBUILT)
    assert described(image, Look(), now_ms=START_MS, terminal=False)[1] == "source  an image"
    commit = pb.SourceProvenance(commit_sha="3f" * 20, branch="main", author="Ada\x1b <ada@example.com>")
    rows = described(build(code_hash="sha256:9f2c", provenance=commit), Look(), now_ms=START_MS, terminal=False)
    assert rows[2] == "commit  3f3f3f3f3f3f  main  Ada\\x1b <ada@example.com>"


@pytest.mark.parametrize(
    ("watcher", "of_get", "of_ls"),
    [("w-1", "watched by w-1", "build, a Job"), ("", "nobody watches it now", "build, an unwatched Job")],
)
def test_a_job_and_who_watches_it_are_told(watcher: str, of_get: str, of_ls: str) -> None:
    running = build(
        status=pb.BUILD_STATUS_RUNNING, ended_at_ms=0, stage=pb.BUILD_STAGE_JOB, job="ns/ignite-x-1", watcher=watcher,
        phase=pb.BUILD_PHASE_BUILD,
    )  # fmt: skip
    assert f"job     ns/ignite-x-1, {of_get}" in described(running, Look(), now_ms=START_MS, terminal=False)
    assert f"  {of_ls}  " in listed([running], Look(), now_ms=START_MS, terminal=False)[1]


def test_ls_is_the_mock_up() -> None:
    running = build(
        "x6d4b9qa0000000000aa",
        name="thumbs",
        runtime="rust",
        status=pb.BUILD_STATUS_RUNNING,
        phase=pb.BUILD_PHASE_BUILD,
        ended_at_ms=0,
    )
    failure = pb.Failure(reason="DependencyNotFound")
    broken = failed_build("c3n7r1yd0000000000aa", 1_400, failure, name="rep\x1bort", runtime="python")
    assert listed([running, broken], Look(), now_ms=START_MS + 41_000, terminal=True) == (
        "BUILD     NAME        RUNTIME  STATUS   PHASE OR REASON      TOOK  CREATED",
        "x6d4b9qa  thumbs      rust     RUNNING  build               41.0s  41s ago",
        "c3n7r1yd  rep\\x1bort  python   FAILED   DependencyNotFound   1.4s  41s ago",
    )


def test_labels_are_a_row_of_get_and_a_column_of_ls_where_there_are_any() -> None:
    marked = build(labels={"deploy": "d-17", "app": "a\x1b[31m"})
    assert "labels  app=a\\x1b[31m deploy=d-17" in described(marked, Look(), now_ms=START_MS, terminal=False)
    rows = listed([marked, build("c3n7r1yd0000000000aa")], Look(), now_ms=START_MS, terminal=True)
    assert [row.split()[-2:] for row in rows] == [
        ["CREATED", "LABELS"], ["app=a\\x1b[31m", "deploy=d-17"], ["ago", "-"]
    ]  # fmt: skip


def test_ls_asks_for_labels_and_refuses_what_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params.get_list("label"))
        return httpx.Response(200, json={"builds": []})

    play(monkeypatch, answer)
    ran = run("ls", "--label", "deploy=d=17", "--label", "app=", settings=Settings(server="http://b.test", token="t"))
    assert (ran.code, asked) == (0, [["deploy=d=17", "app="]]), ran
    assert run("ls", "--label", "deploy").code == 2


def test_doctor_rows() -> None:
    found = (
        Finding(ok=True, name="redis-server"),
        Finding(ok=False, name="bubblewrap", effect="a worker refuses to start", mend="apt-get install -y bubblewrap"),
        Finding(ok=False, name="go 1.26", effect="compile.go gets no work here", mend="install go-1.26"),
        Finding(
            ok=False,
            name="py",
            effect="py: no base py: ignite-builder bases build py",
            mend="ignite-builder bases build py",
        ),
    )
    assert doctor_rows(found, Look(symbols=ASCII)) == (
        "+ redis-server",
        "x bubblewrap  a worker refuses to start     mend: apt-get install -y bubblewrap",
        "x go 1.26     compile.go gets no work here  mend: install go-1.26",
        "x py          no base py                    mend: ignite-builder bases build py",
    )
