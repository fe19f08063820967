"""A source without a Dockerfile, or of a request for buildpacks, built by the lifecycle (`builder/buildpacks/`); and an
image that it made, put on another run image.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from builder.buildpacks.ended import EXPLAINED, diagnose, pushed_digest
from builder.buildpacks.image import Builder, read_builder
from builder.buildpacks.manifest import (
    ANALYZE,
    DETECT,
    EXPORT,
    REBASE,
    BuildpacksBuild,
    Rebase,
    cache_image,
    rebase_manifest,
)
from builder.buildpacks.manifest import manifest as job_of
from builder.buildpacks.plan import BuildpacksPlan, key_of, materials_of, plan_buildpacks
from builder.buildpacks.project import WantedBuildpack, read_project
from builder.buildpacks.rebase import RebasePlan
from builder.buildpacks.rebase import key_of as key_of_rebase
from builder.buildpacks.rebase import materials_of as materials_of_rebase
from builder.dockerfile import choose
from builder.dockerfile.choose import ImageRequest
from builder.kube.ended import Ended
from builder.kube.job import JobAttempt, JobLimits, JobSource
from builder.kube.site import buildpacks_site_of
from builder.plan import Diagnosis
from builder.settings import Settings
from builder.source.tree import DirTree
from builder.strategies.base import Keyed, Materials, Setup, Target

NAME = "buildpacks"
TITLE = "Cloud Native Buildpacks"
NEXT = (
    "Add a Dockerfile, or let a runtime build the source: send code.compile (--runtime NAME). "
    "An operator sets buildpacks up with buildpacks_builder and buildpacks_run_image."
)
PLAN = BuildpacksPlan
OUTPUT_LINES = 1000
"""A detection that fails has a line for each buildpack of each group."""
IMAGES: Mapping[str, str] = {
    "fetch_image": "FETCH_IMAGE",
    "buildpacks_builder": "BUILDER_IMAGE",
    "buildpacks_run_image": "RUN_IMAGE",
}
UNREAD: Mapping[str, str] = {
    "BUILDER_UID": "the user of the builder image",
    "BUILDER_GID": "the group of the builder image",
    "BUILDER_VERSION": "the version that the builder image has",
}
SAVES = "Saving "
"""How the line begins, of the exporter and of the rebaser, when the image is made."""
NUMBERS: Mapping[int, str] = {2_000_000_011: "BUILDER_UID", 2_000_000_012: "BUILDER_GID"}


@dataclass(frozen=True, kw_only=True)
class Known:
    """Facts of the builder image, and the arguments that the operator allows."""

    builder: Builder
    arguments: tuple[str, ...]


def setup(settings: Settings) -> Setup | None:
    """See `Strategy.setup`."""
    if not settings.buildpacks_builder:
        return None
    return Setup(
        site=buildpacks_site_of(settings),
        run_image=settings.buildpacks_run_image,
        allowed=settings.buildpacks_arguments,
        reads=settings.buildpacks_builder,
    )


def takes(root: Path, asked: ImageRequest) -> str:
    """See `Strategy.takes`."""
    made = choose.choose(root, asked)
    return made.because if made.strategy == NAME else ""


def learn(setup: Setup, config: Mapping[str, Any]) -> str:
    """See `Strategy.learn`."""
    return json.dumps(asdict(Known(builder=read_builder(config), arguments=setup.allowed)))


def unread(setup: Setup, root: Path, asked: ImageRequest) -> str:
    """See `Strategy.unread`. The image has each buildpack that `project.toml` names: whether it does is known where it
    is read."""
    group = read_project(DirTree(root / asked.sub_path), setup.allowed).group
    has = tuple(WantedBuildpack(id=one.id, version=one.version or "BUILDER_VERSION") for one in group)
    return unread_builder(setup, has)


def unread_builder(setup: Setup, buildpacks: tuple[WantedBuildpack, ...] = ()) -> str:
    """As `learn`, of a builder image that nobody reads, with these buildpacks."""
    uid, gid = NUMBERS
    return json.dumps(asdict(Known(builder=Builder(uid=uid, gid=gid, buildpacks=buildpacks), arguments=setup.allowed)))


def plan(root: Path, asked: ImageRequest, known: str) -> BuildpacksPlan:
    """See `Strategy.plan`."""
    made, facts = choose.choose(root, asked), _known(known)
    return plan_buildpacks(
        DirTree(root / made.sub_path),
        facts.builder,
        because=made.because,
        build_args=asked.build_args,
        sub_path=made.sub_path,
        allowed=facts.arguments,
    )


def key(plan: BuildpacksPlan, setup: Setup, keyed: Keyed) -> str:
    """See `Strategy.key`."""
    return key_of(
        plan,
        organization=keyed.organization,
        code_hash=keyed.code_hash,
        builder=setup.site.executor,
        run_image=setup.run_image,
    )


def part(plan: BuildpacksPlan) -> Callable[[str], bool] | None:
    """See `Strategy.part`."""
    if not plan.include and not plan.exclude:
        return None
    folder, is_part = f"{plan.sub_path}/" if plan.sub_path else "", plan.filter()
    return lambda path: path.startswith(folder) and is_part(path.removeprefix(folder))


def facts(plan: BuildpacksPlan, setup: Setup, archive: str) -> str:
    """See `Strategy.facts`."""
    return _facts(setup, materials_of(builder=setup.site.executor, run_image=setup.run_image, archive=archive))


def manifest(
    plan: BuildpacksPlan,
    setup: Setup,
    known: str,
    attempt: JobAttempt,
    source: JobSource,
    limits: JobLimits,
    target: Target,
) -> dict[str, Any]:
    """See `Strategy.manifest`."""
    builder, prefix = _known(known).builder, target.cache_prefix
    build = BuildpacksBuild(
        repository=target.repository,
        tag=target.tag,
        run_image=setup.run_image,
        uid=builder.uid,
        gid=builder.gid,
        sub_path=plan.sub_path,
        arguments=plan.arguments,
        order=plan.order,
        cache_image=cache_image(prefix, target.organization, target.repository) if prefix else "",
        insecure_registries=target.insecure_registries,
        has_push_secret=target.has_push_secret,
    )
    return job_of(setup.site, attempt, source, limits, build)


def rebase_key(plan: RebasePlan, setup: Setup, organization: str) -> str:
    """The build key of a rebase."""
    return key_of_rebase(plan, organization=organization, builder=setup.site.executor)


def rebase_facts(plan: RebasePlan, setup: Setup) -> str:
    """What whoever watches the Job of a rebase needs, as text."""
    return _facts(setup, materials_of_rebase(plan, builder=setup.site.executor))


def rebase_job(
    plan: RebasePlan, setup: Setup, known: str, attempt: JobAttempt, limits: JobLimits, target: Target
) -> dict[str, Any]:
    """The Job of a rebase; `known` is of `learn`."""
    builder = _known(known).builder
    rebase = Rebase(
        image=plan.image,
        repository=target.repository,
        tag=target.tag,
        run_image=plan.run_image,
        uid=builder.uid,
        gid=builder.gid,
        insecure_registries=target.insecure_registries,
        has_push_secret=target.has_push_secret,
    )
    return rebase_manifest(setup.site, attempt, limits, rebase)


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The log and end of a Job of the lifecycle."""

    run_image: str = ""
    materials: Materials = ()

    @property
    def push_is_upload(self) -> bool:
        """See `Reading.push_is_upload`. The exporter gathers layers first."""
        return False

    def shown(self, line: str) -> str:
        """See `Reading.shown`."""
        return line

    def pushes(self, container: str, line: str) -> bool:
        """See `Reading.pushes`."""
        return container == EXPORT or self.uploads(container, line)

    def uploads(self, container: str, line: str) -> bool:
        """See `Reading.uploads`."""
        return container in (EXPORT, REBASE) and line.startswith(SAVES)

    def explaining(self, ended: Ended) -> tuple[str, ...]:
        """See `Reading.explaining`."""
        if ended.reason not in EXPLAINED:
            return ()
        if ended.container == REBASE:
            return (REBASE,)
        return tuple(dict.fromkeys((ANALYZE, DETECT, *([ended.container] if ended.container else []))))

    def is_own(self, line: str) -> bool:
        """See `Reading.is_own`."""
        return False

    def digest(self, said: str) -> str:
        """See `Reading.digest`."""
        return pushed_digest(said)

    def diagnose(self, ended: Ended, lines: Mapping[str, Sequence[str]]) -> Diagnosis:
        """See `Reading.diagnose`."""
        return diagnose(ended, lines, self.run_image)


def read(facts: str) -> Lifecycle:
    """See `Strategy.read`."""
    try:
        value = json.loads(facts)
        materials = tuple((str(name), str(digest)) for name, digest in value["materials"])
        return Lifecycle(run_image=str(value["run_image"]), materials=materials)
    except (ValueError, TypeError, KeyError, RecursionError):
        return Lifecycle()


def _facts(setup: Setup, materials: Materials) -> str:
    return json.dumps({"run_image": setup.run_image, "materials": [list(row) for row in materials]})


def _known(text: str) -> Known:
    value = json.loads(text)
    builder = value["builder"]
    buildpacks = tuple(WantedBuildpack(**row) for row in builder["buildpacks"])
    return Known(
        builder=Builder(uid=builder["uid"], gid=builder["gid"], buildpacks=buildpacks),
        arguments=tuple(value["arguments"]),
    )
