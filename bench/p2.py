"""P2: dispatch. From the commit of PENDING to the claim, idle, beside a plain Celery task on the same Redis."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import redis

from bench import projects
from bench.pairs import spread
from bench.results import Row, p95_row, ratio_row, time_row
from bench.servers import Place, ServerHere, place
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.local.embedded import end
from builder.store import builds

SAMPLES_FACTOR = 8
MOST_MS, MOST_P95_MS, MOST_RATIO = 10, 25, 2.0
PAUSE_S = 0.1
LOOK_S = 0.2


def measure(
    rounds: int, *, opened: Callable[[], AbstractContextManager[Place]] = place
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """All of P2, at concurrency 2; build and task take turns."""
    ours: list[float] = []
    raw: list[float] = []
    project = projects.read("python-small")
    with opened() as here, here.server("p2", slots=2) as server:
        url = server.running.control.settings.redis_url
        with plain_worker(url) as delay:
            for number in range(2 + rounds * SAMPLES_FACTOR):
                took = dispatched(server, project.archive(number))
                time.sleep(PAUSE_S)
                plain = delay()
                time.sleep(PAUSE_S)
                if number >= 2:
                    ours.append(took)
                    raw.append(plain)
    found, bare = spread(ours), spread(raw)
    ratio = [found.median / bare.median]
    rows = (
        time_row("PENDING → claim", found, ours, MOST_MS),
        p95_row("PENDING → claim, 95th percentile", found, MOST_P95_MS),
        time_row("plain Celery, delay → body", bare, raw, None),
        ratio_row("PENDING → claim / plain Celery, of the medians", spread(ratio), ratio, MOST_RATIO),
    )
    return rows, ()


def dispatched(server: ServerHere, archive: bytes) -> float:
    """Seconds from the commit of a build to its claim, by the store's clock (whole ms). Nobody asks meanwhile."""
    request = pb.CreateBuildRequest(name="dispatched", no_cache=True)
    request.code.compile.archive = archive
    request.code.compile.runtime.python.SetInParent()
    build_id = server.api.call("CreateBuild", request).build_id
    while True:
        time.sleep(LOOK_S)
        row: Any = builds.by_id(server.running.control.store, build_id)
        if row["status"] == "SUCCEEDED":
            return float(row["started_at"] - row["queued_at"]) / 1000
        if row["status"] in ("FAILED", "CANCELLED"):
            raise RuntimeError(f"the build ended {row['status']}: {row['failure']}")


@contextmanager
def plain_worker(url: str) -> Iterator[Callable[[], float]]:
    """A plain Celery worker; yields what measures one task: seconds from its `delay` to its body."""
    os.environ["BENCH_REDIS"] = url
    from bench import rawcelery

    rawcelery.app.conf.broker_url = url
    argv = (sys.executable, "-m", "celery", "-A", "bench.rawcelery", "worker", "-c", "2", "--loglevel", "ERROR")
    worker = subprocess.Popen(argv, env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with redis.Redis.from_url(url) as client:

            def delay() -> float:
                began = time.time_ns()
                rawcelery.noop.delay()
                answer: Any = client.blpop([rawcelery.DONE], timeout=60)
                return (int(answer[1]) - began) / 1e9

            yield delay
    finally:
        end(worker, 10)
