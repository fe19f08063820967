"""What the line (`builder/build.py`) does for a key that nobody has built: run a step, package, push."""

from __future__ import annotations

from dataclasses import replace

from builder.attempt.apart import build_apart
from builder.attempt.attempt import Attempt
from builder.attempt.downloads import cache_of, is_there, keep, left_out, other_indexes
from builder.attempt.memo import recall, record
from builder.attempt.package import package, push
from builder.attempt.planned import Bound
from builder.attempt.results import blames_shown, copy_shown, lay, place_of, require_shown, show, store
from builder.attempt.start import starting
from builder.attempt.steps import StepResult, execute_step
from builder.attempt.verdict import of_refused, of_step
from builder.claims.outcome import Artifact, Material
from builder.errors import BuildError
from builder.plan import Network, Plan, Sees, Step


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
    if step.result:
        copy_shown(attempt)
    toolchain = bound.toolchain
    if toolchain.indexes.others and step.network is Network.INDEX:
        others = other_indexes(attempt, plan, step)
        toolchain = replace(toolchain, indexes=toolchain.indexes.with_others(others))
    attempt.named = None  # the step may write what its stubs name, or something else in its place
    require_shown(attempt)
    result = execute_step(attempt, toolchain, step)
    if blames_shown(attempt, result):
        copy_shown(attempt)
        attempt.log.system(f"{step.name} runs once more, over copies of what it could only read")
        result = execute_step(attempt, toolchain, step)
    judge(attempt, plan, step, result, earlier)
    record(attempt, bound, step, result.tail)
    store(attempt, step, place)
    if not any(later.result for later in plan.steps[plan.steps.index(step) + 1 :]):
        show(attempt, step, place)  # as in later builds: no step that follows writes into it, and its layer is stored
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
    raise found.failure(exit_code=result.exit_code)
