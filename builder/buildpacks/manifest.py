"""The Jobs of Cloud Native Buildpacks: a build, and a rebase. Pure: the same facts give the same manifest.

The lifecycle's phases are containers of their own. Those that speak to a registry (analyze, restore, export) run no
code but the lifecycle's; those that run buildpacks, and so the user's code (detect, build), have no credential. What a
phase decided is read-only to every later one that runs such code: it can neither choose another run image for the
export nor another group.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builder.buildpacks.image import PLATFORM_API
from builder.buildpacks.project import WantedBuildpack
from builder.kube.job import (
    DOMAIN,
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

ANALYZE, DETECT, RESTORE, BUILD, EXPORT = PHASES = ("analyze", "detect", "restore", "build", "export")
REBASE = "rebase"
_PROGRAMS = {
    ANALYZE: "analyzer",
    DETECT: "detector",
    RESTORE: "restorer",
    BUILD: "builder",
    EXPORT: "exporter",
    REBASE: "rebaser",
}
RUNS_BUILDPACKS = (DETECT, BUILD)

APP, LAYERS, PLATFORM_FOLDER, REGISTRY = "/workspace", "/layers", "/platform", "/registry"
ANALYZED, DETECTED, ASKED = "/state/analyzed", "/state/detected", "/state/asked"
TERMINATION = "/dev/termination-log"
ABSENT = f"{ANALYZED}/absent.toml"
"""No file: the builder's own list of run images must not replace the one that was named by digest."""

_STATE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class BuildpacksBuild:
    """What is built. `sub_path` is relative to the source's root; `uid` and `gid` are the builder image's.

    `repository` is "host/path". `run_image` is what the app is put on. An empty `cache_image` builds without a cache.
    `order` are buildpacks in the place of the builder's own order.
    """

    repository: str
    tag: str
    run_image: str
    uid: int
    gid: int
    sub_path: str = ""
    arguments: tuple[tuple[str, str], ...] = ()
    order: tuple[WantedBuildpack, ...] = ()
    process: str = ""
    """Process type that the image starts; empty for the buildpacks' default."""

    previous_image: str = ""
    """An earlier build of the app, whose unchanged layers are used again."""

    cache_image: str = ""
    insecure_registries: tuple[str, ...] = ()
    """Hosts that are spoken to in plain HTTP."""

    has_push_secret: bool = True


@dataclass(frozen=True, kw_only=True)
class Rebase:
    """An app, by digest, that gets another run image below its own layers, and the tag that the result takes."""

    image: str
    repository: str
    tag: str
    run_image: str
    uid: int
    gid: int
    insecure_registries: tuple[str, ...] = ()
    has_push_secret: bool = True


def cache_image(prefix: str, organization: str, repository: str, platform: str = PLATFORM) -> str:
    """Where an app's cached layers lie below `prefix` ("host[/path]"): a repository for each organization, as its
    credential opens, a tag for each app. The lifecycle replaces the image as a whole, so two apps share none."""
    app = hashlib.sha256(repository.encode()).hexdigest()[:32]
    return f"{prefix}/{organization}/cache/buildpacks/{platform.replace('/', '-')}:{app}"


def manifest(
    site: Site, attempt: JobAttempt, source: JobSource, limits: JobLimits, build: BuildpacksBuild
) -> dict[str, Any]:
    """The Job of one attempt at a buildpacks build. Its termination message is the lifecycle's report
    (`ended.pushed_digest`).

    Raises ValueError for a path that leaves the source, or a user that is root.
    """
    asked = _Asked()
    asked.add("run", f"{ASKED}/run.toml", f"[[images]]\nimage = {json.dumps(_without_digest(build.run_image))}\n")
    if build.order:
        asked.add("order", f"{ASKED}/order.toml", _order(build.order))
    for index, (name, value) in enumerate(build.arguments):
        asked.add(f"argument-{index}", f"{PLATFORM_FOLDER}/env/{name}", value)
    disk = str(limits.disk_bytes)
    return job_manifest(
        site,
        attempt,
        source,
        limits,
        [_container(site, limits, phase, _flags(phase, build), _mounts(phase, build), build) for phase in PHASES],
        source_uid=build.uid,
        source_grows=limits.disk_bytes,
        volumes=[
            {"name": "layers", "emptyDir": {"sizeLimit": disk}},
            {"name": "analyzed", "emptyDir": {"sizeLimit": str(_STATE_BYTES)}},
            {"name": "detected", "emptyDir": {"sizeLimit": str(_STATE_BYTES)}},
            asked.volume("asked", ASKED),
            asked.volume("platform", PLATFORM_FOLDER),
            *([push_volume(attempt)] if build.has_push_secret else []),
        ],
        security=_security(build.uid, build.gid),
        annotations=asked.annotations,
    )


def rebase_manifest(site: Site, attempt: JobAttempt, limits: JobLimits, rebase: Rebase) -> dict[str, Any]:
    """The Job that exchanges the run image below an app's layers. Nothing is built and no layer is downloaded.

    The lifecycle does it and not our own client of a registry: what may be exchanged for what (label
    `io.buildpacks.rebasable`, system, architecture, distribution) and how the labels change is its specification.
    """
    mounts = [_mount(PUSH_VOLUME, REGISTRY, read_only=True)] if rebase.has_push_secret else []
    flags = [
        f"-previous-image={rebase.image}",
        f"-run-image={rebase.run_image}",
        f"-report={TERMINATION}",
        *_identity(rebase),
        *_insecure(rebase),
        f"{rebase.repository}:{rebase.tag}",
    ]
    return job_manifest(
        site,
        attempt,
        None,
        limits,
        [_container(site, limits, REBASE, flags, mounts, rebase)],
        source_uid=rebase.uid,
        volumes=[push_volume(attempt)] if rebase.has_push_secret else [],
        security=_security(rebase.uid, rebase.gid),
    )


class _Asked:
    """Files of ours in the pod, each the value of an annotation: they need no object beside the Job."""

    def __init__(self) -> None:
        self.annotations: dict[str, str] = {}
        self._places: dict[str, str] = {}

    def add(self, name: str, path: str, text: str) -> None:
        self.annotations[f"{DOMAIN}/{name}"] = text
        self._places[f"{DOMAIN}/{name}"] = path

    def volume(self, name: str, folder: str) -> dict[str, Any]:
        items = [
            {"path": path.removeprefix(f"{folder}/"), "fieldRef": {"fieldPath": f"metadata.annotations['{key}']"}}
            for key, path in self._places.items()
            if path.startswith(f"{folder}/")
        ]
        return {"name": name, "downwardAPI": {"items": items}}


def _container(
    site: Site,
    limits: JobLimits,
    phase: str,
    flags: Iterable[str],
    mounts: Iterable[Mapping[str, Any]],
    build: BuildpacksBuild | Rebase,
) -> dict[str, Any]:
    env = {"CNB_PLATFORM_API": PLATFORM_API, "CNB_NO_COLOR": "true"}
    if build.has_push_secret and phase not in RUNS_BUILDPACKS:
        env["DOCKER_CONFIG"] = REGISTRY
    return {
        "name": phase,
        "image": site.executor,
        "command": [f"/cnb/lifecycle/{_PROGRAMS[phase]}"],
        "args": [literal(flag) for flag in flags],
        "env": [{"name": name, "value": value} for name, value in env.items()],
        "resources": resources_of(limits),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "terminationMessagePath": TERMINATION,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": list(mounts),
    }


def _flags(phase: str, build: BuildpacksBuild) -> Iterator[str]:
    """Each is one token `-flag=value`, so no value of a user is read as a flag."""
    yield f"-analyzed={ANALYZED}/analyzed.toml"
    if phase != DETECT:
        yield f"-layers={LAYERS}"
    if phase != ANALYZE:
        yield f"-group={DETECTED}/group.toml"
    if phase in (DETECT, BUILD):
        yield f"-plan={DETECTED}/plan.toml"
        yield f"-platform={PLATFORM_FOLDER}"
    if phase in (DETECT, BUILD, EXPORT):
        yield f"-app={APP}"
    if phase == DETECT and build.order:
        yield f"-order={ASKED}/order.toml"
    if phase not in RUNS_BUILDPACKS:
        yield from _identity(build)
        yield from _insecure(build)
        yield f"-run={ASKED}/run.toml" if phase == EXPORT else f"-run={ABSENT}"
        if build.cache_image:
            yield f"-cache-image={build.cache_image}"
    if phase == ANALYZE:
        yield f"-run-image={build.run_image}"
        if build.previous_image:
            yield f"-previous-image={build.previous_image}"
    if phase == EXPORT:
        # The default lies in a folder that the user's code writes.
        yield f"-project-metadata={ANALYZED}/project-metadata.toml"
        yield f"-report={TERMINATION}"
        if build.process:
            yield f"-process-type={build.process}"
    if phase in (ANALYZE, EXPORT):
        yield f"{build.repository}:{build.tag}"


def _mounts(phase: str, build: BuildpacksBuild) -> Iterator[dict[str, Any]]:
    if phase in (DETECT, BUILD, EXPORT):
        app = _mount(SOURCE_VOLUME, APP, read_only=phase != BUILD)
        if folder := below(APP, build.sub_path).removeprefix(APP).lstrip("/"):
            app["subPath"] = folder
        yield app
    if phase != DETECT:
        yield _mount("layers", LAYERS)
    yield _mount("analyzed", ANALYZED, read_only=phase in RUNS_BUILDPACKS)
    if phase != ANALYZE:
        yield _mount("detected", DETECTED, read_only=phase != DETECT)
    if phase in (DETECT, EXPORT):
        yield _mount("asked", ASKED, read_only=True)
    if phase in RUNS_BUILDPACKS:
        yield _mount("platform", PLATFORM_FOLDER, read_only=True)
    elif build.has_push_secret:
        yield _mount(PUSH_VOLUME, REGISTRY, read_only=True)


def _mount(name: str, path: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"name": name, "mountPath": path, **({"readOnly": True} if read_only else {})}


def _identity(build: BuildpacksBuild | Rebase) -> Iterator[str]:
    yield f"-uid={build.uid}"
    yield f"-gid={build.gid}"


def _insecure(build: BuildpacksBuild | Rebase) -> Iterator[str]:
    yield from (f"-insecure-registry={host}" for host in build.insecure_registries)


def _security(uid: int, gid: int) -> dict[str, Any]:
    """The builder image's user owns all that a phase writes; its group may read the push credential, which the kubelet
    mounts for the containers that ask for it alone."""
    if uid <= 0 or gid <= 0:
        raise ValueError("the lifecycle runs buildpacks as a user that is not root")
    return {"runAsNonRoot": True, "runAsUser": uid, "runAsGroup": gid, "fsGroup": gid}


def _order(group: Sequence[WantedBuildpack]) -> str:
    rows = ["[[order]]"]
    for one in group:
        rows += ["[[order.group]]", f"id = {json.dumps(one.id)}", f"version = {json.dumps(one.version)}"]
        rows += ["optional = true"] if one.optional else []
    return "\n".join(rows) + "\n"


def _without_digest(reference: str) -> str:
    """By this name the lifecycle knows a later run image as one that may take its place."""
    return reference.partition("@")[0]
