"""`nodes ls`, `nodes drain`, `nodes forget`: the build nodes of a server, for whoever operates them."""

from __future__ import annotations

from collections.abc import Iterable

from builder.cli import format as fmt
from builder.cli.context import Context
from builder.cli.safe import shown
from builder.cli.stop import mistake
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb


def ls(ctx: Context) -> int:
    """List the nodes."""
    with ctx.client(ctx.settings()) as client:
        found = client.nodes()
    if ctx.common.json:
        ctx.document(found)
        return 0
    for line in listed(found.nodes, ctx.look(ctx.out), now_ms=ctx.now_ms(), terminal=ctx.out.is_terminal):
        ctx.out.line(line)
    return 0


def listed(nodes: Iterable[pb.Node], look: Look, *, now_ms: int, terminal: bool) -> tuple[str, ...]:
    """The table of `nodes ls`."""
    nodes = tuple(nodes)
    rows = [("NODE", "STATE", "BUSY", "QUEUES", "TOOLCHAINS", "SEEN")]
    for node in nodes:
        rows.append(
            (
                shown(node.node_id),
                state(node),
                f"{node.running}/{node.slots}",
                shown(" ".join(node.queues)) or "-",
                shown(" ".join(node.toolchains)) or "-",
                fmt.created(node.seen_at_ms, now_ms, terminal=terminal),
            )
        )
    lines = (
        *fmt.table(rows, right=frozenset({2})),
        *(f"{shown(node.node_id)} takes no builds: {shown(node.lacks)}" for node in nodes if node.live and node.lacks),
    )
    if look.columns is None:
        return lines
    return tuple(fmt.cut(line, look.columns, look.symbols.ellipsis) for line in lines)


def state(node: pb.Node) -> str:
    """One word: what the dispatcher makes of a node."""
    if node.drain:
        return "draining" if node.running else "drained"
    if not node.live:
        return "unseen"
    if node.lacks:
        return "full"
    return "ready" if node.queues else "leaving"


def drain(ctx: Context, node_id: str, *, undo: bool) -> int:
    """Let a node take no more builds, or again."""
    with ctx.client(ctx.settings()) as client:
        node = client.drain(_named(ctx, node_id), undo=undo)
    if ctx.common.json:
        ctx.document(node)
    elif undo:
        ctx.say(f"{shown(node.node_id)} takes builds again")
    elif node.running:
        what = "1 build that it runs ends" if node.running == 1 else f"{node.running} builds that it runs end"
        ctx.say(f"{shown(node.node_id)} takes no more builds; {what} as ever")
    else:
        ctx.say(f"{shown(node.node_id)} takes no more builds and runs none")
    return 0


def forget(ctx: Context, node_id: str) -> int:
    """Delete a node and revoke its tokens."""
    with ctx.client(ctx.settings()) as client:
        answer = client.forget(_named(ctx, node_id))
    if ctx.common.json:
        ctx.document(answer)
    else:
        ctx.say(f"{shown(node_id)} is forgotten; its worker ends, and comes back only with a new token")
    return 0


def _named(ctx: Context, node_id: str) -> str:
    if not node_id:
        raise mistake("a node must be named", where="NAME", next=f"See which there are: {ctx.prog} nodes ls")
    return node_id
