"""`nodes ls`, `nodes drain`, `nodes forget` against a server that is played."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from builder.cli.commands.nodes import state
from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from tests.cli_fixtures import START_MS, play, run

NODES = pb.ListNodesResponse(
    nodes=[
        pb.Node(
            node_id="node-1", queues=["compile.go", "compile.any"], toolchains=["go-1.26"], slots=2, running=1,
            live=True, seen_at_ms=START_MS + 59_000,
        ),
        pb.Node(node_id="node-2", slots=4, drain=True, seen_at_ms=START_MS - 7_200_000),
    ]
)  # fmt: skip


def served(monkeypatch: pytest.MonkeyPatch, answer: httpx.Response) -> list[tuple[str, str, bytes]]:
    calls: list[tuple[str, str, bytes]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append((request.method, request.url.raw_path.decode(), request.read()))
        return answer

    play(monkeypatch, handler)
    return calls


def test_ls_is_a_table_of_what_each_node_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = served(monkeypatch, httpx.Response(200, content=codec.dump(NODES)))
    ran = run("nodes", "ls", out_terminal=True, environ={"NO_COLOR": "1", "COLUMNS": "100"})
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "NODE    STATE    BUSY  QUEUES                  TOOLCHAINS  SEEN",
        "node-1  ready     1/2  compile.go compile.any  go-1.26     1s ago",
        "node-2  drained   0/4  -                       -           2h ago",
    ]
    assert calls == [("GET", "/v1/ignite/nodes", b"")]
    assert "2026-11-23T" in run("nodes", "ls").out.splitlines()[1]
    assert json.loads(run("nodes", "ls", "--json").out)["nodes"][1]["drain"] is True


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"live": True, "queues": ["q"]}, "ready"),
        ({"live": True}, "leaving"),
        ({"queues": ["q"]}, "unseen"),
        ({"live": True, "queues": ["q"], "drain": True, "running": 1}, "draining"),
        ({"queues": ["q"], "drain": True}, "drained"),
    ],
)
def test_a_state_is_one_word(fields: dict[str, Any], word: str) -> None:
    assert state(pb.Node(**fields)) == word


@pytest.mark.parametrize(
    ("undo", "running", "words"),
    [
        (False, 0, "node/1 takes no more builds and runs none"),
        (False, 1, "node/1 takes no more builds; 1 build that it runs ends as ever"),
        (False, 2, "node/1 takes no more builds; 2 builds that it runs end as ever"),
        (True, 2, "node/1 takes builds again"),
    ],
)
def test_drain_says_what_happens_now(monkeypatch: pytest.MonkeyPatch, undo: bool, running: int, words: str) -> None:
    node = pb.Node(node_id="node/1", drain=not undo, running=running)
    calls = served(monkeypatch, httpx.Response(200, content=codec.dump(node)))
    ran = run("nodes", "drain", "node/1", *(["--undo"] if undo else []))
    assert (ran.code, ran.out, ran.err) == (0, "", words + "\n")
    ((method, path, body),) = calls
    assert (method, path) == ("POST", "/v1/ignite/nodes/node%2F1/drain")
    assert json.loads(body) == {"nodeId": "node/1"} | ({"undo": True} if undo else {})
    assert json.loads(run("nodes", "drain", "node/1", "--json").out)["nodeId"] == "node/1"


def test_forget_says_what_that_means(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = served(monkeypatch, httpx.Response(200, content=b'{"revokedTokens": 1}'))
    ran = run("nodes", "forget", "node-1")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == "node-1 is forgotten; its worker ends, and comes back only with a new token\n"
    assert calls == [("POST", "/v1/ignite/nodes/node-1/forget", b'{"nodeId":"node-1"}')]


def test_a_node_at_work_is_refused_with_the_servers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"code": "FAILED_PRECONDITION", "message": "node-1 is at work: drain it first", "details": []}
    served(monkeypatch, httpx.Response(400, json=body))
    ran = run("nodes", "forget", "node-1")
    assert ran.code == 2 and "node-1 is at work: drain it first" in ran.err


@pytest.mark.parametrize("command", ["drain", "forget"])
def test_a_node_must_be_named(command: str) -> None:
    ran = run("nodes", command)
    assert ran.code == 2 and "a node must be named" in ran.err and "ignite-builder nodes ls" in ran.err
