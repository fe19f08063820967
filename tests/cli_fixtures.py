"""Records, streams and clocks for the tests of the command line."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from builder.cli.client import Client
from builder.cli.program import run_program
from builder.config import Loaded
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.settings import Settings

START_MS = 1_795_438_931_000


def build(build_id: str = "k7m2xq9d4t1zv6wh5r3p", took_ms: int = 21_000, **fields: Any) -> pb.Build:
    """An ended build; fields override."""
    facts: dict[str, Any] = {
        "build_id": build_id,
        "name": "hello-go",
        "status": pb.BUILD_STATUS_SUCCEEDED,
        "created_at_ms": START_MS,
        "ended_at_ms": START_MS + took_ms,
    }
    return pb.Build(**(facts | fields))


def failed_build(build_id: str, took_ms: int, failure: pb.Failure, **fields: Any) -> pb.Build:
    """A build that ended FAILED."""
    return build(build_id, took_ms, status=pb.BUILD_STATUS_FAILED, failure=failure, **fields)


def line(sequence: int, text: str, at_ms: int = 0, phase: str = "BUILD", stream: str = "STDOUT") -> pb.LogEntry:
    """A log entry `at_ms` after the start."""
    return pb.LogEntry(
        sequence=sequence,
        timestamp_ms=START_MS + at_ms,
        phase=pb.BuildPhase.Value("BUILD_PHASE_" + phase),
        stream=pb.LogStream.Value("LOG_STREAM_" + stream),
        line=text,
    )


class Stream(io.StringIO):
    """A text stream that says whether it is a terminal."""

    def __init__(self, *, terminal: bool = False) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@dataclass
class Ran:
    """One run of the program."""

    code: int
    out: str
    err: str


def run(
    *argv: str,
    environ: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    stdin: bytes = b"",
    load: Callable[[Mapping[str, Any], Mapping[str, str]], Loaded] | None = None,
    out_terminal: bool = False,
    err_terminal: bool = False,
) -> Ran:
    """Run the program over streams in memory; settings are handed in, nothing of this machine is read."""
    out, err = Stream(terminal=out_terminal), Stream(terminal=err_terminal)

    def settled(flags: Mapping[str, Any], env: Mapping[str, str]) -> Loaded:
        base = settings or Settings(server="http://ignite.test", data_dir="/nonexistent")
        changed = {name: value for name, value in flags.items() if value is not None}
        return Loaded(settings=base.replace(**changed), origins={})

    env = {"LANG": "C.UTF-8", "TERM": "xterm"} | dict(environ or {})
    code = run_program(list(argv), env, out, err, io.BytesIO(stdin), load or settled, now_ms=lambda: START_MS + 60_000)
    return Ran(code=code, out=out.getvalue(), err=err.getvalue())


@dataclass
class FakeClock:
    """Seconds that pass only when somebody sleeps."""

    seconds: float = 0.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


def sse(entries: Sequence[pb.LogEntry], *, eof: bool = True) -> bytes:
    """Server-sent events as the API writes them."""
    from builder.contract import codec

    parts = [b"event: log\r\nid: %d\r\ndata: %s\r\n\r\n" % (entry.sequence, codec.dump(entry)) for entry in entries]
    if eof:
        end = codec.dump(pb.LogEntry(eof=True, status=pb.BUILD_STATUS_SUCCEEDED))
        parts.append(b"event: eof\r\ndata: %s\r\n\r\n" % end)
    return b"".join(parts)


def play(monkeypatch: pytest.MonkeyPatch, handler: Callable[[httpx.Request], httpx.Response]) -> None:
    """The server of each command from here on is `handler`: no socket, and time passes when somebody sleeps."""
    made = functools.partial(Client, transport=httpx.MockTransport(handler), clock=FakeClock())
    monkeypatch.setattr("builder.cli.client.Client", made)
