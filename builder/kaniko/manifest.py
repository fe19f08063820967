"""The Job that builds a Dockerfile with Kaniko's executor. Pure: the same facts give the same manifest.

Every flag is one token `--flag=value`, so no value of a user is read as a flag.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from builder.kube.job import (
    PUSH_VOLUME,
    SOURCE_VOLUME,
    JobAttempt,
    JobLimits,
    JobSource,
    Site,
    below,
    job_manifest,
    literal,
    push_volume,
    resources_of,
)
from builder.plan import PLATFORM

CONTAINER = "kaniko"
CONTEXT = "/kaniko/buildcontext"
"""Below /kaniko, which the executor leaves out of snapshots: mounted anywhere else, it would hide a folder of the image
that the Dockerfile writes."""

TERMINATION = "/dev/termination-log"
RETRIES = 3
CAPABILITIES = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
"""What Pod Security's level `baseline` allows, and `RUN` has in every other builder."""


@dataclass(frozen=True, kw_only=True)
class Exempt:
    """One control of Pod Security's level `restricted` that the Job does not meet, in which container, and why."""

    container: str
    control: str
    why: str


EXEMPTIONS = (
    Exempt(
        container="fetch",
        control="runAsNonRoot != true",
        why="COPY gives a file in the image the owner that it has in the context, and that must be root",
    ),
    Exempt(container="fetch", control="runAsUser=0", why="the same"),
    Exempt(
        container=CONTAINER,
        control="allowPrivilegeEscalation != false",
        why="RUN as another user may call sudo and su; the image's root has no more rights than the container's",
    ),
    Exempt(
        container=CONTAINER,
        control="unrestricted capabilities",
        why="layers are unpacked with their owners and modes, and RUN expects what root has in a container",
    ),
    Exempt(
        container=CONTAINER, control="runAsNonRoot != true", why="it makes the image's files in its own root as root"
    ),
    Exempt(container=CONTAINER, control="runAsUser=0", why="the same"),
)
"""Each exemption from `restricted`. The Job meets `baseline`; its namespace is for Kaniko alone."""


@dataclass(frozen=True, kw_only=True)
class DockerfileBuild:
    """What is built. `dockerfile` is relative to `sub_path`, and `sub_path` to the source's root.

    `repository` and `cache_repository` are "host/path"; an empty one of the latter builds without a cache.
    """

    repository: str
    tag: str
    dockerfile: str = "Dockerfile"
    sub_path: str = ""
    target: str = ""
    build_args: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    platform: str = PLATFORM
    cache_repository: str = ""
    insecure_registries: tuple[str, ...] = ()
    """Hosts that are spoken to in plain HTTP."""

    has_push_secret: bool = True


def cache_repository(prefix: str, organization: str, platform: str = PLATFORM) -> str:
    """Where an organization's cached layers of `RUN` lie below `prefix` ("host[/path]").

    Kaniko's own cache key does not name the platform, so the repository does.
    """
    return f"{prefix}/{organization}/cache/kaniko/{platform.replace('/', '-')}"


def manifest(
    site: Site, attempt: JobAttempt, source: JobSource, limits: JobLimits, build: DockerfileBuild
) -> dict[str, Any]:
    """The Job of one attempt at a Dockerfile build. Its termination message is the pushed digest.

    Raises ValueError for a path that leaves the source.
    """
    mounts = [{"name": SOURCE_VOLUME, "mountPath": CONTEXT, "readOnly": True}]
    volumes = []
    if build.has_push_secret:
        mounts.append({"name": PUSH_VOLUME, "mountPath": "/kaniko/.docker", "readOnly": True})
        volumes.append(push_volume(attempt))
    container = {
        "name": CONTAINER,
        "image": site.executor,
        "args": [literal(flag) for flag in _flags(build)],
        "resources": resources_of(limits),
        "securityContext": {
            "allowPrivilegeEscalation": True,
            "capabilities": {"drop": ["ALL"], "add": list(CAPABILITIES)},
            "runAsUser": 0,
            "runAsGroup": 0,
        },
        "terminationMessagePath": TERMINATION,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    }
    return job_manifest(site, attempt, source, limits, [container], source_uid=0, volumes=volumes)


def _flags(build: DockerfileBuild) -> Iterator[str]:
    context = below(CONTEXT, build.sub_path)
    yield f"--context=dir://{context}"
    yield f"--dockerfile={below(context, build.dockerfile)}"
    yield f"--destination={build.repository}:{build.tag}"
    yield f"--custom-platform={build.platform}"
    if build.target:
        yield f"--target={build.target}"
    for name, value in build.build_args:
        yield f"--build-arg={name}={value}"
    for name, value in build.labels:
        yield f"--label={name}={value}"
    if build.cache_repository:
        yield "--cache=true"
        yield f"--cache-repo={build.cache_repository}"
        yield "--compressed-caching=false"  # less memory, and every layer still compressed
    for host in build.insecure_registries:
        yield f"--insecure-registry={host}"
    yield "--reproducible"
    yield "--skip-unused-stages=true"
    yield f"--digest-file={TERMINATION}"
    yield f"--image-download-retry={RETRIES}"
    yield f"--push-retry={RETRIES}"
    yield "--log-format=json"  # so that its own lines differ from a program's (ended.py)
