"""How a Job stands, from the objects of the API: going on, or which end of those that a build distinguishes. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from builder.errors import REASONS
from builder.kube.job import FETCH, ORGANIZATION, OWN_LIMITS, SOURCE_VOLUME
from builder.text import strangers_json

Object = Mapping[str, Any]
IMAGE_TROUBLE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "ErrInvalidImage",
    }
)
START_TROUBLE = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
STORAGE_WORDS = ("Pod ephemeral local storage usage exceeds", "exceeded its local ephemeral storage limit")
FULL_VOLUME = re.compile(r'Usage of EmptyDir volume "([^"]*)" exceeds the limit "([^"]*)"')
"""These three are the kubelet's words for a pod that it evicts for its own limits (pkg/kubelet/eviction, v1.34)."""


_LIMITS_OF: Mapping[str, tuple[str, ...]] = {
    "OutOfMemory": ("memory_bytes",),
    "DiskQuotaExceeded": ("disk_bytes",),
    "Timeout": ("timeout_ms",),
    "Unschedulable": ("cpus", "memory_bytes", "disk_bytes"),
}
"""Reason of an end → the settings that may decide it."""

FAIR_S = 60
"""Seconds in which a node, a source store and a registry that work let a build's own code begin. Of one whose time is
over before that none is to blame."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long what may mend itself is waited for, in seconds."""

    schedule_s: float = 300.0
    image_s: float = 60.0
    start_s: float = 600.0
    """From a node to the first container: volumes, and the image of that container."""


USUAL = Patience()


@dataclass(frozen=True, kw_only=True)
class Running:
    """The Job goes on. `words` names what it waits for, when it waits."""

    words: str = ""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The Job's end. `reason` is of `builder/errors.py`, empty for success; `said` is the container's own report.

    Of a Timeout `container` is the one that it ended, and `ran_ms` how long that one had run, where that is known.
    """

    reason: str = ""
    message: str = ""
    container: str = ""
    exit_code: int = 0
    said: str = ""
    limit: int = 0
    peak: int = 0
    ran_ms: int = 0

    @property
    def succeeded(self) -> bool:
        return not self.reason


State = Running | Ended


def state_of(
    job: Object | None,
    pods: Sequence[Object],
    *,
    now: float,
    patience: Patience = USUAL,
    events: Iterable[Object] = (),
) -> State:
    """How a Job stands whose creation was marked. `pods` are those of the Job, `events` its own (with their messages);
    `now` is in seconds since the epoch.

    A later cause hides no earlier one: of a pod that was killed since its Job ran out of time, the time is the reason.
    """
    state = _state_of(job, pods, now, patience, events)
    return _with_own_limit(job, state) if job is not None and isinstance(state, Ended) else state


def _with_own_limit(job: Object, ended: Ended) -> Ended:
    """The end; one at a limit that its organization has for itself names the setting."""
    metadata = job["metadata"]
    own = str(metadata.get("annotations", {}).get(OWN_LIMITS, "")).split(",")
    named = [name for name in _LIMITS_OF.get(ended.reason, ()) if name in own]
    if not named:
        return ended
    organization = metadata.get("labels", {}).get(ORGANIZATION, "")
    words = f"{ended.message}; {', '.join(named)} of job_resources for {organization} decides it"
    return replace(ended, message=words)


def _state_of(
    job: Object | None, pods: Sequence[Object], now: float, patience: Patience, events: Iterable[Object]
) -> State:
    if job is None:
        return Ended(reason="JobVanished", message="the build's Job is not in the cluster any more")
    pod = max(pods, key=lambda one: str(one["metadata"].get("creationTimestamp", "")), default=None)
    condition = _job_condition(job)
    if condition and condition["type"] in ("Complete", "SuccessCriteriaMet"):
        # The second comes while the pod is still counted; both are final. The pod may be known later than its Job.
        last = next(_terminated(pod), None) if pod else None
        if pod and last is None:
            return Running(words="its pod ends")
        return Ended(said=last[1].get("message", "").strip() if last else "")
    if condition and condition.get("reason") == "DeadlineExceeded":
        return _overdue(pod, int(job["spec"]["activeDeadlineSeconds"]), str(condition.get("lastTransitionTime", "")))
    if condition:
        # Not before: a pod that its own Job ends for its deadline looks like one that somebody deleted.
        if pod is not None and (ended := _pod_end(pod)):
            return ended
        words = condition.get("message") or condition.get("reason", "")
        if pod is None:
            return Ended(reason="Evicted", message=f"the build's pod was deleted: {words}")
        if pod["status"].get("phase") not in ("Failed", "Succeeded"):
            return Running(words="its pod ends")
        return Ended(reason="Internal", message=f"the Job failed without a container that did: {words}")
    if pod is None:
        return _without_pod(job, events, now, patience)
    if (success := _success(pod)) is not None:
        # Its Job says so a second later. A failure waits for its Job: the pod alone does not show whose doing it is.
        return Ended(said=success.get("message", "").strip())
    return _waiting(pod, now, patience)


def _success(pod: Object) -> Object | None:
    """The end of the main container of a pod that ended well by itself."""
    if pod["status"].get("phase") != "Succeeded" or pod["metadata"].get("deletionTimestamp"):
        return None
    return next((end for _, end in _terminated(pod)), None)


def _pod_end(pod: Object) -> Ended | None:
    """Why the pod of a Job that failed did; None while it still goes on, and for one that does not show why."""
    status = pod["status"]
    message = str(status.get("message", ""))
    if status.get("reason") == "Evicted":
        if full := _full(pod, message):
            return full
        return Ended(reason="Evicted", message="the cluster evicted the build's pod", said=message)
    disrupted = _pod_condition(pod, "DisruptionTarget")
    if disrupted and disrupted["status"] == "True":
        words = disrupted.get("message", "")
        return Ended(reason="Evicted", message=f"the cluster took the build's pod away: {words}", said=words)
    if pod["metadata"].get("deletionTimestamp") or status.get("reason") in ("NodeLost", "Shutdown", "Terminated"):
        return Ended(reason="Evicted", message="somebody deleted the build's pod", said=message)
    for name, end in _terminated(pod):
        if end.get("reason") == "OOMKilled" and name != FETCH and end["exitCode"]:
            limit = _limit(pod, name, "memory")
            # A group's usage is at its limit when the kernel ends a process of it.
            words = "a process of the build was ended because the build used all of its memory"
            return Ended(
                reason="OutOfMemory", message=words, container=name, exit_code=end["exitCode"], limit=limit, peak=limit
            )
        if end["exitCode"]:
            return _failed(name, end)
    return None


def _full(pod: Object, message: str) -> Ended | None:
    """The end of a pod that was evicted with these words for what it wrote itself; None for another."""
    words = "the build wrote more than its disk limit to files"
    if volume := FULL_VOLUME.search(message):
        limit = quantity(volume[2])
        if volume[1] == SOURCE_VOLUME and not _writes_source(pod):
            words = f"the source took more of a disk than the {limit} bytes that were counted for it"
            return Ended(reason="Internal", message=words, said=message)
        words = f'the build wrote more than the {limit} bytes of its volume "{volume[1]}"'
    elif any(one in message for one in STORAGE_WORDS):
        limit = _most(pod, "ephemeral-storage")
    else:
        return None
    return Ended(reason="DiskQuotaExceeded", message=words, said=message, limit=limit, peak=limit)


def _writes_source(pod: Object) -> bool:
    """Whether anything but the fetch program may write where the source lies."""
    spec = pod["spec"]
    others = (one for one in (*spec.get("initContainers", ()), *spec["containers"]) if one["name"] != FETCH)
    mounts = (mount for one in others for mount in one.get("volumeMounts", ()))
    return any(mount["name"] == SOURCE_VOLUME and not mount.get("readOnly") for mount in mounts)


def _failed(name: str, end: Object) -> Ended:
    code, said = int(end["exitCode"]), str(end.get("message", "")).strip()
    if name == FETCH:
        reason, message = _report(said)
        return Ended(reason=reason, message=message, container=name, exit_code=code, said=said)
    if end.get("reason") in ("StartError", "ContainerCannotRun"):
        message = f"container {name} could not be started"
        return Ended(reason="ExecutorImageUnavailable", message=message, container=name, exit_code=code, said=said)
    return Ended(reason="StepFailed", message=f"{name} ended with {code}", container=name, exit_code=code, said=said)


def _report(said: str) -> tuple[str, str]:
    """What the program that fetches the source reported (`fetch/main.go`)."""
    try:
        value = strangers_json(said)
        if value["reason"] in REASONS:
            return value["reason"], str(value["message"])
    except (ValueError, TypeError, KeyError):
        pass
    return "Internal", "the source did not reach the build's pod"


def _overdue(pod: Object | None, seconds: int, ended_at: str) -> Ended:
    """The end of a Job whose time is over: whose doing it is depends on what had begun. `ended_at` as the API writes
    it, empty where it does not."""
    timeout, limit = f"the build took longer than {seconds} s", seconds * 1000
    began = [one for one in _statuses(pod) if "waiting" not in one["state"]] if pod else []
    if pod is None or (began and began[-1]["name"] != FETCH):
        name, ran_ms = (began[-1]["name"], _ran_ms(began[-1]["state"], ended_at)) if began else ("", 0)
        return Ended(reason="Timeout", message=timeout, container=name, limit=limit, ran_ms=ran_ms)
    if not began and (never := _never_began(pod)) and (never.reason == "Unschedulable" or seconds >= FAIR_S):
        return never
    if not began or seconds < FAIR_S:
        what = "its source was there" if began else "a container of it began"
        return Ended(reason="Timeout", message=f"the build's {seconds} s were over before {what}", limit=limit)
    if (fetched := began[-1]["state"].get("terminated")) and not fetched["exitCode"]:
        return _not_begun(pod, "behind the source's arrival no more of its containers")
    message = f"the source store did not deliver the source within the build's {seconds} s"
    return Ended(reason="SourceStoreUnavailable", message=message, container=FETCH)


def of_upload(ended: Ended, uploading_ms: int, registry: str) -> Ended:
    """The end of a Job that gave its image to the `registry` for so long when its time was over: the registry's doing
    after a minute, or half of the time of a short build, and a tenth of a long one's. Another end as it is.

    A program of the build can print the line from which this is counted: that gets its own build tried again, no more.
    """
    if ended.reason != "Timeout" or ended.limit < FAIR_S * 1000:
        return ended
    if uploading_ms < max(min(FAIR_S * 1000, ended.limit // 2), ended.limit // 10):
        return ended
    spent = f"in {uploading_ms // 1000} s, when the build's {ended.limit // 1000} s were over"
    _, mark, setting = ended.message.partition("; ")  # which decides the limit
    message = f"the registry {registry} had not taken the image {spent}{mark}{setting}"
    return Ended(reason="RegistryUnavailable", message=message, container=ended.container)


def _ran_ms(state: Object, ended_at: str) -> int:
    """How long a container ran, with `ended_at` for one that is not seen to have ended; 0 where that is not known."""
    span: Object = state.get("terminated") or state.get("running") or {}
    begin, end = span.get("startedAt"), span.get("finishedAt") or ended_at
    return max(0, int((seconds_of(end) - seconds_of(begin)) * 1000)) if begin and end else 0


def _never_began(pod: Object) -> Ended | None:
    """The end of a pod whose time is over and of which nothing ran: the cluster's doing, not the build's."""
    if any("waiting" not in one["state"] for one in _statuses(pod)):
        return None
    scheduled = _pod_condition(pod, "PodScheduled")
    if scheduled and scheduled["status"] == "False":
        words = str(scheduled.get("message", ""))
        return Ended(reason="Unschedulable", message=f"no node of the cluster took the build: {words}", said=words)
    if scheduled and scheduled["status"] == "True":
        return _not_begun(pod, "none of its containers")
    return None


def _not_begun(pod: Object, what: str) -> Ended:
    why = ", ".join(dict.fromkeys(str(waits.get("reason", "")) for _, waits in _waits(pod))) or "nothing is known"
    message = f"the node of the build's pod began {what} ({why}); a volume or an image is missing"
    return Ended(reason="ClusterUnavailable", message=message)


def _waiting(pod: Object, now: float, patience: Patience) -> State:
    """A pod that has not ended: what it waits for, and whether for too long."""
    scheduled = _pod_condition(pod, "PodScheduled")
    if scheduled and scheduled["status"] == "False":
        words = str(scheduled.get("message", ""))
        if now - seconds_of(scheduled["lastTransitionTime"]) >= patience.schedule_s:
            message = f"no node of the cluster took the build within {patience.schedule_s:.0f} s: {words}"
            return Ended(reason="Unschedulable", message=message, said=words)
        return Running(words=f"no node takes it yet: {words}")
    for name, waits in _waits(pod):
        why, words = waits.get("reason", ""), str(waits.get("message", ""))
        began = seconds_of(pod["status"].get("startTime") or pod["metadata"]["creationTimestamp"])
        late = now - began >= patience.image_s
        if why in IMAGE_TROUBLE and (late or why == "InvalidImageName"):
            message = f"the image of container {name} cannot be pulled: {words}"
            return Ended(reason="ExecutorImageUnavailable", message=message, container=name, said=words)
        if why in START_TROUBLE and late:
            message = f"container {name} cannot be started: {words}"
            return Ended(reason="ClusterUnavailable", message=message, container=name, said=words)
        if why in IMAGE_TROUBLE | START_TROUBLE:
            return Running(words=f"container {name} waits: {why}: {words}")
    # The Secret of a Job whose worker was lost before it wrote it is such a volume: only this shows it.
    if scheduled and now - seconds_of(scheduled["lastTransitionTime"]) >= patience.start_s:
        return _never_began(pod) or Running()
    return Running()


def _without_pod(job: Object, events: Iterable[Object], now: float, patience: Patience) -> State:
    """A quota or LimitRange refuses a Job's pod; only an event reports it."""
    refused = [event for event in events if event.get("reason") == "FailedCreate"]
    if not refused:
        return Running(words="its pod is not created yet")
    words = str(max(refused, key=lambda event: str(event.get("lastTimestamp") or ""))["message"])
    if now - seconds_of(job["metadata"]["creationTimestamp"]) >= patience.schedule_s:
        message = f"the cluster accepted no pod of the build within {patience.schedule_s:.0f} s: {words}"
        return Ended(reason="Unschedulable", message=message, said=words)
    return Running(words=f"the cluster accepts no pod yet: {words}")


def seconds_of(timestamp: str) -> float:
    """RFC 3339 as the API writes it → seconds since the epoch."""
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def _job_condition(job: Object) -> Object | None:
    """The condition that is the Job's end, where it has one. FailureTarget comes before Failed, for the same reason."""
    found = {one["type"]: one for one in job.get("status", {}).get("conditions", ()) if one["status"] == "True"}
    for kind in ("Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"):
        if kind in found:
            one: Object = found[kind]
            return one
    return None


def _pod_condition(pod: Object, kind: str) -> Object | None:
    return next((one for one in pod["status"].get("conditions", ()) if one["type"] == kind), None)


def _statuses(pod: Object) -> Iterator[Object]:
    for group in ("initContainerStatuses", "containerStatuses"):
        yield from pod["status"].get(group, ())


def _terminated(pod: Object) -> Iterator[tuple[str, Object]]:
    """(container, its end), those that failed first, then the main container's."""
    ends = [(one["name"], one["state"]["terminated"]) for one in _statuses(pod) if one["state"].get("terminated")]
    yield from (row for row in ends if row[1]["exitCode"])
    mains = {one["name"] for one in pod["spec"]["containers"]}
    yield from (row for row in ends if not row[1]["exitCode"] and row[0] in mains)


def _waits(pod: Object) -> Iterator[tuple[str, Object]]:
    yield from ((one["name"], one["state"]["waiting"]) for one in _statuses(pod) if one["state"].get("waiting"))


def _limit(pod: Object, name: str, resource: str) -> int:
    """A container's limit in bytes, 0 for none."""
    spec = pod["spec"]
    every = (*spec.get("initContainers", ()), *spec["containers"])
    limits: Object = next((one.get("resources", {}).get("limits", {}) for one in every if one["name"] == name), {})
    return quantity(str(limits.get(resource, "0")))


def _most(pod: Object, resource: str) -> int:
    return max((_limit(pod, one["name"], resource) for one in pod["spec"]["containers"]), default=0)


def quantity(text: str) -> int:
    """A quantity of the API in whole units; the API writes "67108864" back as "64Mi"."""
    for index, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1):
        if text.endswith(unit):
            return int(float(text[:-2]) * 1024**index)
    for index, unit in enumerate(("k", "M", "G", "T", "P", "E"), 1):
        if text.endswith(unit):
            return int(float(text[:-1]) * 1000**index)
    return int(float(text[:-1]) / 1000) if text.endswith("m") else int(float(text))
