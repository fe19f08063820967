"""A real `ignite-builder serve` process with a Redis of its own, and what it takes to play its clients and nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from builder.client.api import Api
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.local.embedded import end
from builder.local.ports import free_port

TOKENS = {
    "submit": '{ token = "t-submit", organization = "acme", scopes = ["submit"] }',
    "read": '{ token = "t-read", organization = "acme", scopes = ["read"] }',
    "both": '{ token = "t-both", organization = "acme", scopes = ["submit", "read"] }',
    "other": '{ token = "t-other", organization = "other", scopes = ["submit", "read"] }',
    "worker": '{ token = "t-worker", scopes = ["worker"] }',
    "worker-1": '{ token = "t-worker-1", scopes = ["worker"], node = "node-1" }',
    "watch": '{ token = "t-watch", scopes = ["watch"], node = "watcher-1" }',
    "worker-2": '{ token = "t-worker-2", scopes = ["worker"], node = "node-2" }',
}
START_S = 300.0


@dataclass(frozen=True)
class Serve:
    """The process and its URL; `out` and `err` are files with what it said."""

    process: subprocess.Popen[bytes]
    url: str
    data: Path
    redis_url: str
    out: Path
    err: Path

    def ask(self, method: str, path: str, who: str = "", **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if who:
            headers["authorization"] = f"Bearer t-{who}"
        return httpx.request(
            method, self.url + path, headers=headers, timeout=120, trust_env=False, verify=False, **more
        )

    @contextmanager
    def api(self, who: str) -> Iterator[Api]:
        api = Api(self.url, f"t-{who}")
        try:
            yield api
        finally:
            api.close()

    def submit(self, name: str = "app", **more: Any) -> str:
        """A queued Python build."""
        body = {"name": name, "code": {"compile": {"runtime": {"python": {}}, "sourceCode": "eCA9IDEK"}}, **more}
        answer = self.ask("POST", "/v1/ignite/builds", "both", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["buildId"])

    def register(self, node: str = "node-1", who: str = "worker", slots: int = 2) -> None:
        """Be a node for Python."""
        request = pb.RegisterNodeRequest(
            protocol=PROTOCOL, node_id=node, queues=["compile.python"], toolchains={"python-3.11": "sha256:0"}
        )
        request.slots = slots
        with self.api(who) as api:
            api.call("RegisterNode", request)

    def claim(self, build_id: str, node: str = "node-1", who: str = "worker", nonce: str = "n") -> int:
        request = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=build_id, node_id=node, nonce=nonce)
        with self.api(who) as api:
            answer = api.call("ClaimBuild", request)
        assert answer.granted, answer.refused_because
        return int(answer.claim)

    def log(self, build_id: str, claim: int, lines: list[str], first: int = 0, who: str = "worker") -> None:
        request = pb.AppendLogRequest(protocol=PROTOCOL, build_id=build_id, claim=claim, first_index=first)
        for line in lines:
            request.lines.add(line=line, stream=pb.LOG_STREAM_STDOUT, timestamp_ms=1)
        with self.api(who) as api:
            assert not api.call("AppendLog", request).stale

    def fail(self, build_id: str, claim: int, count: int, who: str = "worker") -> None:
        failure = pb.Failure(reason="CompileFailed", message="m", error_class="user_code")
        request = pb.FinishRequest(protocol=PROTOCOL, build_id=build_id, claim=claim, log_count=count, failure=failure)
        with self.api(who) as api:
            assert not api.call("Finish", request).stale

    def metrics(self) -> dict[str, float]:
        """Sample (as the page writes it) → value."""
        lines = [line for line in self.ask("GET", "/metrics").text.splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}

    def stop(self, number: int = signal.SIGTERM, patience_s: float = 300) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(patience_s)


def compile_request(runtime: str) -> dict[str, object]:
    return {"name": "app", "code": {"compile": {"runtime": {runtime: {}}, "sourceCode": "eA=="}}}


@contextmanager
def serving(folder: Path, redis_url: str, settings: Mapping[str, str] | None = None, url: str = "") -> Iterator[Serve]:
    """`ignite-builder serve`, ended on the way out. `url`: where it listens, if the settings name that."""
    port = free_port()
    values = {
        "listen": f"127.0.0.1:{port}",
        "data_dir": str(folder / "data"),
        "redis_url": redis_url,
        "message_key": "k" * 32,
        "tick_ms": "100",
        "tokens": f"[{', '.join(TOKENS.values())}]",
        **(settings or {}),
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
    environ |= {"XDG_CONFIG_HOME": str(folder), **{f"IGNITE_BUILDER_{name.upper()}": v for name, v in values.items()}}
    program = Path(sys.executable).parent / "ignite-builder"
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "out", folder / "err"
    with out.open("ab") as to_out, err.open("ab") as to_err:
        process = subprocess.Popen([program, "serve"], env=environ, stdout=to_out, stderr=to_err)
    try:
        server = Serve(process, url or f"http://127.0.0.1:{port}", folder / "data", redis_url, out, err)
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            assert process.poll() is None, err.read_text()
            try:
                server.ask("GET", "/healthz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        else:
            raise AssertionError(f"no answer after {START_S:.0f} s: {err.read_text()}")
        yield server
    finally:
        end(process, 10)
