"""The line of image mode where a Docker engine takes a cluster's place: fetch → check → plan → build → export → push.

The engine builds with its own privileges, as whoever writes a Dockerfile on this machine does by hand. So a node builds
with one for its own organization alone. It pushes nothing: the image comes back as an archive, whose layers the node
pushes itself, so the engine needs no login and the digest is of what was read here. The engine stays as it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from builder.attempt.attempt import Attempt
from builder.attempt.canonical import context_hash, write_archive
from builder.attempt.fetch import open_source, reading_source
from builder.attempt.package import Packaged, push
from builder.attempt.planned import report_key
from builder.attempt.verdict import of_fault
from builder.claims.outcome import Artifact, Outcome, Verdict
from builder.contract.request import REBASED, built_image, is_rebase
from builder.dockerfile.choose import ImageRequest, Strategy, placed
from builder.engine import api
from builder.engine.ended import Transcript, diagnose, exit_code, is_full, is_own
from builder.engine.plan import ContainerLimits, EnginePlan, arguments_of, materials_of, tag_of
from builder.errors import BuildError, PlatformError
from builder.images.archive import read_archive
from builder.images.image import Image
from builder.kaniko.plan import key_of
from builder.plan import Toolchain
from builder.sandbox.lines import LineSplitter
from builder.settings import Settings
from builder.source import limits
from builder.strategies import buildpacks
from builder.strategies import engine as strategy
from builder.strategies.base import prefix_of

KILLED = 137
"""The exit code of a program that SIGKILL ended; the kernel sends it at a memory limit."""
SERVER_ERROR = 500
"""Answers of HTTP from here on are the engine's own trouble."""


class Engine(Protocol):
    """What is asked of an engine. See `api.Engine`."""

    def cpus(self) -> int: ...

    def images(self) -> frozenset[str]: ...

    def build(
        self, context: BinaryIO, arguments: Mapping[str, Any], check: Callable[[], None]
    ) -> Iterable[Mapping[str, Any]]: ...

    def export(self, image: str, out: Path, limit: int, check: Callable[[], None]) -> None: ...

    def was_out_of_memory(self, containers: Sequence[str], since: float) -> bool: ...

    def take_away(
        self, tag: str, made: Sequence[str], before: frozenset[str], containers: Sequence[str]
    ) -> tuple[str, ...]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class EngineBuilder:
    """Builds a claimed image build by the engine at `host`, for `organization` alone.

    `allowed`: patterns of images that a Dockerfile may name.
    """

    host: str
    organization: str
    allowed: tuple[str, ...] = ("*",)
    connect: Callable[[str], Engine] = api.connect

    def run(self, attempt: Attempt) -> Outcome:
        """Turn one claimed build into one outcome. Does not raise."""
        try:
            return self._build(attempt)
        except BuildError as error:
            return Outcome(failure=error)
        except api.EngineRefused as refused:
            message = f"the Docker engine refuses: {refused.message}"[:400]
            failure = BuildError("ToolchainUnavailable", message, where="docker_host", phase=attempt.log.phase_name)
            return Outcome(failure=failure)
        except Exception as error:
            return of_fault(attempt, error)

    def _build(self, attempt: Attempt) -> Outcome:
        attempt.node.label("after-claim")
        self._require_own(attempt.grant.organization_name)
        if is_rebase(attempt.grant.request):
            message = f"an image is rebased by {buildpacks.TITLE}, and this node has a Docker engine alone"
            step = "An operator sets up a cluster with buildpacks: docs/image-builds.md"
            raise BuildError("InvalidRequest", message, where=REBASED, next=step)
        asked, _ = built_image(attempt.grant.request)
        arguments = dict(asked.build_args or attempt.grant.request.build_args)
        request = ImageRequest(
            dockerfile=asked.dockerfile_path or attempt.grant.request.dockerfile,
            sub_path=asked.sub_path,
            build_args=arguments,
            buildpacks=attempt.grant.request.buildpacks,
            registry=attempt.grant.destination.registry,
            prefix=prefix_of(attempt.grant.destination.repository, attempt.grant.organization_name),
        )
        with reading_source(attempt) as reading:
            with attempt.phase("FETCH_SOURCE"):
                source = open_source(attempt, reading)
                attempt.log.system(source.summary)
            with attempt.phase("DETECT"):
                choice = reading.strategy(request)
                asks: Strategy = "buildpacks" if choice.strategy == buildpacks.NAME else "kaniko"
                _, because = placed(asks, choice.because, cluster=False, docker_host=self.host, where="dockerfilePath")
                plan: EnginePlan = reading.image(strategy, request, json.dumps(self.allowed))
                attempt.log.system(f"an image by {strategy.TITLE}, because {because}")
                warnings = (*source.warnings, *plan.warnings)
                for warning in warnings:
                    attempt.log.system(f"warning: {warning}")
        with attempt.phase("PLAN"):
            key = key_of(
                plan,
                organization=attempt.grant.organization_name,
                code_hash=context_hash(attempt.source / plan.sub_path) if plan.sub_path else source.code_hash,
                build_args=arguments,
                executor="",
                build_id=attempt.grant.build_id,
                strategy=strategy.NAME,
            )
            toolchain = Toolchain(name=strategy.NAME, runtime="", version="", target="", base="")
            verdict = report_key(attempt, key, source.code_hash, toolchain, warnings, source.provenance)
        if verdict is not Verdict.GO_ON:
            return Outcome(verdict=verdict)
        return Outcome(artifact=self._made(attempt, plan, arguments))

    def _require_own(self, organization: str) -> None:
        """Raises `BuildError` ToolchainUnavailable for a build of others: it would run as root of this machine."""
        if organization == self.organization:
            return
        message = (
            f"this node builds Dockerfiles by a Docker engine, for the organization {self.organization} alone; "
            f"this build is of {organization}"
        )
        step = "An operator sets up a cluster for several organizations: docs/image-builds.md"
        raise BuildError("ToolchainUnavailable", message, where="docker_host", next=step)

    def _made(self, attempt: Attempt, plan: EnginePlan, build_args: Mapping[str, str]) -> Artifact:
        settings, seen = attempt.node.settings, Transcript()
        tag = tag_of(attempt.grant.build_id, attempt.grant.attempt)
        with ExitStack() as stack:
            with attempt.phase("BUILD"):
                archive = write_archive(
                    attempt.source / plan.sub_path,
                    attempt.private / "context.tar",
                    limit=limits.ArchiveLimits().archive,
                    check=attempt.check,
                    part=plan.part(),
                )
                engine = stack.enter_context(closing(self.connect(self.host)))
                arguments = arguments_of(
                    plan,
                    tag=tag,
                    build_args=build_args,
                    limits=ContainerLimits(cpus=settings.cpus, memory_bytes=settings.memory_bytes),
                    cpus_there=engine.cpus(),
                )
                stack.callback(_tidy, attempt, engine, tag, seen, engine.images())
                began = time.time()
                with archive.path.open("rb") as context:
                    _follow(attempt, engine, context, arguments, seen)
                if seen.error:
                    raise _failure(engine, plan, seen, settings.memory_bytes, began)
                attempt.node.label("mid-build")
            with attempt.phase("PACKAGE"):
                image = _exported(attempt, engine, tag)
        packaged = Packaged(image=image, materials=materials_of(plan, f"sha256:{archive.sha256}"))
        with attempt.phase("PUSH"):
            artifact = push(attempt, packaged)
            attempt.log.system(artifact.summary)
        attempt.node.label("after-push")
        return artifact


def _follow(
    attempt: Attempt, engine: Engine, context: BinaryIO, arguments: Mapping[str, Any], seen: Transcript
) -> None:
    """Build, its lines into the log as they come. A failure of the build is `seen.error`.

    Raises `api.EngineRefused` for what is no fault of the Dockerfile.
    """
    splitters = {"STDOUT": LineSplitter(), "STDERR": LineSplitter()}

    def emit(stream: str, line: str) -> None:
        seen.heard(line)  # the diagnosis has no secret either
        attempt.log.emit(stream, line)

    with attempt.log.output(emit) as output:

        def flush() -> None:
            for stream, splitter in splitters.items():
                for line in splitter.close():
                    output.add(stream, line)

        try:
            for message in engine.build(context, arguments, attempt.check):
                stream, text = seen.message(message)
                if is_own(text):  # a program may have left its last line open
                    flush()
                for line in splitters[stream].feed(text.encode("utf-8", "replace")):
                    output.add(stream, line)
                attempt.node.label("in-step")
        except api.EngineRefused as refused:
            if refused.status >= SERVER_ERROR and not is_full(refused.message):
                raise
            seen.error = refused.message
        flush()


def _failure(engine: Engine, plan: EnginePlan, seen: Transcript, memory: int, began: float) -> BuildError:
    code = exit_code(seen.error)
    limit = memory if code == KILLED and engine.was_out_of_memory(tuple(seen.containers), began) else 0
    found = diagnose(seen, plan.instructions, plan.dockerfile, out_of_memory=limit, mistyped=plan.mistyped)
    if found.reason in ("NodeDiskFull", "RegistryUnavailable"):
        return PlatformError(found.reason, found.message, where=found.where, said=found.said)
    return found.failure(exit_code=code, limit=limit, peak=limit)


def _exported(attempt: Attempt, engine: Engine, tag: str) -> Image:
    """The image that the engine made, read from its archive."""
    out, most = attempt.private / "image.tar", attempt.node.settings.artifact_bytes
    try:
        engine.export(tag, out, most, attempt.check)
        return read_archive(out, attempt.private, limit=most, check=attempt.check)
    finally:
        out.unlink(missing_ok=True)


def _tidy(attempt: Attempt, engine: Engine, tag: str, seen: Transcript, before: frozenset[str]) -> None:
    """Take away what the build left in the engine. Trouble with it ends no build: a line of the log has it."""
    made = (*seen.images, *([seen.image] if seen.image else []))
    try:
        left = engine.take_away(tag, made, before, tuple(seen.containers))
    except (BuildError, api.EngineRefused) as error:
        left = (str(error),)
    for one in left:
        attempt.log.system(f"warning: the Docker engine still has {one}")


def engine_of(settings: Settings) -> EngineBuilder:
    """The builder of the settings, whose `docker_host` is not empty."""
    return EngineBuilder(
        host=settings.docker_host, organization=settings.organization, allowed=settings.dockerfile_from_allowed
    )
