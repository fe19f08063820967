"""The Celery application and its one task. Thin: the claim decides, `builder/node/worker.py` does the work.

Delivery: JSON only, nothing prefetched, no acknowledgement that Redis would have to keep, no result backend, no
countdown; a lost message costs seconds, since the store offers again (docs/architecture.md).
"""

from __future__ import annotations

from typing import Any

from celery import Celery

from builder.broker.transport import Dropped
from builder.contract.messages import RUN
from builder.settings import Settings


def make_celery(settings: Settings, on_dropped: Dropped | None = None) -> Celery:
    """A Celery application over the broker of the settings. `on_dropped` hears of messages that are no hints."""
    app = Celery("ignite-builder", broker=settings.redis_url, set_as_current=False)
    options = {"ack_emulation": False, "socket_timeout": 10, "socket_keepalive": True}
    app.conf.update(
        accept_content=["json"],
        task_serializer="json",
        task_ignore_result=True,
        task_acks_late=False,
        task_default_queue="compile.any",
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=5,
        # kombu's default for a URL without options is a connection that verifies nothing.
        broker_use_ssl={"ssl_cert_reqs": "required"} if settings.redis_url.startswith("rediss://") else None,
        broker_transport="builder.broker.transport:Transport",
        broker_transport_options=options | ({"on_dropped": on_dropped} if on_dropped else {}),
        worker_cancel_long_running_tasks_on_connection_loss=False,
    )
    return app


def read_queues(app: Celery, queues: tuple[str, ...], slots: int) -> None:
    """What a worker reads and runs at once where its command line (`-Q`, `-c`) says nothing else."""
    named = {name: {"exchange": name, "routing_key": name} for name in queues}
    app.conf.update(task_queues=named, worker_concurrency=slots)


def add_run_task(app: Celery, handle: Any) -> None:
    """Register `ignite.build.run`, and nothing else; `handle` takes the message's body and never raises."""

    @app.task(name=RUN)  # type: ignore[untyped-decorator]
    def consume_hint(**body: object) -> None:
        handle(body)

    app.finalize()
    for name in [name for name in app.tasks if name != RUN]:  # Celery's own: celery.map, celery.chunks, ...
        app.tasks.unregister(name)
