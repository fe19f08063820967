"""A Dockerfile of the source, built by Kaniko (`builder/kaniko/`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.dockerfile import choose
from builder.dockerfile.choose import ImageRequest, read_image
from builder.dockerfile.instructions import Dockerfile
from builder.images.destination import DIGEST
from builder.kaniko import ended as ends
from builder.kaniko.ended import Instruction, own_message
from builder.kaniko.manifest import CONTAINER, DockerfileBuild, cache_repository
from builder.kaniko.manifest import manifest as job_of
from builder.kaniko.plan import DockerfilePlan, Facts, key_of, materials_of, read_facts, write_facts
from builder.kube.ended import Ended
from builder.kube.job import JobAttempt, JobLimits, JobSource
from builder.kube.site import site_of
from builder.plan import Diagnosis
from builder.settings import Settings
from builder.strategies.base import Keyed, Materials, Setup, Target

NAME = "kaniko"
TITLE = "Kaniko"
NEXT = "An operator sets Kaniko up with kaniko_executor."
PLAN = DockerfilePlan
OUTPUT_LINES = 50
IMAGES: Mapping[str, str] = {"kaniko_executor": "EXECUTOR_IMAGE", "fetch_image": "FETCH_IMAGE"}
UNREAD: Mapping[str, str] = {}
NUMBERS: Mapping[int, str] = {}
PUSHES = "Pushing image to"
"""How the executor's own line begins when the image is made."""
CACHED = re.compile(r"/cache/kaniko/[a-z0-9-]+:[0-9a-f]{64}$")
"""How such a line ends for a layer of the cache, which is pushed while the build goes on."""
NO_FACTS = Facts(dockerfile="Dockerfile", instructions=(), materials=())


def setup(settings: Settings) -> Setup | None:
    """See `Strategy.setup`."""
    if not settings.kaniko_executor:
        return None
    return Setup(site=site_of(settings), allowed=settings.dockerfile_from_allowed, has_cache=settings.kaniko_cache)


def takes(root: Path, asked: ImageRequest) -> str:
    """See `Strategy.takes`."""
    made = choose.choose(root, asked)
    return made.because if made.strategy == NAME else ""


def learn(setup: Setup, config: Mapping[str, Any]) -> str:
    """See `Strategy.learn`."""
    return json.dumps(setup.allowed)


def unread(setup: Setup, root: Path, asked: ImageRequest) -> str:
    """See `Strategy.unread`: its plans need nothing of the executor's image."""
    return learn(setup, {})


def plan(root: Path, asked: ImageRequest, known: str) -> DockerfilePlan:
    """See `Strategy.plan`: the Dockerfile, checked."""
    found, dockerfile = read_image(root, asked, tuple(json.loads(known)))
    assert dockerfile is not None, "it takes a source with a Dockerfile"
    return DockerfilePlan(
        because=found.because,
        dockerfile=found.dockerfile,
        sub_path=found.sub_path,
        bases=found.bases,
        pinned=found.pinned,
        warnings=found.warnings,
        instructions=tuple(_instructions(dockerfile)),
        mistyped=found.mistyped,
    )


def key(plan: DockerfilePlan, setup: Setup, keyed: Keyed) -> str:
    """See `Strategy.key`."""
    return key_of(
        plan,
        organization=keyed.organization,
        code_hash=keyed.code_hash,
        build_args=keyed.build_args,
        executor=setup.site.executor,
        build_id=keyed.build_id,
    )


def part(plan: DockerfilePlan) -> Callable[[str], bool] | None:
    """See `Strategy.part`: the executor applies `.dockerignore`."""
    return None


def facts(plan: DockerfilePlan, setup: Setup, archive: str) -> str:
    """See `Strategy.facts`."""
    return write_facts(plan, materials_of(plan, executor=setup.site.executor, archive=archive))


def manifest(
    plan: DockerfilePlan,
    setup: Setup,
    known: str,
    attempt: JobAttempt,
    source: JobSource,
    limits: JobLimits,
    target: Target,
) -> dict[str, Any]:
    """See `Strategy.manifest`."""
    prefix = target.cache_prefix if setup.has_cache else ""
    build = DockerfileBuild(
        repository=target.repository,
        tag=target.tag,
        dockerfile=plan.dockerfile,
        sub_path=plan.sub_path,
        build_args=tuple(sorted(target.build_args.items())),
        cache_repository=cache_repository(prefix, target.organization) if prefix else "",
        insecure_registries=target.insecure_registries,
        has_push_secret=target.has_push_secret,
    )
    return job_of(setup.site, attempt, source, limits, build)


@dataclass(frozen=True, kw_only=True)
class Executor:
    """The log and end of a Job of the executor."""

    known: Facts

    @property
    def materials(self) -> Materials:
        """See `Reading.materials`."""
        return self.known.materials

    @property
    def push_is_upload(self) -> bool:
        """See `Reading.push_is_upload`."""
        return True

    def shown(self, line: str) -> str:
        """See `Reading.shown`."""
        return ends.shown(line)

    def pushes(self, container: str, line: str) -> bool:
        """See `Reading.pushes`."""
        words = own_message(line) or "" if container == CONTAINER else ""
        return words.startswith(PUSHES) and not CACHED.search(words)

    def uploads(self, container: str, line: str) -> bool:
        """See `Reading.uploads`."""
        return self.pushes(container, line)

    def explaining(self, ended: Ended) -> tuple[str, ...]:
        """See `Reading.explaining`."""
        return (CONTAINER,) if ended.container in ("", CONTAINER) and ended.reason in ends.EXPLAINED else ()

    def is_own(self, line: str) -> bool:
        """See `Reading.is_own`."""
        return own_message(line) is not None

    def digest(self, said: str) -> str:
        """See `Reading.digest`."""
        return said if DIGEST.fullmatch(said) else ""

    def diagnose(self, ended: Ended, lines: Mapping[str, Sequence[str]]) -> Diagnosis:
        """See `Reading.diagnose`."""
        known = self.known
        own = lines.get(CONTAINER, ())
        return ends.diagnose(ended, own, known.instructions, known.dockerfile, known.mistyped)


def read(facts: str) -> Executor:
    """See `Strategy.read`."""
    try:
        return Executor(known=read_facts(facts))
    except ValueError:
        return Executor(known=NO_FACTS)


def _instructions(dockerfile: Dockerfile) -> Iterator[Instruction]:
    for number, stage in enumerate(dockerfile.stages):
        for one in (stage.start, *stage.instructions):
            yield Instruction(stage=number, line=one.line, text=one.original)
