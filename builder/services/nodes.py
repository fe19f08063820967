"""`OperateService`: which nodes there are, which shall take no builds, which are forgotten."""

from __future__ import annotations

import hashlib
import time

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.services.auth import Caller, require
from builder.services.errors import CallRefused
from builder.services.parts import Parts
from builder.store import membership, nodes


class OperateService:
    """What operators call."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def list_nodes(self, caller: Caller, request: pb.ListNodesRequest) -> pb.ListNodesResponse:
        """Every node that is not forgotten, by name."""
        require(caller, "operate")
        return pb.ListNodesResponse(nodes=self._nodes())

    def drain_node(self, caller: Caller, request: pb.DrainNodeRequest) -> pb.Node:
        """Let a node take no more builds, or again."""
        require(caller, "operate")
        if not membership.set_drain(self._parts.store, request.node_id, not request.undo):
            raise _unknown(request.node_id)
        self._parts.wake()
        for node in self._nodes():
            if node.node_id == request.node_id:
                return node
        raise _unknown(request.node_id)  # forgotten since

    def forget_node(self, caller: Caller, request: pb.ForgetNodeRequest) -> pb.ForgetNodeResponse:
        """Delete a node and revoke its tokens: those that name it, and those that name none, for this node alone."""
        require(caller, "operate")
        settings, name = self._parts.settings, request.node_id
        workers = [row for row in settings.tokens if "worker" in row.scopes and row.node in ("", name)]
        tokens = {hashlib.sha256(row.token.encode()).hexdigest() for row in workers}
        outcome = membership.forget(self._parts.store, name, tokens, settings.lease_ms)
        if outcome == membership.UNKNOWN:
            raise _unknown(name)
        if outcome == membership.AT_WORK:
            message = f"{name} is at work: drain it first, or wait until it was not seen for {settings.lease_ms} ms"
            raise CallRefused("FAILED_PRECONDITION", message)
        if outcome == membership.BUSY:
            message = f"{name} is drained, and some of its builds still run: wait for them, or stop the node"
            raise CallRefused("FAILED_PRECONDITION", message)
        return pb.ForgetNodeResponse(revoked_tokens=len(tokens))

    def _nodes(self) -> list[pb.Node]:
        now_ms, live_ms = time.time_ns() // 1_000_000, nodes.LIVE_LEASES * self._parts.settings.lease_ms
        return [
            pb.Node(
                node_id=node.node_id,
                queues=sorted(node.queues),
                toolchains=sorted(node.toolchains),
                slots=node.slots,
                running=node.running,
                drain=node.drain,
                live=node.seen_ms_ago < live_ms,
                seen_at_ms=now_ms - node.seen_ms_ago,
                lacks=node.lacks,
            )
            for node in sorted(nodes.all_nodes(self._parts.store), key=lambda node: node.node_id)
        ]


def _unknown(node_id: str) -> CallRefused:
    return CallRefused(
        "NOT_FOUND", f'there is no node "{node_id[:80]}"', next="See which there are: ignite-builder nodes ls"
    )
