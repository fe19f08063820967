"""One Job to its end: its containers' logs as they come, then how it ended. For whoever owns a build in stage JOB."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Any

from builder.errors import PlatformError
from builder.kube.api import Api, ClusterRefused
from builder.kube.ended import USUAL, Ended, Patience, Running, State, state_of
from builder.kube.follow import follow
from builder.kube.job import SELECTOR
from builder.kube.logs import Cursor, Line
from builder.kube.watch import JOB_OF, Watch

LOOK_S = 5.0
"""How often a Job is looked at when nothing of it changes, for what only time decides."""

DRAIN_S = 30.0
"""How long the cluster is waited for with the rest of the log after the end; storing it does not count."""

DRAIN_LOOK_S = 1.0
ENDS = frozenset({"Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"})
"""Conditions of a Job that has an end."""

Emit = Callable[[str, Sequence[Line], Cursor], Awaitable[None]]
"""Gets a container's name, its new lines, and the cursor behind them; what it has stored is never passed again."""


async def attend(
    api: Api,
    watch: Watch,
    namespace: str,
    job: str,
    emit: Emit,
    *,
    cursors: Mapping[str, Cursor] | None = None,
    patience: Patience = USUAL,
    waits: Callable[[str], None] = lambda words: None,
) -> Ended:
    """Follow a Job whose creation was marked until it ends. `cursors` are where an earlier owner stopped, by container;
    `waits` gets what the Job waits for, once for each new text.

    A Job that ends in a way that leaves it running (an image that cannot be pulled, no node) is the caller's to delete.
    """
    followers: dict[str, asyncio.Task[None]] = {}
    ends: dict[str, asyncio.Event] = {}
    emitting: set[str] = set()
    changed = watch.subscribe(job)
    words = ""

    def copy_all(pods: Sequence[Mapping[str, Any]]) -> None:
        """Follow each container that has a log and is not followed yet; note which have ended."""
        for pod, container in ((each, name) for each in pods for name in started(each)):
            name = pod["metadata"]["name"]
            one = f"{name}/{container}"
            if one not in followers:
                start, ends[one] = (cursors or {}).get(container, Cursor()), asyncio.Event()
                copying = _copy(api, watch, namespace, name, container, start, emit, emitting, ends[one])
                followers[one] = asyncio.create_task(copying)
            if container in _ended(pod):
                ends[one].set()

    try:
        while True:
            changed.clear()
            found, pods = watch.look(job)
            copy_all(pods)
            state, shown = await _state(api, watch, namespace, job, found, pods, patience)
            if isinstance(state, Ended):
                copy_all(shown)  # of an end that the watch has not heard of yet
                await _drain(followers.values(), emitting)
                for task in followers.values():
                    if task.done():
                        task.result()
                return state
            if state.words and state.words != words:
                words = state.words
                waits(words)
            with suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), LOOK_S)
    finally:
        for task in followers.values():
            task.cancel()
        await asyncio.gather(*followers.values(), return_exceptions=True)
        watch.unsubscribe(job)


async def _state(
    api: Api,
    watch: Watch,
    namespace: str,
    job: str,
    found: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    patience: Patience,
) -> tuple[State, Sequence[Mapping[str, Any]]]:
    """How it stands, and the pods that show it. What the watch does not know is asked for, and so is an end before it
    is one: Jobs and pods come by two connections, either of which may be old."""
    events: Sequence[Mapping[str, Any]] = ()
    try:
        if found is None:
            await watch.ready()
            found = await api.get("jobs", namespace, job)
        elif not pods and not _has_end(found):
            named = f"involvedObject.kind=Job,involvedObject.name={job}"
            events = (await api.list("events", namespace, fieldSelector=named))["items"]
        state = state_of(found, pods, now=time.time(), patience=patience, events=events)
        if isinstance(state, Ended) or _near_end(found, pods):
            found, pods = await _live(api, namespace, job, found, pods)
            state = state_of(found, pods, now=time.time(), patience=patience, events=events)
    except PlatformError as error:
        state = Running(words=error.message)
    except ClusterRefused as refused:
        # A server that is overloaded or starts, or a right that is missing: no end of a Job.
        state = Running(words=f"the cluster does not answer for it: {refused}")
    return state, pods


async def _live(
    api: Api, namespace: str, job: str, found: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any] | None, Sequence[Mapping[str, Any]]]:
    """A Job and its pods as the API has them now. What ended in view and is deleted since counts as it was seen."""
    live: Mapping[str, Any] | None = await api.get("jobs", namespace, job)
    now = await live_pods(api, namespace, job)
    names = {one["metadata"]["name"] for one in now}
    gone = [one for one in pods if one["metadata"]["name"] not in names]
    if live is None and (_has_end(found) or any(map(_is_over, gone))):
        live = found
    # A Job deletes its pod at its deadline: the last view of it shows whether it began.
    late = any(one.get("reason") == "DeadlineExceeded" for one in _conditions(live))
    return live, [*now, *(one for one in gone if late or _is_over(one))]


async def live_pods(api: Api, namespace: str, job: str) -> list[dict[str, Any]]:
    """The pods of a Job as the API has them now. Raises `ClusterRefused`, `PlatformError`."""
    found: list[dict[str, Any]] = (await api.list("pods", namespace, labelSelector=f"{SELECTOR},{JOB_OF}={job}"))[
        "items"
    ]
    return found


async def is_gone(api: Api, namespace: str, pod: str) -> bool:
    """Whether the API has this pod no more. A view may be late both ways, so it is asked; no answer: not that it is."""
    try:
        return not (await api.list("pods", namespace, fieldSelector=f"metadata.name={pod}"))["items"]
    except (PlatformError, ClusterRefused):
        return False


def _near_end(found: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> bool:
    """Whether one of both views shows an end, and the other may be late."""
    return _has_end(found) or (bool(pods) and all(map(_is_over, pods)))


def _has_end(job: Mapping[str, Any] | None) -> bool:
    return any(one["type"] in ENDS for one in _conditions(job))


def _conditions(job: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    found = job.get("status", {}).get("conditions", ()) if job else ()
    return [one for one in found if one["status"] == "True"]


def _is_over(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") in ("Failed", "Succeeded")


async def _drain(followers: Collection[asyncio.Task[None]], emitting: Collection[str]) -> None:
    """Wait for the followers, but no longer for a cluster that gives no lines than `DRAIN_S`."""
    left, pending = DRAIN_S, set(followers)
    while pending and left > 0:
        _, pending = await asyncio.wait(pending, timeout=DRAIN_LOOK_S)
        left -= 0 if emitting else DRAIN_LOOK_S


async def _copy(
    api: Api,
    watch: Watch,
    namespace: str,
    pod: str,
    container: str,
    cursor: Cursor,
    emit: Emit,
    emitting: set[str],
    ended: asyncio.Event,
) -> None:
    """The lines of one container; its name is in `emitting` while a batch of them is stored."""

    seen = False

    def is_over() -> bool:
        nonlocal seen
        found = watch.pods.items.get(pod)
        seen = seen or found is not None
        # One that the watch has not heard of is no pod that is gone: whoever asked the API for it knows its end.
        return seen if found is None else container in _ended(found)

    gone = partial(is_gone, api, namespace, pod)
    async with aclosing(follow(api, namespace, pod, container, cursor, is_over, gone, ended)) as batches:
        async for lines, behind in batches:
            emitting.add(container)
            try:
                await emit(container, lines, behind)
            finally:
                emitting.discard(container)


def _states(pod: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    groups = (pod["status"].get(name, ()) for name in ("initContainerStatuses", "containerStatuses"))
    return {one["name"]: one["state"] for group in groups for one in group}


def started(pod: Mapping[str, Any]) -> list[str]:
    """The containers of a pod that have a log."""
    return [name for name, state in _states(pod).items() if "running" in state or "terminated" in state]


def _ended(pod: Mapping[str, Any]) -> list[str]:
    return [name for name, state in _states(pod).items() if "terminated" in state]
