"""Commands against a played server: what an ambiguous id answers, what a signal ends."""

from __future__ import annotations

import json
import signal

import httpx
import pytest

from builder.api import codec
from builder.proto.dodil.ignite.v1 import ignite_build_pb2 as pb
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


def test_every_command_with_an_id_takes_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path.rsplit("/", 1)[1])
        return httpx.Response(200, content=codec.dump(build(status=pb.BUILD_STATUS_CANCELLED)))

    play(monkeypatch, answer)
    for command in ("get", "cancel", "run"):
        run(command, "k7m2")
    assert asked == ["k7m2"] * 3
