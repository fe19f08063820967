"""The running service that all probes share: two organizations, tokens of every scope, a node that builds as root.

The probes play a second node themselves: the real one reads `compile.any` alone, where the third pipeline's builds
wait, so builds whose request names Python are theirs to claim.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from builder.contract.protocol import PROTOCOL
from builder.local.embedded import private_redis
from tests import uids
from tests.broker_fixtures import ROOT, Worker, worker
from tests.build_fixtures import tar_of, until
from tests.serve_fixtures import Serve, serving

BUILDS = "/v1/ignite/builds"
SCRIPTS, PLAYED = "compile.any", "compile.python"
WORKER = "/v1/ignite/worker/builds"
TOKENS = {
    "acme": 'organization = "acme", scopes = ["submit", "read"]',
    "acme-read": 'organization = "acme", scopes = ["read"]',
    "acme-submit": 'organization = "acme", scopes = ["submit"]',
    "evil": 'organization = "evil", scopes = ["submit", "read"]',
    "operate": 'scopes = ["operate"]',
    "worker": 'scopes = ["worker"]',
    "node-1": 'scopes = ["worker"], node = "node-1"',
    "node-2": 'scopes = ["worker"], node = "node-2"',
}
LOG_BYTES = 64 * 1024
KEY = "k" * 32
MIB = 1024 * 1024
PATIENCE_S = 300.0
ENDED = ("BUILD_STATUS_SUCCEEDED", "BUILD_STATUS_FAILED", "BUILD_STATUS_CANCELLED")

SCRIPTED: dict[str, str] = {}
"""Name → build.py: all of them are submitted together when the first result is asked for."""


@dataclass(frozen=True)
class World:
    """The parts, and what probes do with them."""

    serve: Serve
    redis_url: str
    redis: redis.Redis
    node: Worker
    folder: Path
    registry: str
    honest: dict[str, Any] = field(default_factory=dict)
    """The record of a build that nobody attacked."""

    made: dict[str, str] = field(default_factory=dict)

    # HTTP

    def ask(self, method: str, path: str, who: str = "", **more: Any) -> httpx.Response:
        return self.serve.ask(method, path, who, **more)

    def refusal(self, method: str, path: str, who: str, **more: Any) -> str:
        return of_answer(self.ask(method, path, who, **more))

    def create(self, who: str, **fields: Any) -> str:
        """What a CreateBuild of these fields is answered with; the source is there unless they name another."""
        return of_answer(self.ask("POST", BUILDS, who, json={"name": "app", **fields}))

    def raw(self, data: bytes) -> list[int]:
        """Send bytes over a connection of their own; the status of each response until the server closes it."""
        with socket.create_connection(("127.0.0.1", httpx.URL(self.serve.url).port or 0), 120) as one:
            one.settimeout(120)
            one.sendall(data)
            got = b""
            with suppress(ConnectionResetError):  # of a request that is refused before all of it was read
                while more := one.recv(65536):
                    got += more
        return [int(line.split()[1]) for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]

    # Builds

    def submit(self, who: str = "acme", name: str = "app", **fields: Any) -> str:
        """A build that waits for the played node."""
        source = base64.b64encode(tar_of({"handler.py": f"# {os.urandom(8).hex()}\n"})).decode()
        code = {"compile": {"runtime": {"python": {}}, "archive": source}}
        answer = self.ask("POST", BUILDS, who, json={"name": name, "code": code, **fields})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["buildId"])

    def get(self, build_id: str, who: str = "acme") -> dict[str, Any]:
        answer = self.ask("GET", f"{BUILDS}/{build_id}", who)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def row(self, build_id: str, *columns: str) -> tuple[Any, ...]:
        with closing(sqlite3.connect(self.serve.data / "builder.db", timeout=20)) as store:
            query = f"select {', '.join(columns)} from builds where build_id = ?"
            found: tuple[Any, ...] = store.execute(query, (build_id,)).fetchone()
            return found

    def log(self, build_id: str, who: str = "acme") -> list[dict[str, Any]]:
        """The kept log of a build that has ended."""
        path = f"{BUILDS}/{build_id}/logs/stream?fromSequence=1"
        lines = self.ask("GET", path, who).text.splitlines()
        return [json.loads(line[6:]) for line in lines if line.startswith("data: ")][:-1]

    def ended(self, build_id: str, who: str = "acme") -> dict[str, Any]:
        """The record of a build once it has ended."""
        assert until(lambda: self.get(build_id, who)["status"] in ENDED, PATIENCE_S), self.node.said()[-2000:]
        return self.get(build_id, who)

    # The played node

    def call(self, rpc: str, build_id: str, who: str = "node-2", **fields: Any) -> httpx.Response:
        path = {"ClaimBuild": "claim", "AppendLog": "log", "HandBack": "hand-back"}.get(rpc, rpc.lower())
        body = {"protocol": PROTOCOL, **fields}
        return self.ask("POST", f"{WORKER}/{build_id}/{path}", who, json=body)

    def register(self, who: str = "node-2", **fields: Any) -> httpx.Response:
        body = {"protocol": PROTOCOL, "nodeId": "node-2", "queues": [PLAYED], "slots": 2, **fields}
        return self.ask("POST", "/v1/ignite/worker/nodes", who, json=body)

    def claimed(self, **fields: Any) -> tuple[str, int]:
        """A build of acme's that node-2 owns."""
        build_id = self.submit(**fields)
        answer = self.call("ClaimBuild", build_id, nodeId="node-2", nonce="n").json()
        assert answer.get("granted"), answer
        return build_id, int(answer["claim"])

    def takes(self, build_id: str) -> bool:
        """Whether node-2 is granted a build now."""
        return bool(self.call("ClaimBuild", build_id, nodeId="node-2", nonce=os.urandom(8).hex()).json().get("granted"))

    def lines(self, build_id: str, claim: int, texts: list[str], first: int = 0, **more: Any) -> dict[str, Any]:
        lines = [{"line": text, "stream": "LOG_STREAM_STDOUT", "timestampMs": "1", **more} for text in texts]
        answer: dict[str, Any] = self.call("AppendLog", build_id, claim=claim, firstIndex=first, lines=lines).json()
        return answer

    def fail(self, build_id: str, claim: int, count: int = 0, **more: Any) -> dict[str, Any]:
        failure = {"reason": "CompileFailed", "message": "m", "errorClass": "user_code"}
        fields = {"claim": claim, "logCount": count, "failure": failure, **more}
        answer: dict[str, Any] = self.call("Finish", build_id, **fields).json()
        return answer

    # The real node

    def built(self, name: str) -> dict[str, Any]:
        """The record of a script's build."""
        if not self.made:
            for each, code in SCRIPTED.items():
                self.made[each] = self.script(each, code)
        return self.ended(self.made[name])

    def script(self, name: str, code: str, who: str = "acme", **fields: Any) -> str:
        """A build whose only step runs `code`."""
        source = base64.b64encode(tar_of({"build.py": code})).decode()
        body = {"name": name, "zippedCode": source, **fields}
        answer = self.ask("POST", BUILDS, who, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["buildId"])

    def layer(self, record: Mapping[str, Any]) -> bytes:
        """The last layer of an artifact, as the registry has it."""
        url = f"http://{self.registry}/v2/{record['repository']}"
        with httpx.Client(trust_env=False, verify=False, timeout=120) as client:
            accept = {"accept": "application/vnd.oci.image.manifest.v1+json"}
            manifest = client.get(f"{url}/manifests/{record['imageDigest']}", headers=accept).json()
            return client.get(f"{url}/blobs/{manifest['layers'][-1]['digest']}", follow_redirects=True).content

    @cached_property
    def children(self) -> set[int]:
        """The node's pool as it was before the first probe."""
        return self.node.children()


def of_answer(answer: httpx.Response) -> str:
    """ "404 NotFound", "200" """
    if answer.is_success:
        return str(answer.status_code)
    body = answer.json()
    assert body["message"] and body["details"], body
    return f"{answer.status_code} {body['details'][0]['reason']}"


def of_record(record: Mapping[str, Any]) -> str:
    """ "SUCCEEDED", "FAILED StepFailed user_code" """
    failure = record.get("failure", {})
    words = (record["status"].removeprefix("BUILD_STATUS_"), failure.get("reason", ""), failure.get("errorClass", ""))
    return " ".join(word for word in words if word)


def same(verdicts: Mapping[str, str]) -> str:
    """The one verdict of several tries, or all of them."""
    return next(iter(verdicts.values())) if len(set(verdicts.values())) == 1 else repr(dict(verdicts))


@contextmanager
def running(kept: Path, registry: str) -> Iterator[World]:
    """Everything, ended on the way out."""
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        path = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", str(ROOT) + (os.pathsep + path if path else ""))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ignite-edges-", dir="/var/tmp")))
        folder.chmod(0o755)
        node_dir = folder / "node-1"
        node_dir.mkdir()
        stack.callback(shutil.rmtree, node_dir, True)
        for name in ("bases", "toolchains"):
            (node_dir / name).symlink_to(kept / name)
        catalog = folder / "catalog.toml"
        texts = [(ROOT / name).read_text() for name in ("runtimes/catalog.toml", "tests/data/catalog.toml")]
        catalog.write_text("\n".join(texts))
        shutil.copytree(ROOT / "tests/data/script", folder / "script")
        third = {"pipelines": "tests.pipeline_script", "catalog": str(catalog)}
        _, redis_url = stack.enter_context(private_redis(folder / "redis"))
        tokens = ", ".join(f'{{ token = "t-{name}", {rest} }}' for name, rest in TOKENS.items())
        settings = {"tokens": f"[{tokens}]", "registry": registry, "log_bytes": str(LOG_BYTES), "message_key": KEY}
        settings["retry_backoff_ms"] = "50"
        serve = stack.enter_context(serving(folder / "serve", redis_url, settings | third))
        limits = {"MEMORY_BYTES": str(256 * MIB), "DISK_BYTES": str(64 * MIB), "PIDS": "64", "SLOTS": "2"}
        node = stack.enter_context(
            worker(
                folder / "worker",
                serve,
                redis_url,
                TOKEN="t-node-1",
                QUEUES=SCRIPTS,
                NODE_DIR=str(node_dir),
                BUILD_UID=str(uids.EDGES),
                UNSANDBOXED="false",
                **limits,
                **{name.upper(): value for name, value in third.items()},
            )
        )
        client = stack.enter_context(redis.Redis.from_url(redis_url))
        world = World(serve, redis_url, client, node, folder, registry)
        world.honest.update(world.ended(world.script("honest", HONEST)))
        assert of_record(world.honest) == "SUCCEEDED", (world.honest, node.said()[-2000:])
        assert world.register().status_code == 200 and len(world.children) == 2
        yield world


HONEST = "open('/work/out/server.py', 'w').write('print(1)')\n"
