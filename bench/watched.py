"""One watcher with a hundred Jobs: its memory above that with one, its threads, and its share of a core.

The Jobs are builds of the service whose executor only sleeps and prints, so that the watcher's work is all that is
measured: a list and watch, a hundred followed logs, the lines that it stores, the heartbeats.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench.on_cluster import on_cluster
from bench.results import NO_TARGET, Row, judged
from bench.servers import cpu_s
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.images.image import ImageConfig, build_image
from tests.build_fixtures import until
from tests.cluster import images
from tests.cluster.service import Service, served
from tests.cluster_fixtures import NAMESPACE, Jobs

COUNT = 100
SETTLES_S, MEASURED_S = 10, 60
PATIENCE_S = 900
LINE_EVERY_S = 10
MOST_MIB, MOST_THREADS = 40, 20
MIB = 1024 * 1024
SLEEPS = f"echo sleeping; while sleep {LINE_EVERY_S}; do date; done"


def measure(
    _: int, *, opened: Callable[[], AbstractContextManager[tuple[Jobs, Path]]] = on_cluster
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """A minute with one Job, then a minute with all of them, of the same watcher. No rounds."""
    with opened() as (jobs, folder), ExitStack() as stack:
        layers = images.debian_base().layers
        executor = build_image(None, layers, ImageConfig(entrypoint=("/bin/sh", "-c", SLEEPS), user="", ports=()))
        settings = {
            "KANIKO_EXECUTOR": images.push(jobs.cluster.registry, "test/sleeps", executor),
            "CPUS": "0.01",
            "MEMORY_BYTES": str(64 * MIB),
            "DISK_BYTES": str(64 * MIB),
            "TIMEOUT_MS": "3600000",
            "SLOTS": "2",
        }
        service = stack.enter_context(served(jobs, folder))
        stack.enter_context(_deleted(service))
        stack.enter_context(service.worker("bench-worker", **settings))
        watcher = stack.enter_context(service.watcher("bench-watcher"))
        follow_more(service, 1)
        one = observed(watcher.pid)
        follow_more(service, COUNT - 1)
        many = observed(watcher.pid)
    return rows(one, many)


Observed = tuple[list[int], list[int], float]
"""Resident bytes and threads of each second, and the share of one core in all of them."""


def rows(one: Observed, many: Observed) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The table of a minute with one Job and a minute with all of them."""
    above = (max(many[0]) - max(one[0])) / MIB
    threads = max(many[1])
    least = (min(many[0]) - max(one[0])) / MIB
    return (
        Row(
            what=f"{COUNT} Jobs: memory above that with 1",
            target=f"≤ {MOST_MIB} MiB",
            measured=f"{above:.1f} MiB",
            spread=f"{least:.1f}–{above:.1f} MiB, judged at its most",
            pairs=1,
            verdict=judged(above, MOST_MIB),
            raw=tuple(float(value) for value in many[0]),
        ),
        Row(
            what=f"{COUNT} Jobs: threads",
            target=f"≤ {MOST_THREADS}",
            measured=str(threads),
            spread="the most of a minute",
            pairs=1,
            verdict=judged(threads, MOST_THREADS),
        ),
        Row(
            what=f"{COUNT} Jobs: one core",
            target=NO_TARGET,
            measured=f"{many[2] * 100:.2f} %",
            spread=f"over {MEASURED_S} s",
            pairs=1,
            verdict=NO_TARGET,
        ),
    ), (f"With 1 Job: {max(one[0]) / MIB:.1f} MiB resident, {max(one[1])} threads, {one[2] * 100:.2f} % of a core",)


def follow_more(service: Service, count: int) -> None:
    """Submit so many builds; return when the watcher has adopted each."""
    name = f"sleeps-{count}"
    built = [
        service.submit(f"{name}-{number}", {"Dockerfile": "FROM scratch\nCOPY x /\n", "x": f"{name}-{number}"})
        for number in range(count)
    ]
    for build_id in built:
        if not until(partial(_is_followed, service, build_id), PATIENCE_S):
            raise RuntimeError(f"a Job is not followed: {service.trouble(build_id)}")


def _is_followed(service: Service, build_id: str) -> bool:
    build = service.get(build_id)
    if build.status >= pb.BUILD_STATUS_SUCCEEDED:
        raise RuntimeError(f"a Job that sleeps has ended: {build.failure}")
    return build.stage == pb.BUILD_STAGE_JOB and bool(build.watcher)


def observed(pid: int) -> Observed:
    """A minute of a process."""
    time.sleep(SETTLES_S)
    memory, threads = list[int](), list[int]()
    began, used = time.monotonic(), cpu_s(pid)
    while time.monotonic() - began < MEASURED_S:
        resident = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        memory.append(resident * os.sysconf("SC_PAGE_SIZE"))
        threads.append(len(os.listdir(f"/proc/{pid}/task")))
        time.sleep(1)
    return memory, threads, (cpu_s(pid) - used) / (time.monotonic() - began)


@contextmanager
def _deleted(service: Service) -> Iterator[None]:
    """The Jobs go when nobody makes or follows them any more; the cluster may be someone's that stays."""
    try:
        yield
    finally:
        if names := service.job_names():
            service.jobs.cluster.kubectl("delete", "jobs", "-n", NAMESPACE, "--cascade=foreground", *names)
