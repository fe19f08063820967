"""The line on a build node: fetch → unpack → detect → plan → run → package → push. One claimed build, one outcome.

Knows no runtime, no transport, no clock. Every effect is a function of `builder/attempt/` over one `Attempt`.
The control side's half (attest, tags, report) is `builder/finalize.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from builder.attempt.apart import build_apart
from builder.attempt.attempt import Attempt
from builder.attempt.downloads import cache_of, is_there, keep, left_out, other_indexes
from builder.attempt.fetch import Source, open_source, reading_source
from builder.attempt.memo import recall, record
from builder.attempt.package import package, push
from builder.attempt.planned import Bound, bind, report_key
from builder.attempt.results import lay, place_of, store
from builder.attempt.start import starting
from builder.attempt.steps import StepResult, execute_step, place, prepare
from builder.attempt.verdict import of_fault, of_refused, of_step
from builder.claims.outcome import Artifact, Material, Outcome, Verdict
from builder.errors import BuildError
from builder.key import build_key
from builder.plan import Network, Plan, Sees, Step


@dataclass(frozen=True, kw_only=True)
class Planned:
    """A build whose key is known: what to run on what, and what the store decided about the key."""

    bound: Bound
    key: str
    verdict: Verdict


def run_build(attempt: Attempt) -> Outcome:
    """Turn one claimed build into one outcome. Does not raise, does not retry, knows no runtime."""
    try:
        planned = plan_build(attempt)
        if planned.verdict is not Verdict.GO_ON:
            return Outcome(verdict=planned.verdict)
        bound, steps = planned.bound, planned.bound.plan.steps
        with attempt.phase("BUILD"):
            prepare(attempt, bound.plan)
            earlier: tuple[str, ...] = ()
            fetched: tuple[Material, ...] = ()
            seeing = next((number for number, step in enumerate(steps, 1) if step.sees is Sees.ALL), 0)
            for number, step in enumerate(steps, 1):
                if number == seeing:
                    place(attempt, bound.plan)
                if not step.when and step.sees is not Sees.APART:
                    attempt.log.system(f"step {number} of {len(steps)}, {step.name}: {' '.join(step.argv)}")
                lines, found = run_step(attempt, bound, step, earlier)
                earlier += lines if step.network is Network.NONE else ()
                fetched = tuple(dict.fromkeys((*fetched, *found)))  # two steps may share a cache
                attempt.node.label("mid-build")
        return Outcome(artifact=finish_build(attempt, bound, fetched))
    except BuildError as error:  # reason, error_class and hint travel inside
        return Outcome(failure=error)
    except Exception as error:
        return of_fault(attempt, error)


def plan_build(attempt: Attempt) -> Planned:
    """From the claim to the key and its verdict. Runs nothing of the source."""
    log, request = attempt.log, attempt.request
    attempt.node.label("after-claim")
    with reading_source(attempt) as reading:
        with attempt.phase("FETCH_SOURCE"):
            source = open_source(attempt, reading)
            log.system(source.summary)
        with attempt.phase("DETECT"):
            detection = reading.detect(request.runtime, request.build_args.get("sub_path", ""))
            log.system(f"{detection.runtime}, because {detection.because}")
        with attempt.phase("PLAN"):
            found = reading.plan(detection, request)
            plan = found.plan
            _explain(attempt, plan, source)
            bound = bind(attempt, plan, found.materials)
            key = build_key(attempt.grant.organization_name, source.code_hash, plan, bound.toolchain.digests)
            verdict = report_key(
                attempt, key, source.code_hash, plan.toolchain, (*source.warnings, *plan.warnings), source.provenance
            )
    return Planned(bound=bound, key=key, verdict=verdict)


def run_step(
    attempt: Attempt, bound: Bound, step: Step, earlier: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Material, ...]]:
    """(last lines, what it downloaded) of a step that runs, or is left out where the node has its result."""
    plan = bound.plan
    if step.when and not is_there(attempt, step.when):
        return (), ()
    if step.sees is Sees.APART:
        build_apart(attempt, bound, step, lambda result: judge(attempt, plan, step, result))
        return (), ()
    if (there := left_out(attempt, plan, step)) is not None:
        attempt.log.system(f"{step.name} is left out: the cache {cache_of(step)} has what it downloads")
        return (), there
    if (lines := recall(attempt, bound, step)) is not None:
        attempt.log.system(f"{step.name} is left out: nothing changed that it looks at")
        for line in lines:
            attempt.log.emit("STDOUT", line)
        return lines, ()
    place = place_of(attempt, bound, step)
    if lay(attempt, step, place):
        attempt.log.system(f"{step.name} is left out: the node has its result")
        return (), ()
    toolchain = bound.toolchain
    if toolchain.indexes.others and step.network is Network.INDEX:
        others = other_indexes(attempt, plan, step)
        toolchain = replace(toolchain, indexes=toolchain.indexes.with_others(others))
    result = execute_step(attempt, toolchain, step)
    judge(attempt, plan, step, result, earlier)
    record(attempt, bound, step, result.tail)
    store(attempt, step, place)
    return result.tail, keep(attempt, plan, step)


def finish_build(attempt: Attempt, bound: Bound, fetched: tuple[Material, ...] = ()) -> Artifact:
    """From the finished work on: one image over the base that was bound, pushed by digest, started beside that."""
    with starting(attempt, bound) as start:
        with attempt.phase("PACKAGE"):
            packaged = package(attempt, bound, fetched)
        with attempt.phase("PUSH"):
            artifact = push(attempt, packaged)
            attempt.log.system(artifact.summary)
            artifact = replace(artifact, start=start.verdict())
    attempt.node.label("after-push")
    return artifact


def judge(attempt: Attempt, plan: Plan, step: Step, result: StepResult, earlier: tuple[str, ...] = ()) -> None:
    """Raise what the end of a step means. A limit that stopped it goes before its exit code.

    `earlier`: the last lines of the steps before it, but for those of a step with a network.
    """
    if result.reason:
        message = f"step {step.name}: {result.detail}"
        raise BuildError(result.reason, message, exit_code=result.exit_code, limit=result.limit, peak=result.peak)
    if result.exit_code == 0:
        return
    if ours := of_step(attempt, step, result):
        raise ours
    with attempt.reading() as reading:
        found = reading.diagnose(plan.detection.runtime, step, result.exit_code, (*earlier, *result.tail))
    if refused := of_refused(attempt, plan, result, found):
        raise refused
    raise BuildError(
        found.reason,
        found.message,
        where=found.where,
        said=found.said,
        next=found.next,
        exit_code=result.exit_code,
        error_class=found.error_class,
    )


def _explain(attempt: Attempt, plan: Plan, source: Source) -> None:
    for choice in plan.choices:
        attempt.log.system(f"{choice.name} {choice.value}: {choice.why}")
    for warning in (*source.warnings, *plan.warnings):
        attempt.log.system(f"warning: {warning}")
