"""`OperateService`, and what a forgotten node is answered."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import pipelines
from builder.client.api import ApiError
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.protocol import PROTOCOL
from builder.data import catalog_file
from builder.errors import BuildError
from builder.node.membership import refusal
from builder.node.worker import WorkerRefused
from builder.pipelines import catalog
from builder.services.auth import Caller, Tokens
from builder.services.builds import BuildService
from builder.services.errors import CallRefused
from builder.services.nodes import OperateService
from builder.services.parts import Parts
from builder.services.revocations import STALE_S, Revocations
from builder.services.workers import WorkerService
from builder.settings import Settings, Token
from builder.store import membership
from builder.store.engine import Store, open_store
from builder.stores.folder import FolderStore
from tests.unit.test_service import of_claim

TOKENS = (
    Token(token="own", scopes=("worker",), node="node-1"),
    Token(token="all", scopes=("worker",)),
    Token(token="two", scopes=("worker",), node="node-2"),
    Token(token="operator", organization="acme", scopes=("operate",)),
    Token(token="client", organization="acme"),
)


class World:
    def __init__(self, folder: Path) -> None:
        self.store: Store = open_store(f"sqlite:///{folder}/builder.db")
        self.woken: list[None] = []
        parts = Parts(
            settings=Settings(tokens=TOKENS),
            store=self.store,
            sources=FolderStore(folder / "sources"),
            catalog=catalog.read(catalog_file("")),
            runtimes=pipelines.arguments(),
            wake=lambda: self.woken.append(None),
            changed=lambda build_id: None,
            stale=lambda call: None,
            dropped=lambda count: None,
        )
        self.build, self.worker, self.operate = BuildService(parts), WorkerService(parts), OperateService(parts)

    def register(self, token: str = "own", node: str = "node-1") -> pb.RegisterNodeResponse:
        request = pb.RegisterNodeRequest(protocol=PROTOCOL, node_id=node, queues=["compile.python"], slots=2)
        return self.worker.register_node(caller(token), request)

    def claim(self, build_id: str, token: str = "own", node: str = "node-1") -> pb.ClaimBuildResponse:
        request = pb.ClaimBuildRequest(protocol=PROTOCOL, build_id=build_id, node_id=node, nonce="n")
        return self.worker.claim_build(caller(token), request)

    def submit(self) -> str:
        request = pb.CreateBuildRequest(name="app")
        request.code.compile.runtime.python.SetInParent()
        request.code.compile.source_code = b"x = 1\n"
        return self.build.create_build(caller("client"), request).build_id

    def drain(self, node: str = "node-1", *, undo: bool = False) -> pb.Node:
        return self.operate.drain_node(caller("operator"), pb.DrainNodeRequest(node_id=node, undo=undo))

    def forget(self, node: str = "node-1") -> pb.ForgetNodeResponse:
        return self.operate.forget_node(caller("operator"), pb.ForgetNodeRequest(node_id=node))

    def names(self) -> list[str]:
        return [one.node_id for one in self.operate.list_nodes(caller("operator"), pb.ListNodesRequest()).nodes]


def caller(token: str) -> Caller:
    return Tokens(TOKENS).caller(f"Bearer {token}")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.engine.dispose()


@pytest.mark.parametrize("token", ["own", "all", "client"])
def test_only_the_scope_operate_may(world: World, token: str) -> None:
    world.register()
    calls: tuple[Callable[[], object], ...] = (
        lambda: world.operate.list_nodes(caller(token), pb.ListNodesRequest()),
        lambda: world.operate.drain_node(caller(token), pb.DrainNodeRequest(node_id="node-1")),
        lambda: world.operate.forget_node(caller(token), pb.ForgetNodeRequest(node_id="node-1")),
    )
    for call in calls:
        with pytest.raises(CallRefused, match="lacks the scope operate") as refused:
            call()
        assert refused.value.code == "PERMISSION_DENIED"
    assert not world.register().drain and world.names() == ["node-1"]


def test_an_operators_token_may_nothing_else(world: World) -> None:
    with pytest.raises(CallRefused, match="scope worker"):
        world.register("operator")
    with pytest.raises(CallRefused, match="scope read"):
        world.build.list_builds(caller("operator"), pb.ListBuildsRequest())


def test_nodes_are_listed_by_name_with_what_they_run(world: World) -> None:
    world.register("all", "node-2")
    world.register()
    build = world.submit()
    assert world.claim(build).granted
    one, two = world.operate.list_nodes(caller("operator"), pb.ListNodesRequest()).nodes
    assert (one.node_id, one.running, one.slots, one.live, one.drain) == ("node-1", 1, 2, True, False)
    assert (list(one.queues), two.node_id, two.running) == (["compile.python"], "node-2", 0)


def test_a_node_that_drains_gets_nothing_new_and_keeps_what_it_has(world: World) -> None:
    world.register()
    mine, waits = world.submit(), world.submit()
    first = world.claim(mine)
    woken = len(world.woken)
    assert world.drain().drain and len(world.woken) == woken + 1
    assert world.register().drain, "also after a restart"
    assert not world.claim(waits).granted
    assert world.claim(mine).claim == first.claim, "an answer that was lost"
    assert not world.drain(undo=True).drain
    assert world.claim(waits).granted


def test_forget_is_refused_with_what_to_do_first(world: World) -> None:
    with pytest.raises(CallRefused, match=r'there is no node "node-1"$') as refused:
        world.forget()
    assert (refused.value.code, refused.value.next) == ("NOT_FOUND", "See which there are: ignite-builder nodes ls")
    with pytest.raises(CallRefused, match="there is no node"):
        world.drain()
    world.register()
    with pytest.raises(CallRefused, match="at work: drain it first") as refused:
        world.forget()
    assert refused.value.code == "FAILED_PRECONDITION"
    world.claim(world.submit())
    world.drain()
    with pytest.raises(CallRefused, match="builds still run"):
        world.forget()
    assert world.names() == ["node-1"]


def test_every_call_of_a_forgotten_node_is_unauthenticated_and_others_go_on(world: World) -> None:
    world.register()
    world.register("two", "node-2")
    build = world.submit()
    world.drain()
    assert world.forget().revoked_tokens == 2, "its own token, and the one for all nodes, as this node"
    world.worker._revocations._known.clear()
    common = of_claim(build, 1)
    calls: tuple[Callable[[], object], ...] = (
        world.register,
        lambda: world.claim(build),
        lambda: world.worker.heartbeat(caller("own"), pb.HeartbeatRequest(**common)),
        lambda: world.worker.planned(caller("own"), pb.PlannedRequest(**common)),
        lambda: world.worker.append_log(caller("own"), pb.AppendLogRequest(**common)),
        lambda: world.worker.finish(caller("own"), pb.FinishRequest(**common)),
        lambda: world.worker.hand_back(caller("own"), pb.HandBackRequest(**common)),
        lambda: world.worker.source(caller("own"), build, 1),
        lambda: world.register("all"),
    )
    for call in calls:
        with pytest.raises(BuildError, match="was forgotten") as refused:
            call()
        assert (refused.value.row.http, refused.value.row.grpc) == (401, "UNAUTHENTICATED")
    assert world.names() == ["node-2"]
    assert not world.register("two", "node-2").drain
    assert not world.register("all", "node-3").drain


def test_a_registration_is_refused_at_once_however_lately_the_token_was_looked_up(world: World) -> None:
    world.register()
    world.drain()
    world.forget()
    with pytest.raises(BuildError, match="was forgotten"):
        world.register()
    assert world.names() == []


def test_a_revocation_of_another_process_is_seen_after_two_seconds(world: World) -> None:
    now = [0.0]
    known = Revocations(world.store, monotonic=lambda: now[0])
    world.register()
    known.check(caller("own"))
    world.drain()
    membership.forget(world.store, "node-1", [hashlib.sha256(b"own").hexdigest()], 1)
    now[0] = STALE_S - 0.1
    known.check(caller("own"))
    now[0] = STALE_S
    with pytest.raises(BuildError, match="NodeForgotten"):
        known.check(caller("own"))
    known.check(caller("two"))


@pytest.mark.parametrize("name", ["", "a/b", ".", "..", "a b", "\u00e9", "x" * 201, "a\n"])
def test_a_node_has_a_name_that_a_path_can_carry(world: World, name: str) -> None:
    with pytest.raises(BuildError) as refused:
        world.register("all", name)
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", "nodeId")


def test_a_forgotten_worker_ends_with_75_and_says_what_to_do() -> None:
    detail = {"reason": "NodeForgotten"}
    error = refusal(ApiError(401, "UNAUTHENTICATED", 'the node "n" was forgotten; its token is revoked', detail))
    assert WorkerRefused(error).code == 75 and "was forgotten" in error.message and "new token" in error.next
    withdrawn = refusal(ApiError(401, "UNAUTHENTICATED", "this token is not known here", {}))
    assert (WorkerRefused(withdrawn).code, withdrawn.where) == (75, "token")
