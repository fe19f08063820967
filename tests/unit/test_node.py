"""A node says of itself what its Celery worker does, not what its settings wish."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from celery import Celery

from builder.config import Settings
from builder.tasks import make_celery, read_queues
from builder.worker.node import Reads, reads_of

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
