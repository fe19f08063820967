"""The Celery worker of a build node: its application, `ignite-builder worker`, the command line of a child worker."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from celery import Celery

from builder.broker.app import add_run_task, make_celery, read_queues
from builder.logs import configure
from builder.node.membership import require_membership
from builder.node.worker import WorkerProcess, WorkerRefused
from builder.process import leave_no_core
from builder.settings import Settings


def make_app(settings: Settings, say: TextIO | None = None) -> Celery:
    """The application with this node behind its task. A refusal to start is written to `say`, where there is one."""
    leave_no_core()
    configure()
    node = WorkerProcess(settings, say)
    app = make_celery(settings, node.registration.drop)
    app.conf.worker_pool = "builder.node.pool:Pool"
    read_queues(app, node.queues(), settings.slots)
    add_run_task(app, node.child.handle)
    node.connect_signals()
    return app


def work(settings: Settings) -> int:
    """Be the worker until it ends; the exit code. A SIGHUP starts the command anew, which reads its settings again.

    Raises `BuildError` InvalidRequest without server and token, and what the API refuses this node for.
    """
    require_membership(settings)
    app = make_app(settings)
    try:
        worker = app.Worker(
            hostname=f"{settings.node_id}@{os.uname().nodename}",
            loglevel="WARNING",
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
        )
        worker.start()
    except WorkerRefused as refused:
        raise refused.error from None
    return int(worker.exitcode or 0)


def worker_argv(settings: Settings) -> list[str]:
    """The command line of a worker process, whose settings the environment hands over."""
    options = ["--hostname", f"{settings.node_id}@%h"]
    flags = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    return [sys.executable, "-m", "celery", "--app", "builder.node.celery", "worker", *options, *flags]
