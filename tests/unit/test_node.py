"""A node says of itself what its Celery worker does, not what its settings wish."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from celery import Celery

from builder.broker import make_celery, read_queues
from builder.client.api import Api, ApiUnreachable
from builder.config import Settings
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.messages import run_message
from builder.node import worker as workers
from builder.node.worker import KEY_BYTES, Reads, WorkerProcess, reads_of

SETTINGS = Settings(queues=(), slots=2)


def worker(select: list[str] | None, **sizes: object) -> SimpleNamespace:
    """As Celery's worker object is at its signals, over a real application and its real choice of queues."""
    app: Celery = make_celery(SETTINGS)
    read_queues(app, SETTINGS.queue_list(("go", "python")), SETTINGS.slots)
    if select is not None:
        app.amqp.queues.select(select)
    return SimpleNamespace(app=app, **sizes)


@pytest.mark.parametrize(
    ("select", "sizes", "reads"),
    [
        (None, {"concurrency": 2}, Reads(queues=("compile.go", "compile.python", "compile.any"), slots=2)),
        (["compile.go"], {"concurrency": 5}, Reads(queues=("compile.go",), slots=5)),
        (["compile.go"], {"concurrency": "auto"}, Reads(queues=("compile.go",), slots=2)),
        (["elsewhere"], {"concurrency": 1, "max_concurrency": 4}, Reads(queues=("elsewhere",), slots=4)),
    ],
    ids=["all", "chosen", "not yet known", "autoscaled"],
)
def test_what_celery_reads_and_runs_is_what_counts(
    select: list[str] | None, sizes: dict[str, object], reads: Reads
) -> None:
    assert reads_of(worker(select, **sizes), SETTINGS) == reads


def test_the_settings_queues_are_exactly_these() -> None:
    assert Settings(queues=("compile.go",)).queue_list(("go", "python")) == ("compile.go",)


class Registrar:
    """An API that only gives the key of the messages."""

    def __init__(self) -> None:
        self.key, self.drain = "one", False

    def call(self, name: str, request: pb.RegisterNodeRequest) -> pb.RegisterNodeResponse:
        assert (name, request.node_id) == ("RegisterNode", SETTINGS.node_id)
        return pb.RegisterNodeResponse(message_key=self.key, drain=self.drain)


def test_a_new_key_reaches_the_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owned: list[str] = []
    monkeypatch.setattr(workers, "claim_build", lambda node, build_id: owned.append(build_id))
    parent, api, build = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar(), "k7m2xq9d4t1zv6wh5r3p"
    parent._register(cast(Api, api))
    child = copy.copy(parent)  # as a fork has it: every attribute of its own, shared memory shared
    child.handle(run_message(build, "one"))
    api.key = "zwei, länger"
    parent._register(cast(Api, api))
    child.handle(run_message(build, "one"))
    assert owned == [build]
    child.handle(run_message(build, api.key))
    assert owned == [build, build]


def test_a_key_that_is_too_long_is_no_key(tmp_path: Path) -> None:
    node, api = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar()
    api.key = "x" * (KEY_BYTES + 1)
    with pytest.raises(ApiUnreachable, match="4097 bytes"):
        node._register(cast(Any, api))


class Consumer:
    """Celery's consumer as far as a node asks it for something, always by `call_soon`."""

    def __init__(self) -> None:
        self.controller = worker(["compile.go", "compile.any"], concurrency=1)
        self.said: list[str] = []

    def call_soon(self, change: Any, queue: str) -> None:
        change(queue)

    def cancel_task_queue(self, queue: str) -> None:
        self.said.append("-" + queue)

    def add_task_queue(self, queue: str) -> None:
        self.said.append("+" + queue)


def test_a_node_that_shall_drain_reads_no_queue_until_it_may_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node, api, consumer = WorkerProcess(Settings(node_dir=str(tmp_path))), Registrar(), Consumer()
    monkeypatch.setattr(node, "_stay_known", lambda: None)
    api.drain = True
    node._register(cast(Any, api))  # before Celery reads anything; heard again by the next one
    node._on_ready(consumer)
    for drain, said in ((True, ["-compile.go", "-compile.any"]), (False, ["+compile.go", "+compile.any"])):
        api.drain = drain
        node._register(cast(Any, api))
        node._register(cast(Any, api))
        assert sorted(consumer.said) == sorted(said)
        consumer.said.clear()
