"""What every build's Job has in common: its name, labels, deadline, source and rules of failure. Pure.

The Job's name comes from build and attempt, so creating it twice is one Job. It never starts a second pod: a build is
tried again as another attempt, with another Job.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DOMAIN = "ignite.dodil.dev"
BUILD, ATTEMPT, ORGANIZATION = f"{DOMAIN}/build", f"{DOMAIN}/attempt", f"{DOMAIN}/organization"
OWN_LIMITS = f"{DOMAIN}/own-limits"
"""Annotation of a Job: which of its limits are its organization's own, so that an end at one of them can say so."""
COMPONENT = {"app.kubernetes.io/managed-by": "ignite-builder", "app.kubernetes.io/component": "build"}
SELECTOR = ",".join(f"{name}={value}" for name, value in COMPONENT.items())
"""Label selector of all Jobs and pods of ours."""

FETCH = "fetch"
SOURCE_VOLUME = "source"
PUSH_VOLUME = "push"
GRACE_S = 5

MIB = 1024 * 1024
_FETCH_CPUS = 0.5
_FETCH_RESOURCES = {"memory": "64Mi", "ephemeral-storage": "16Mi"}


@dataclass(frozen=True, kw_only=True)
class Toleration:
    """One toleration of a pod (core/v1); an empty `value` tolerates any."""

    key: str
    value: str = ""
    effect: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What an operator decides about Jobs: where they run and with which images. Images are named by digest."""

    namespace: str
    executor: str
    fetcher: str
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: str = ""
    priority_class: str = ""
    pull_secret: str = ""
    """Secret of the namespace with which the two images are pulled."""


@dataclass(frozen=True, kw_only=True)
class JobAttempt:
    """One attempt at a build, as far as its Job names it."""

    build_id: str
    number: int
    organization: str

    @property
    def job(self) -> str:
        return job_name(self.build_id, self.number)


@dataclass(frozen=True, kw_only=True)
class JobSource:
    """The canonical archive: a URL that is a credential, and what must come from there.

    `unpacked_bytes` are those of a disk, which the kubelet counts in whole blocks: more than the files have.
    """

    url: str
    digest: str
    archive_bytes: int
    unpacked_bytes: int


@dataclass(frozen=True, kw_only=True)
class JobLimits:
    """Limits of one build. `timeout_ms` is what is left of it when the Job is created. `own`: those of these that the
    operator gave the organization itself, by the names of their settings."""

    cpus: float
    memory_bytes: int
    disk_bytes: int
    timeout_ms: int
    own: tuple[str, ...] = ()


def job_name(build_id: str, attempt: int) -> str:
    """A DNS label: a build's identifier has 20 characters of a-z and 0-9, a letter first."""
    return f"ignite-{build_id}-{attempt}"


def labels_of(attempt: JobAttempt) -> dict[str, str]:
    """Labels of the Job and its pod, by which a watcher finds them and NetworkPolicies choose them."""
    return {
        **COMPONENT,
        BUILD: attempt.build_id,
        ATTEMPT: str(attempt.number),
        ORGANIZATION: _label(attempt.organization),
    }


def job_manifest(
    site: Site,
    attempt: JobAttempt,
    source: JobSource | None,
    limits: JobLimits,
    containers: Sequence[Mapping[str, Any]],
    *,
    source_uid: int,
    source_grows: int = 0,
    volumes: Sequence[Mapping[str, Any]] = (),
    security: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The Job: the source is fetched, then the last of `containers` decides; those before it are init containers.

    No time ends its stay in the cluster: how it ended is there until a watcher has stored it, however late.

    Without a `source` nothing is fetched. `source_uid` owns the source, and a build may write `source_grows` bytes
    beside it. `security` is added to the pod's security context; `annotations` are the pod's.
    """
    *before, main = containers
    labels = labels_of(attempt)
    fetch = [fetch_container(site, source, limits, source_uid)] if source else []
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, **(security or {})},
        "initContainers": [*fetch, *before],
        "containers": [main],
        "volumes": [*([_source_volume(source, source_grows)] if source else []), *volumes],
    }
    if site.node_selector:
        pod["nodeSelector"] = dict(site.node_selector)
    if site.tolerations:
        pod["tolerations"] = [_toleration(one) for one in site.tolerations]
    if site.runtime_class:
        pod["runtimeClassName"] = site.runtime_class
    if site.priority_class:
        pod["priorityClassName"] = site.priority_class
    if site.pull_secret:
        pod["imagePullSecrets"] = [{"name": site.pull_secret}]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": attempt.job,
            "namespace": site.namespace,
            "labels": labels,
            **({"annotations": {OWN_LIMITS: ",".join(limits.own)}} if limits.own else {}),
        },
        "spec": {
            "activeDeadlineSeconds": max(1, math.ceil(limits.timeout_ms / 1000)),
            "backoffLimit": 0,
            "completions": 1,
            "parallelism": 1,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": _failure_rules([*fetch, *containers])},
            "template": {
                "metadata": {"labels": labels, **({"annotations": dict(annotations)} if annotations else {})},
                "spec": pod,
            },
        },
    }


def fetch_container(site: Site, source: JobSource, limits: JobLimits, uid: int) -> dict[str, Any]:
    """The init container that brings the source. Only it sees the URL; it has no capability and writes one folder.

    It asks for no more of a processor than the build does: a pod asks for the most of its containers.
    """
    granted = {"cpu": _millicores(min(_FETCH_CPUS, limits.cpus)), **_FETCH_RESOURCES}
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsUser": uid,
        "runAsGroup": uid,
    }
    if uid:
        security["runAsNonRoot"] = True
    return {
        "name": FETCH,
        "image": site.fetcher,
        "args": [f"--digest={source.digest}", f"--max-bytes={source.archive_bytes}", "--to=/source"],
        "env": [{"name": "SOURCE_URL", "value": source.url}],
        "resources": {"requests": granted, "limits": dict(granted)},
        "securityContext": security,
        "volumeMounts": [{"name": SOURCE_VOLUME, "mountPath": "/source"}],
    }


def _source_volume(source: JobSource, grows: int) -> dict[str, Any]:
    size = source.archive_bytes + source.unpacked_bytes + MIB + grows
    return {"name": SOURCE_VOLUME, "emptyDir": {"sizeLimit": str(size)}}


def resources_of(limits: JobLimits) -> dict[str, Any]:
    """What is asked for is what is granted: a build is never killed for what a neighbour uses."""
    granted = {
        "cpu": _millicores(limits.cpus),
        "memory": str(limits.memory_bytes),
        "ephemeral-storage": str(limits.disk_bytes),
    }
    return {"requests": granted, "limits": dict(granted)}


def _millicores(cpus: float) -> str:
    return f"{math.ceil(cpus * 1000)}m"


def push_secret(site: Site, attempt: JobAttempt, job_uid: str, hosts: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """The credentials of a Job's registries, host → (user, password). The Job owns the Secret, so it goes with the Job;
    the pod waits for it, so it is created after the Job."""
    rows = {
        host: {"auth": base64.b64encode(f"{user}:{word}".encode()).decode()} for host, (user, word) in hosts.items()
    }
    config = json.dumps({"auths": rows}, sort_keys=True)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": attempt.job, "uid": job_uid}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/dockerconfigjson",
        "metadata": {
            "name": attempt.job,
            "namespace": site.namespace,
            "labels": labels_of(attempt),
            "ownerReferences": [owner],
        },
        "data": {".dockerconfigjson": base64.b64encode(config.encode()).decode()},
        "immutable": True,
    }


def push_volume(attempt: JobAttempt) -> dict[str, Any]:
    """The volume of that Secret, as the file that clients of registries read."""
    items = [{"key": ".dockerconfigjson", "path": "config.json"}]
    return {"name": PUSH_VOLUME, "secret": {"secretName": attempt.job, "items": items, "defaultMode": 0o400}}


def _failure_rules(containers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The Job's own words for its end: first a pod that the cluster took away, then an exit code."""
    disrupted = {"type": "DisruptionTarget", "status": "True"}
    rules: list[dict[str, Any]] = [{"action": "FailJob", "onPodConditions": [disrupted]}]
    for container in containers:
        codes = {"containerName": container["name"], "operator": "NotIn", "values": [0]}
        rules.append({"action": "FailJob", "onExitCodes": codes})
    return rules


def below(folder: str, path: str) -> str:
    """A path of the source where `folder` is its root. Raises ValueError for one that leaves it: intake refuses such
    before."""
    found = posixpath.normpath(posixpath.join(folder, path))
    if found != folder and not found.startswith(f"{folder}/"):
        raise ValueError(f"{path!r} is not below {folder}")
    return found


def literal(argument: str) -> str:
    """An argument of a container as it is: Kubernetes expands $(NAME), and $$ to $."""
    return argument.replace("$", "$$")


def _toleration(one: Toleration) -> dict[str, str]:
    value = {"key": one.key, "operator": "Equal" if one.value else "Exists"}
    if one.value:
        value["value"] = one.value
    if one.effect:
        value["effect"] = one.effect
    return value


def _label(text: str) -> str:
    """A label's value has 63 characters at most; a longer name is its digest."""
    return text if len(text) <= 63 else hashlib.sha256(text.encode()).hexdigest()[:63]
