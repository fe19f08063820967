"""The line on a build node: fetch → unpack → detect → plan → run → package → push. One claimed build, one outcome.

Knows no runtime, no transport, no clock: every effect is a port (`Ports`), made once in `builder/node/ports.py`.
The control side's half (attest, tags, report) is `builder/finalize.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from builder import pipelines
from builder.errors import BuildError
from builder.key import build_key
from builder.pipelines.base import Pipeline, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Plan, Step
from builder.source.tree import Tree

PHASES = ("FETCH_SOURCE", "DETECT", "PLAN", "BUILD", "PACKAGE", "PUSH")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the claim's answer granted. `number` is the fencing token; times ms, sizes bytes."""

    build_id: str
    number: int
    attempt: int
    organization: str
    request: PlanRequest
    source_sha256: str
    single_file: bool
    no_cache: bool
    timeout_ms: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """The unpacked source: a read-only view, its canonical digest, and a line for people."""

    tree: Tree
    code_hash: str
    summary: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What was pushed: `digest` of the manifest, `reference` by digest, and what went into it."""

    digest: str
    reference: str
    size_bytes: int
    summary: str
    materials: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """How a step ended: `reason` names a limit that stopped it, or is empty; `limit`, `peak`: bytes, ms, processes."""

    exit_code: int
    tail: tuple[str, ...]
    reason: str = ""
    detail: str = ""
    limit: int = 0
    peak: int = 0


class Log(Protocol):
    """Where lines go: `said` ours (SYSTEM), phases as they start."""

    def said(self, line: str) -> None: ...

    def phase(self, name: str) -> AbstractContextManager[None]: ...


@dataclass(frozen=True, kw_only=True)
class Ports:
    """The effects of one build. Each may raise `BuildError`; nothing else is expected of them."""

    open_source: Callable[[Claim], Source]
    planned: Callable[[Claim, str, Source, Plan], str]
    """Tell the store the key: GO_ON, REUSE, ATTACHED or STALE."""
    toolchain_digests: Callable[[Plan], Mapping[str, str]]
    prepare: Callable[[Plan], None]
    """Write the plan's files into the working copy and compose the root."""
    run: Callable[[Plan, Step], StepResult]
    package_and_push: tuple[Callable[[Claim, Plan], object], Callable[[Claim, object], Artifact]]
    log: Log
    label: Callable[[str], None]
    """Names a point of the line; a fault test may end the process here."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One of: an artifact, a failure, or no longer ours (`verdict` REUSE, ATTACHED, STALE)."""

    verdict: str
    artifact: Artifact | None = None
    failure: BuildError | None = None
    unexpected: str = ""
    phases: tuple[str, ...] = field(default=())


def run_build(claim: Claim, ports: Ports, catalog: Catalog, known: tuple[Pipeline, ...]) -> Outcome:
    """Turn one claimed build into one outcome. Does not raise, does not retry, does not know any runtime."""
    log = ports.log
    try:
        ports.label("after-claim")
        with _phase(log, "FETCH_SOURCE"):
            source = ports.open_source(claim)
            log.said(source.summary)
        with _phase(log, "DETECT"):
            detection = pipelines.detect(source.tree, claim.request.runtime, known)
            log.said(f"{detection.runtime}, because {detection.because}")
        with _phase(log, "PLAN"):
            plan = pipelines.plan(detection, source.tree, claim.request, catalog, known)
            _explain(log, plan, source)
            key = build_key(claim.organization, source.code_hash, plan, ports.toolchain_digests(plan))
            verdict = ports.planned(claim, key, source, plan)
        if verdict != "GO_ON":
            return Outcome(verdict=verdict)
        with _phase(log, "BUILD"):
            ports.prepare(plan)
            for number, step in enumerate(plan.steps, 1):
                log.said(f"step {number} of {len(plan.steps)}, {step.name}: {' '.join(step.argv)}")
                _judge(plan, step, ports.run(plan, step), known)
                ports.label("mid-build")
        package, push = ports.package_and_push
        with _phase(log, "PACKAGE"):
            image = package(claim, plan)
        with _phase(log, "PUSH"):
            artifact = push(claim, image)
            log.said(artifact.summary)
        ports.label("after-push")
        return Outcome(verdict="GO_ON", artifact=artifact)
    except BuildError as error:  # reason, error_class and hint travel inside
        return Outcome(verdict="GO_ON", failure=error)
    except Exception as error:  # nobody foresaw it: ours, never the user's
        said = f"{type(error).__name__} in the builder; the worker's own log has the trace"
        return Outcome(verdict="GO_ON", failure=BuildError("Internal", said), unexpected=repr(error))


@contextmanager
def _phase(log: Log, name: str) -> Iterator[None]:
    """A failure inside carries the name of its phase."""
    with log.phase(name):
        try:
            yield
        except BuildError as error:
            error.phase = error.phase or name
            raise


def _explain(log: Log, plan: Plan, source: Source) -> None:
    for choice in plan.choices:
        log.said(f"{choice.name} {choice.value}: {choice.why}")
    for warning in (*source.warnings, *plan.warnings):
        log.said(f"warning: {warning}")


def _judge(plan: Plan, step: Step, result: StepResult, known: tuple[Pipeline, ...]) -> None:
    """Raise what a step's end means; a limit that stopped it speaks before its exit code does."""
    if result.reason:
        said = f"step {step.name}: {result.detail}"
        raise BuildError(result.reason, said, exit_code=result.exit_code, limit=result.limit, peak=result.peak)
    if result.exit_code == 0:
        return
    found = pipelines.diagnose(plan.detection.runtime, step, result.exit_code, result.tail, known)
    raise BuildError(
        found.reason,
        found.message,
        where=found.where,
        said=found.said,
        next=found.next,
        exit_code=result.exit_code,
    )


def working_copy(work: Path) -> Path:
    """Where the source lies in a build's work folder; inside the sandbox it is `/work/src`."""
    return work / "src"
