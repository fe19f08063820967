"""`ignite-builder worker`: the Celery worker; which queues and slots it has, `builder/node/celery.py` tells it."""

from __future__ import annotations

import os
import sys

from builder.config import Settings, environment


def work(settings: Settings) -> int:
    """Become the worker process; does not return. Raises `BuildError` InvalidRequest without server and token."""
    os.execve(sys.executable, worker_argv(settings), environment(settings))


def worker_argv(settings: Settings) -> list[str]:
    """The command line of the worker."""
    options = ["--hostname", f"{settings.node_id}@%h"]
    flags = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING"]
    return [sys.executable, "-m", "celery", "--app", "builder.node.celery", "worker", *options, *flags]
