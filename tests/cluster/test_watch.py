"""The watch and the followers on a real API server: cuts, restarts, an adopter, versions that are too old."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from builder.kaniko.manifest import manifest
from builder.kube.api import Api, ClusterRefused, connect
from builder.kube.attend import attend
from builder.kube.ended import Ended
from builder.kube.logs import Cursor, Line
from builder.kube.watch import Watch
from builder.watcher.build import cursor_of, cursor_record
from tests.cluster import pods
from tests.cluster_fixtures import LIMITS, NAMESPACE, Jobs

LINES = 100_000
WRITES = "RUN i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i; [ $((i % 5000)) -ne 0 ] || sleep 1; done\n"
BULK = 11_000
"""Lines of a thousand characters: more than the 10 MiB behind which a node begins a new file."""

ROTATES = (
    'RUN : {mark}; pad=$(head -c 1000 /dev/zero | tr "\\0" x); i=0; '
    f"while [ $i -lt {BULK} ]; do i=$((i+1)); echo line $i $pad; done; "
    "while [ ! -e /tmp/enough ]; do i=$((i+1)); echo line $i; sleep 0.05; done\n"
)
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


def numbers(texts: Sequence[str]) -> list[int]:
    """Those of the lines that count."""
    return [int(found[1]) for text in texts if (found := re.match(r"line (\d+)\b", text))]


def newest_file(jobs: Jobs, pod: dict[str, Any]) -> list[int]:
    """What the node's file of this pod's log has since a new one was begun; nothing before."""
    name = "_".join((NAMESPACE, pod["metadata"]["name"], pod["metadata"]["uid"]))
    folder = jobs.cluster.folder / "node/logs" / name / "kaniko"
    if not any(path.name != "0.log" for path in folder.glob("0.log*")):
        return []
    with suppress(FileNotFoundError):  # between the two files there is none
        lines = Path(folder, "0.log").read_text(encoding="utf-8").splitlines(keepends=True)
        return numbers([line.split(" ", 3)[-1] for line in lines if line.endswith("\n")])
    return []


def test_an_adopter_misses_and_doubles_no_line_of_a_file_that_the_node_has_just_begun(jobs: Jobs) -> None:
    """The cut comes with the first lines of the new file: within the second of the last ones of the old file."""
    attempt, mark = jobs.attempt(), uuid.uuid4().hex
    source = jobs.sources.put({"Dockerfile": f"FROM {jobs.debian}\n{ROTATES.format(mark=mark)}"})
    job = manifest(jobs.site, attempt, source, LIMITS, jobs.build("rotated", has_push_secret=False))
    first: list[str] = []
    second: list[str] = []
    cursors: dict[str, Cursor] = {}

    async def follow(lines: list[str], cut: Callable[[Watch], bool] | None = None) -> Ended | None:
        async def emit(container: str, batch: Sequence[Line], cursor: Cursor) -> None:
            if container == "kaniko":
                lines.extend(line.text for line in batch)
            cursors[container] = cursor_of(cursor_record(cursor, takes_newest=True))

        async with watching(jobs) as (api, watch):
            attending = asyncio.create_task(
                attend(api, watch, NAMESPACE, attempt.job, emit, cursors=dict(cursors), patience=jobs.patience)
            )
            try:
                async with asyncio.timeout(400):
                    while cut is not None and not cut(watch):
                        assert not attending.done(), attending
                        await asyncio.sleep(0.02)
                    return None if cut else await attending
            finally:
                attending.cancel()
                with suppress(asyncio.CancelledError):
                    await attending

    def has_begun(watch: Watch) -> bool:
        found = watch.look(attempt.job)[1]
        fresh = newest_file(jobs, dict(found[0])) if found else []
        return bool(fresh) and fresh[0] in numbers(first[-500:])

    async def scenario() -> tuple[Ended | None, list[int]]:
        async with created(jobs, job):
            assert await follow(first, has_begun) is None
            (root, *_) = pods.roots_of(mark)
            (root / "tmp/enough").touch()
            ended = await follow(second)
            async with watching(jobs) as (_, watch):
                (pod,) = watch.look(attempt.job)[1]
                return ended, newest_file(jobs, dict(pod))

    ended, fresh = asyncio.run(scenario())
    assert ended and ended.succeeded, (ended, second[-20:])
    before, after = numbers(first), numbers(second)
    assert before == sorted(set(before)) and before[-1] >= fresh[0]
    assert after == [number for number in fresh if number > before[-1]], (before[-3:], after[:3])


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
            assert second.jobs.lists, "what it watched from is too old"
            async with asyncio.timeout(300):  # a Job of the test before may go meanwhile, in one view first
                while second.jobs.items.keys() != watch.jobs.items.keys():
                    await asyncio.sleep(0.05)
            running.cancel()

    asyncio.run(scenario())
