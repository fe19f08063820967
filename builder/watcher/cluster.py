"""A namespace of the cluster as a watcher uses it: logs, ends and deletions of its Jobs."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from builder.errors import PlatformError
from builder.kube.api import Api, ClusterRefused
from builder.kube.attend import Emit, attend, is_gone, live_pods, started
from builder.kube.ended import USUAL, Ended, Patience, seconds_of
from builder.kube.follow import read_so_far
from builder.kube.job import ATTEMPT, BUILD
from builder.kube.logs import Cursor, Line
from builder.kube.watch import Watch
from builder.logs import logger

log = logger("watcher")

READY_LOOK_S = 30.0
"""How often a namespace that is not seen is a line of the log."""

MOST_OWN_LINES = 20_000
"""The most of a tool's own lines in a container's log that are kept to explain an end."""

MOST_CHARACTERS = 4 * 1024 * 1024
"""Characters of a tool's own lines, and of the last ones. A program writes either, each as long as a line may be."""

MOST_BEHIND = 1024 * 1024
"""Characters of a container's log that are stored before its build is caught up with; what is behind them comes with
the rest of the log. A build that writes without end would keep its watcher from every other."""

ATTEMPTS = re.compile(r"[0-9]{1,18}")
"""The label of an attempt. Whoever may create Jobs writes it: a number that no message holds is none."""

CATCH_UP_TRIES, EXPLAIN_TRIES = 3, 8
"""To read a log that does not come. What is not caught up with is followed; an end without its words is an end."""


@dataclass(frozen=True, kw_only=True)
class SeenJob:
    """A Job of ours as the watch has it. `age_s` by this machine's clock."""

    name: str
    uid: str
    build_id: str
    attempt: int
    age_s: float


class Cluster(Protocol):
    """What a watcher asks of a cluster. What breaks on the way is waited out, or `PlatformError`."""

    namespace: str

    async def ready(self) -> None:
        """Wait until the view of the cluster is current."""
        ...

    def has_view(self) -> bool:
        """Whether the view of the cluster is current."""
        ...

    async def so_far(self, job: str, cursors: Mapping[str, Cursor], emit: Emit) -> None:
        """Emit what the Job's containers wrote until now, behind their cursors: the first MiB of each."""
        ...

    async def attend(
        self, job: str, cursors: Mapping[str, Cursor], emit: Emit, waits: Callable[[str], None]
    ) -> Ended: ...

    async def explaining(self, job: str, container: str, is_own: Callable[[str], bool], output_lines: int) -> list[str]:
        """The lines of an ended container's log that explain its end: the tool's own, and the last ones behind them;
        none where the log is gone."""
        ...

    async def delete(self, job: str, uid: str = "") -> None: ...

    def began_ms(self, job: str) -> int:
        """When the Job was created, in ms since the epoch; 0 where it is not there."""
        ...

    def seen(self) -> Iterator[SeenJob]:
        """All Jobs of ours; none while the view of the cluster is old."""
        ...


class _Tail:
    """The last lines of many: at most so many of them, and of their characters."""

    def __init__(self, most: int) -> None:
        self.lines: deque[str] = deque()
        self._most, self._size = most, 0

    def append(self, line: str) -> None:
        self.lines.append(line)
        self._size += len(line)
        while len(self.lines) > self._most or self._size > MOST_CHARACTERS:
            self._size -= len(self.lines.popleft())


@dataclass(kw_only=True)
class KubeCluster:
    """A namespace of a real cluster, through one list and watch."""

    api: Api
    watch: Watch
    namespace: str
    patience: Patience = USUAL

    async def ready(self) -> None:
        while True:
            try:
                await asyncio.wait_for(self.watch.ready(), READY_LOOK_S)
                return
            except TimeoutError:
                why = self.watch.jobs.unavailable or self.watch.pods.unavailable
                log.warning("a namespace is not seen", action="view-missing", namespace=self.namespace, why=str(why))

    def has_view(self) -> bool:
        return self.watch.jobs.is_current.is_set() and self.watch.pods.is_current.is_set()

    async def so_far(self, job: str, cursors: Mapping[str, Cursor], emit: Emit) -> None:
        await self.watch.ready()
        for pod in self.watch.look(job)[1]:
            name = pod["metadata"]["name"]
            for container in started(pod):
                cursor = cursors.get(container, Cursor())
                async with aclosing(self._so_far(name, container, cursor, CATCH_UP_TRIES)) as batches:
                    left = MOST_BEHIND
                    async for lines, behind in batches:
                        await emit(container, lines, behind)
                        left -= sum(len(line.text) + 1 for line in lines)
                        if left <= 0:
                            break

    async def attend(self, job: str, cursors: Mapping[str, Cursor], emit: Emit, waits: Callable[[str], None]) -> Ended:
        return await attend(
            self.api,
            self.watch,
            self.namespace,
            job,
            emit,
            cursors=cursors,
            patience=self.patience,
            waits=waits,
        )

    async def explaining(self, job: str, container: str, is_own: Callable[[str], bool], output_lines: int) -> list[str]:
        own, output = _Tail(MOST_OWN_LINES), _Tail(output_lines)
        try:
            pods: Sequence[Mapping[str, Any]] = await live_pods(self.api, self.namespace, job)
        except (PlatformError, ClusterRefused):
            pods = self.watch.look(job)[1]
        for pod in pods:
            if container not in started(pod):
                continue
            name = pod["metadata"]["name"]
            async with aclosing(self._so_far(name, container, Cursor(), EXPLAIN_TRIES)) as batches:
                async for lines, _ in batches:
                    for line in lines:
                        if not is_own(line.text):
                            output.append(line.text)
                        else:
                            output = _Tail(output_lines)
                            own.append(line.text)
        return [*own.lines, *output.lines]

    def _so_far(
        self, pod: str, container: str, cursor: Cursor, tries: int
    ) -> AsyncGenerator[tuple[list[Line], Cursor], None]:
        gone = partial(is_gone, self.api, self.namespace, pod)
        return read_so_far(self.api, self.namespace, pod, container, cursor, tries, gone)

    async def delete(self, job: str, uid: str = "") -> None:
        try:
            await self.api.delete("jobs", self.namespace, job, uid=uid)
        except ClusterRefused as refused:
            raise PlatformError("ClusterUnavailable", f"the Job {job} cannot be deleted: {refused.message}") from None

    def began_ms(self, job: str) -> int:
        found, _ = self.watch.look(job)
        return int(seconds_of(found["metadata"]["creationTimestamp"]) * 1000) if found else 0

    def seen(self) -> Iterator[SeenJob]:
        if not self.watch.jobs.is_current.is_set():
            return
        now = time.time()
        for name, item in list(self.watch.jobs.items.items()):
            labels = item["metadata"].get("labels", {})
            if not ATTEMPTS.fullmatch(labels.get(ATTEMPT, "")) or item["metadata"].get("deletionTimestamp"):
                continue
            yield SeenJob(
                name=name,
                uid=item["metadata"]["uid"],
                build_id=labels.get(BUILD, ""),
                attempt=int(labels[ATTEMPT]),
                age_s=now - seconds_of(item["metadata"]["creationTimestamp"]),
            )
