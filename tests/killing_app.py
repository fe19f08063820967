"""`builder.node.celery` with a fault: a pool process is killed when the worker is ready, before its first message."""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import signals

from builder.node.celery import app

__all__ = ["app"]


@signals.worker_ready.connect(weak=False)  # type: ignore[untyped-decorator]
def kill(sender: Any, **_: object) -> None:
    child = sender.pool._pool._pool[0].pid
    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # dead, and left for the pool to find
    print(f"killed {child}", flush=True)
