"""Commands against a played server: what an ambiguous id answers, what a signal ends."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.cli import client as cli_client
from builder.config import load
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.plan import Toolchain
from builder.settings import Settings
from tests.cli_fixtures import build, failed_build, line, play, run, sse

CANDIDATES = "k7m2xq9d4t1zv6wh5r3p (hello-go), k7m2aaaaaaaaaaaaaaaa (thumbs)"
FAILED = failed_build("k7m2xq9d4t1zv6wh5r3p", 900, pb.Failure(reason="CompileFailed", phase=pb.BUILD_PHASE_BUILD))


def ambiguous(request: httpx.Request) -> httpx.Response:
    body = {
        "code": "INVALID_ARGUMENT",
        "message": f'"k7m2" fits several: {CANDIDATES}',
        "details": [{"reason": "InvalidRequest", "errorClass": "client", "hint": "Give more of the id"}],
    }
    return httpx.Response(400, content=json.dumps(body))


@pytest.mark.parametrize(
    "argv", [("get",), ("logs",), ("logs", "-f"), ("logs", "--failed"), ("cancel",), ("run",)], ids=" ".join
)
def test_an_id_that_fits_several_builds_is_2_with_the_list(
    monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]
) -> None:
    play(monkeypatch, ambiguous)
    ran = run(*argv, "k7m2")
    assert (ran.code, ran.out) == (2, "")
    assert "REFUSED  InvalidRequest" in ran.err and CANDIDATES in ran.err
    assert ran.err.splitlines()[-1] == "next   Give more of the id"
    assert json.loads(run(*argv, "k7m2", "--json").out)["reason"] == "InvalidRequest"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("argv", "at"), [((), "get"), (("--failed",), "stream"), (("--exit-status",), "get again")])
def test_a_signal_ends_logs_also_while_no_log_is_read(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, argv: tuple[str, ...], at: str
) -> None:
    calls: list[str] = []

    def interrupted(request: httpx.Request) -> httpx.Response:
        call = "stream" if "/logs/stream" in request.url.path else "get again" if "get" in calls else "get"
        calls.append(call)
        if call == at:
            signal.raise_signal(number)
        if call == "stream":
            return httpx.Response(200, content=sse([line(1, "words")]))
        return httpx.Response(200, content=codec.dump(FAILED))

    play(monkeypatch, interrupted)
    ran = run("logs", "k7m2", *argv)
    assert ran.code == 130, ran
    assert calls[-1] == at, "it went on"


def test_the_lines_of_the_step_that_failed_are_without_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the same phase, and `get` shows it."""
    failure = pb.Failure(reason="CompileFailed", phase=pb.BUILD_PHASE_BUILD)
    step = [line(2, "step 1 of 1, compile: x", stream="SYSTEM"), line(3, "handler.py:1: no"), line(4, "FAILED soon")]
    every = [line(1, "14 files", phase="FETCH_SOURCE"), *step, line(5, "FAILED CompileFailed", stream="SYSTEM")]

    def answer(request: httpx.Request) -> httpx.Response:
        record = failed_build("k7m2xq9d4t1zv6wh5r3p", 1_000, failure, log_lines=5)
        stream = "/logs/stream" in request.url.path
        return httpx.Response(200, content=sse(every) if stream else codec.dump(record))

    play(monkeypatch, answer)
    ran = run("logs", "k7m2", "--failed", "--raw")
    assert (ran.code, ran.out.splitlines()) == (0, [one.line for one in step]), ran


def test_every_command_with_an_id_takes_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.rsplit("/", 1)[1])
        return httpx.Response(200, content=codec.dump(build(status=pb.BUILD_STATUS_CANCELLED)))

    play(monkeypatch, answer)
    for command in ("get", "cancel", "run"):
        run(command, "k7m2")
    assert asked == ["k7m2"] * 3


class Local:
    """What builds in the process of the command, played over the played server: what is done to it, in order."""

    url, token = "http://local.test", "t"

    def __init__(self) -> None:
        self.played: Any = None
        self.calls: list[str] = []
        self.settings = Settings()
        self.lacks: BuildError | None = None

    def prepare(self, settings: Settings, row: Toolchain, making: Callable[[], None]) -> None:
        self.calls.append(row.name)
        if self.lacks is not None:
            raise self.lacks

    def kill(self) -> None:
        self.calls.append("kill")

    def client(self, *args: object, **options: object) -> Local:
        self.calls.append("start")
        self.played = cli_client.Client(self.url, self.token)
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self.played, name)

    def close(self) -> None:
        self.calls.append("end")

    @contextmanager
    def started(self, *args: object, **options: object) -> Iterator[Local]:
        self.calls.append("start")
        try:
            yield self
        finally:
            broken = sys.exc_info()[0]
            self.calls.append(f"end because of {broken.__name__}" if broken else "end")


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> Local:
    made = Local()
    monkeypatch.setattr("builder.cli.context._embedded", made.started)
    monkeypatch.setattr("builder.local.readers.begin", lambda settings: None)
    monkeypatch.setattr("builder.local.client.LocalClient", made.client)
    monkeypatch.setattr("builder.local.machine.prepare", made.prepare)
    return made


def played_build(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, again: bool) -> list[str]:
    """A build whose log never ends before a cancel; signals come when it is read, and (again) when it is cancelled."""
    calls: list[str] = []
    hold = threading.Event()
    over = build("k7m2xq9d4t1zv6wh5r3p", 900, status=pb.BUILD_STATUS_CANCELLED)

    def answer(request: httpx.Request) -> httpx.Response:
        call = request.url.path.rsplit("/", 1)[1] if request.method == "POST" else "log"
        calls.append(call)
        if call == "log" and "/logs/" in request.url.path:
            signal.raise_signal(number)
            hold.wait(300)
            return httpx.Response(200, content=sse([]))
        if call == "cancel":
            if again:
                signal.raise_signal(number)
            else:
                hold.set()
        running = build(over.build_id, status=pb.BUILD_STATUS_RUNNING, ended_at_ms=0)
        if call == "builds":
            return httpx.Response(
                200, content=codec.dump(pb.CreateBuildResponse(build_id=over.build_id, build=running))
            )
        return httpx.Response(200, content=codec.dump(over))

    play(monkeypatch, answer)
    return calls


def handler_in(folder: Path) -> str:
    (folder / "handler.py").write_text("def handler(payload, ctx):\n    return payload\n")
    return str(folder)


def test_without_a_server_the_second_interrupt_kills_what_was_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local: Local
) -> None:
    calls = played_build(monkeypatch, signal.SIGINT, again=True)
    ran = run("build", handler_in(tmp_path), settings=Settings(server="", data_dir=str(tmp_path / "data")))
    assert ran.code == 130, ran
    assert local.calls == ["python-3.11", "start", "kill", "end"] and "cancel" in calls


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_without_a_server_one_interrupt_or_a_gone_terminal_cancels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local: Local, number: signal.Signals
) -> None:
    calls = played_build(monkeypatch, number, again=False)
    ran = run("build", handler_in(tmp_path), settings=Settings(server="", data_dir=str(tmp_path / "data")))
    assert ran.code == 130 and "CANCELLED" in ran.err, ran
    assert local.calls == ["python-3.11", "start", "end"] and "cancel" in calls


def test_an_interrupt_before_a_build_exists_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local: Local
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("builder.local.client.LocalClient", interrupted)
    ran = run("build", handler_in(tmp_path), settings=Settings(server="", data_dir=str(tmp_path / "data")))
    assert ran.code == 130 and ran.out == ""
    assert ran.err.splitlines()[-1] == "CANCELLED  stopped before a build existed" and "whose" not in ran.err


def test_a_folder_that_is_too_large_is_refused_before_anything_starts(tmp_path: Path, local: Local) -> None:
    (tmp_path / "handler.py").write_text("def handler(payload, ctx):\n    return payload\n")
    with (tmp_path / "data.bin").open("wb") as file:
        file.truncate(600 * 1024 * 1024)
    ran = run("build", str(tmp_path), settings=Settings(server="", data_dir=str(tmp_path / "data")))
    assert (ran.code, ran.out, local.calls) == (7, "", [])
    assert "REFUSED  ArchiveTooLarge: folder, 2 files, 600 MiB; limit 512 MiB; largest: data.bin" in ran.err


def test_without_a_server_nothing_can_be_detached(tmp_path: Path, local: Local) -> None:
    ran = run("build", handler_in(tmp_path), "--detach", settings=Settings(server="", data_dir=str(tmp_path / "data")))
    assert (ran.code, ran.out, local.calls) == (2, "", [])
    assert "--detach needs a server" in ran.err and ran.err.splitlines()[-1].startswith("next   Leave it out")


def test_the_first_interrupt_of_dev_drains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, local: Local) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    (tmp_path / "run").mkdir()
    monkeypatch.setattr("builder.cli.commands.operate.threading.Event", Interrupted)
    ran = run("dev", settings=Settings(data_dir=str(tmp_path)))
    assert ran.code == 0 and local.calls == ["start", "end"], ran


def test_without_a_server_a_toolchain_that_is_not_here_ends_the_build_at_once(tmp_path: Path, local: Local) -> None:
    local.lacks = BuildError("ToolchainUnavailable", "python-3.12: there is no recipe of its base image python-3.12")
    settings = Settings(server="", data_dir=str(tmp_path / "data"))
    ran = run("build", handler_in(tmp_path), "--runtime-version", "3.12", settings=settings)
    assert (ran.code, ran.out) == (75, ""), ran
    assert "REFUSED  ToolchainUnavailable: python-3.12" in ran.err
    assert ran.err.splitlines()[-1] == "next   See what is missing: ignite-builder doctor"
    assert local.calls == ["python-3.12"]


def test_runtimes_says_what_can_be_built_here_and_what_is_missing(tmp_path: Path) -> None:
    ran = run("runtimes", settings=Settings(node_dir=str(tmp_path)))
    head, *rows = ran.out.splitlines()
    assert head.split()[-1] == "HERE"
    assert any("runtimes fetch python-3.11" in row for row in rows)
    facts = json.loads(run("runtimes", "--json", settings=Settings(node_dir=str(tmp_path))).out)["runtimes"]
    assert all(fact["here"] or fact["why"] for fact in facts)


def test_a_token_of_a_file_is_in_no_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["authorization"])
        return httpx.Response(200, content=codec.dump(FAILED))

    play(monkeypatch, answer)
    (tmp_path / "token").write_text("canary-1\n")
    (tmp_path / "ignite-builder").mkdir()
    settings_file = tmp_path / "ignite-builder" / "config.toml"
    home = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), "IGNITE_BUILDER_SERVER": "http://ignite.test"}
    by_variable = home | {"IGNITE_BUILDER_TOKEN_FILE": str(tmp_path / "token")}
    for environ, text, token in ((by_variable, "", "canary-1"), (home, 'token = "canary-2"\n', "canary-2")):
        settings_file.write_text(text)
        settings_file.chmod(0o600)
        for argv in (("get", "k7m2"), ("get", "k7m2", "--json"), ("config",), ("config", "--json"), ("cancel", "k7m2")):
            ran = run(*argv, "-vv", environ=environ, load=load)
            assert ran.code == 0 and "canary" not in ran.out + ran.err, ran
        assert sent[-1] == f"Bearer {token}"
