"""One list and watch for all Jobs of a namespace and their pods, however many builds there are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from builder.errors import BuildError, PlatformError
from builder.kube.api import UNAUTHORIZED, Api, ClusterRefused
from builder.kube.job import SELECTOR

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
GONE = 410
UNAUTHORIZED_S = 60.0
"""How long a credential may be refused without an answer between: a server that starts knows none for some seconds."""
NEXT = "Renew the credential in kubeconfig, or what its plugin or provider gets it with; then start this process again."
JOB_OF = "batch.kubernetes.io/job-name"
"""The label by which the Job controller ties a pod to its Job."""


@dataclass
class Mirror:
    """The objects of one kind as the API has them. `changed` is called with each name whose object is another one."""

    api: Api
    kind: str
    namespace: str
    changed: Callable[[str], None]
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_current: asyncio.Event = field(default_factory=asyncio.Event)
    lists: int = 0
    """How often it was listed: once, and again after each outage and each version that was too old."""

    unavailable: PlatformError | ClusterRefused | None = None
    """Why it is not current, when it is not."""

    _version: str = ""
    _relist_s: float = 0.0
    """The pause before the next list after a version that was too old. It grows while no watch has any event: a server
    whose lists are as old as the versions that it refuses would be asked for whole lists without an end."""

    _refused_at: float | None = None
    """Since when the credential is refused."""

    async def run(self) -> None:
        """Follow for ever. An outage is waited out and then listed: what is known meanwhile is old, as `is_current`
        says. Raises `BuildError` ClusterUnavailable when the credential stays refused: whoever starts this process
        again may have another."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                if not self._version:
                    await self._list()
                    pause, self._refused_at = FIRST_PAUSE_S, None
                await self._watch()
            except (ClusterRefused, PlatformError) as error:
                self._version = ""
                self.is_current.clear()
                self.unavailable = error
                self._judge(error)
                if isinstance(error, ClusterRefused) and error.code == GONE:
                    await asyncio.sleep(self._relist_s)
                    self._relist_s = min(max(2 * self._relist_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
                    continue
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _judge(self, error: ClusterRefused | PlatformError) -> None:
        if not isinstance(error, ClusterRefused) or error.code != UNAUTHORIZED:
            self._refused_at = None
            return
        now = time.monotonic()
        self._refused_at = now if self._refused_at is None else self._refused_at
        if now - self._refused_at >= UNAUTHORIZED_S:
            message = f"the Kubernetes API refuses the credential of this process: {error}"
            raise BuildError("ClusterUnavailable", message, next=NEXT) from error

    async def _list(self) -> None:
        answer = await self.api.list(self.kind, self.namespace, labelSelector=SELECTOR)
        self.lists += 1
        found = {item["metadata"]["name"]: item for item in answer["items"]}
        for name in self.items.keys() - found.keys():
            del self.items[name]
            self.changed(name)
        for name, item in found.items():
            self._put(name, item)
        self._version = str(answer["metadata"]["resourceVersion"])
        self.unavailable = None
        self.is_current.set()

    async def _watch(self) -> None:
        """Until the server ends it, which it does every few minutes."""
        async with aclosing(self.api.watch(self.kind, self.namespace, self._version, SELECTOR)) as events:
            async for what, item in events:
                self._version, self._relist_s = item["metadata"]["resourceVersion"], 0.0
                name = item["metadata"].get("name", "")
                if what == "DELETED":
                    self.items.pop(name, None)
                    self.changed(name)
                elif what != "BOOKMARK":
                    self._put(name, item)

    def _put(self, name: str, item: dict[str, Any]) -> None:
        item["metadata"].pop("managedFields", None)  # half of an object's size, and nobody reads it
        known = self.items.get(name)
        self.items[name] = item
        if known is None or known["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
            self.changed(name)


class Watch:
    """All Jobs of ours in a namespace, with their pods."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.jobs = Mirror(api, "jobs", namespace, self._wake)
        self.pods = Mirror(api, "pods", namespace, self._pod_changed)
        self._waiting: dict[str, asyncio.Event] = {}
        self._pods_of: dict[str, set[str]] = {}
        self._job_of: dict[str, str] = {}

    async def run(self) -> None:
        """Follow both for ever. Raises as a mirror does, in a group."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.jobs.run())
            group.create_task(self.pods.run())

    async def ready(self) -> None:
        """Wait until both are as the API has them."""
        await self.jobs.is_current.wait()
        await self.pods.is_current.wait()

    def look(self, job: str) -> tuple[Mapping[str, Any] | None, list[Mapping[str, Any]]]:
        """A Job and its pods, as far as is known."""
        return self.jobs.items.get(job), [self.pods.items[name] for name in sorted(self._pods_of.get(job, ()))]

    def subscribe(self, job: str) -> asyncio.Event:
        """An event that is set whenever something of this Job changes; its one owner clears it before looking."""
        return self._waiting.setdefault(job, asyncio.Event())

    def unsubscribe(self, job: str) -> None:
        """Nobody waits for this Job any more."""
        self._waiting.pop(job, None)

    def _wake(self, job: str) -> None:
        if event := self._waiting.get(job):
            event.set()

    def _pod_changed(self, name: str) -> None:
        pod = self.pods.items.get(name)
        if pod is None:
            job = self._job_of.pop(name, "")
            names = self._pods_of.get(job, set())
            names.discard(name)
            if not names:
                self._pods_of.pop(job, None)
        else:
            job = pod["metadata"].get("labels", {}).get(JOB_OF, "")
            self._job_of[name] = job
            self._pods_of.setdefault(job, set()).add(name)
        self._wake(job)
