"""An operator drains and forgets a node, with `serve` and `worker` as two processes set up by docs/operators.md."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.build_fixtures import PYTHON_HANDLER, until
from tests.e2e.test_serve_worker import Parts, parts
from tests.program_fixtures import Program, serving

pytestmark = pytest.mark.e2e

__all__ = ["parts"]


def listed(operator: Program) -> dict[str, dict[str, Any]]:
    ran = operator.run("nodes", "ls", "--json")
    assert ran.code == 0, ran.err
    return {node["nodeId"]: node for node in json.loads(ran.out).get("nodes", [])}


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(300)


def test_a_node_is_drained_over_restarts_taken_back_and_forgotten(parts: Parts, tmp_path: Path) -> None:
    operator = Program(parts.folder / "operator", {"server": parts.url, "token": "operator-token"})
    (tmp_path / "handler.py").write_text(PYTHON_HANDLER)

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(parts.url + "/readyz", timeout=5, trust_env=False, verify=False).is_success
        return False

    def reads() -> bool:
        return bool(listed(operator).get("node-1", {}).get("queues"))

    def status() -> int:
        return parts.client.run("get", build_id, "--json").record.status

    assert parts.node.run("bases", "build", "python-3.11").code == 0
    with serving(parts.control, "serve") as (serve, _):
        assert until(answers)
        with serving(parts.node, "worker") as (worker, said):
            assert until(reads), said.read_text()
            refused = operator.run("nodes", "forget", "node-1")
            assert refused.code == 2 and "at work: drain it first" in refused.err
            assert parts.client.run("nodes", "ls").code == 4, "a client is no operator"
            drained = operator.run("nodes", "drain", "node-1")
            assert (drained.code, drained.err) == (0, "node-1 takes no more builds and runs none\n")
            assert until(lambda: "drain begins" in said.read_text())
            build_id = parts.client.run("build", str(tmp_path), "--name", "waits", "--detach").out.strip()
            end(worker)
        end(serve)
    with serving(parts.control, "serve") as (serve, _):
        assert until(answers)
        with serving(parts.node, "worker") as (worker, said):
            assert until(lambda: "drain begins" in said.read_text()), said.read_text()
            assert listed(operator)["node-1"]["drain"] is True and status() == pb.BUILD_STATUS_PENDING
            assert operator.run("nodes", "drain", "node-1", "--undo").err == "node-1 takes builds again\n"
            assert until(lambda: status() == pb.BUILD_STATUS_SUCCEEDED), said.read_text()
            operator.run("nodes", "drain", "node-1")
            forgotten = operator.run("nodes", "forget", "node-1")
            assert forgotten.code == 0, forgotten.err
            assert worker.wait(300) == 75, said.read_text()
            assert "was forgotten" in said.read_text()
            assert listed(operator) == {}
        with serving(parts.node, "worker") as (worker, said):
            assert worker.wait(300) == 75
            assert "NodeForgotten" in said.read_text() and "new token" in said.read_text()
        end(serve)
