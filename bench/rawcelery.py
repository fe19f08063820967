"""A plain Celery application: what dispatch costs without a store. Its one task writes the time at which it ran."""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

BROKER = os.environ.get("BENCH_REDIS", "redis://127.0.0.1:1/0")
DONE = "bench:done"
app = Celery("bench", broker=BROKER)
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1, task_default_queue="bench")
_redis = redis.Redis.from_url(BROKER)


@app.task(name="bench.noop")  # type: ignore[untyped-decorator]
def noop() -> None:
    """Say when it ran."""
    _redis.rpush(DONE, time.time_ns())
