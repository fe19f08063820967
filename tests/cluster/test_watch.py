"""The watch and the followers on a real API server: cuts, restarts, an adopter, versions that are too old."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from builder.kaniko.manifest import manifest
from builder.kube.api import Api, ClusterRefused, connect
from builder.kube.attend import attend
from builder.kube.ended import Ended
from builder.kube.logs import Cursor, Line
from builder.kube.watch import Watch
from tests.cluster_fixtures import LIMITS, NAMESPACE, Jobs

LINES = 100_000
WRITES = "RUN i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i; [ $((i % 5000)) -ne 0 ] || sleep 1; done\n"
CUTS = (5_000, 20_000, 40_000, 60_000, 80_000)


@asynccontextmanager
async def watching(jobs: Jobs) -> AsyncIterator[tuple[Api, Watch]]:
    """A watcher of its own."""
    api = await connect(str(jobs.watcher))
    watch = Watch(api, NAMESPACE)
    running = asyncio.create_task(watch.run())
    try:
        await asyncio.wait_for(watch.ready(), 180)
        yield api, watch
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await api.close()


@asynccontextmanager
async def created(jobs: Jobs, *made: dict[str, Any]) -> AsyncIterator[None]:
    """Jobs that are deleted behind the block."""
    worker = await connect(str(jobs.worker))
    try:
        for job in made:
            await worker.create("jobs", NAMESPACE, job)
        yield
    finally:
        for job in made:
            await worker.delete("jobs", NAMESPACE, job["metadata"]["name"])
        await worker.close()


def test_a_hundred_thousand_lines_over_five_cuts_come_once_each(jobs: Jobs) -> None:
    """Two cuts are ends of the API server, three are ends of a watcher, whose adopter goes on at the cursor."""
    attempt = jobs.attempt()
    source = jobs.sources.put({"Dockerfile": f"FROM {jobs.debian}\n{WRITES}"})
    job = manifest(jobs.site, attempt, source, LIMITS, jobs.build("lines", has_push_secret=False))
    lines: list[str] = []
    cursors: dict[str, Cursor] = {}
    grown = asyncio.Event()

    async def emit(container: str, batch: Sequence[Line], cursor: Cursor) -> None:
        if container == "kaniko":
            lines.extend(line.text for line in batch)
        cursors[container] = cursor
        grown.set()

    async def reach(count: int) -> None:
        while len(lines) < count:
            grown.clear()
            await grown.wait()

    def restart() -> None:
        jobs.cluster.end_process("apiserver")
        jobs.cluster.start_api_server()

    async def one_watcher(cuts: Sequence[int], last: bool) -> Ended | None:
        async with watching(jobs) as (api, watch):
            attending = asyncio.create_task(
                attend(api, watch, NAMESPACE, attempt.job, emit, cursors=dict(cursors), patience=jobs.patience)
            )
            *inside, end = (*cuts, 0) if last else cuts
            try:
                for count in inside:
                    await asyncio.wait_for(reach(count), 240)
                    await asyncio.to_thread(restart)
                if last:
                    return await asyncio.wait_for(attending, 400)
                await asyncio.wait_for(reach(end), 240)
                assert not attending.done()
                return None
            finally:
                attending.cancel()
                with suppress(asyncio.CancelledError):
                    await attending

    async def scenario() -> tuple[Ended | None, str]:
        async with created(jobs, job):
            await one_watcher(CUTS[:1], last=False)
            await one_watcher(CUTS[1:3], last=False)
            await one_watcher(CUTS[3:4], last=False)
            ended = await one_watcher(CUTS[4:], last=True)
            selector = f"job-name={attempt.job}"
            argv = ("logs", "-n", NAMESPACE, "-l", selector, "-c", "kaniko", "--tail=-1")
            return ended, await asyncio.to_thread(jobs.cluster.kubectl, *argv)

    ended, whole = asyncio.run(scenario())
    assert ended and ended.succeeded, (ended, lines[-20:])
    numbers = [int(line.removeprefix("line ")) for line in lines if line.startswith("line ")]
    assert numbers == list(range(1, LINES + 1))
    assert lines == whole.splitlines(), "the log as one connection reads it"


def test_a_version_that_is_too_old_is_listed_again(jobs: Jobs) -> None:
    async def scenario() -> None:
        async with watching(jobs) as (api, watch):
            with pytest.raises(ClusterRefused) as refused:
                async for _ in api.watch("jobs", NAMESPACE, "1", ""):
                    break
            assert refused.value.code == 410
            second = Watch(api, NAMESPACE)
            second.jobs._version = "1"
            running = asyncio.create_task(second.run())
            await asyncio.wait_for(second.ready(), 180)
            assert (second.jobs.lists, watch.jobs.lists) == (1, 1)
            assert second.jobs.items.keys() == watch.jobs.items.keys()
            running.cancel()

    asyncio.run(scenario())
