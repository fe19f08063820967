"""The line on a build node: fetch → unpack → detect → plan → run → package → push. One claimed build, one outcome.

Knows no runtime, no transport, no clock. Every effect is a function of `builder/attempt/` over one `Attempt`.
The control side's half (attest, tags, report) is `builder/finalize.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from builder.attempt.attempt import Attempt
from builder.attempt.fetch import FetchedSource, open_source, reading_source
from builder.attempt.planned import Bound, bind, report_key
from builder.claims.outcome import Material, Outcome, Verdict
from builder.errors import BuildError
from builder.key import build_key
from builder.plan import Network, Plan, Sees


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
        # With the sandbox and the push, which a key that is known does without.
        from builder.attempt.running import finish_build, run_step
        from builder.attempt.steps import place, prepare

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
        from builder.attempt.verdict import of_fault

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


def _explain(attempt: Attempt, plan: Plan, source: FetchedSource) -> None:
    for choice in plan.choices:
        attempt.log.system(f"{choice.name} {choice.value}: {choice.why}")
    for warning in (*source.warnings, *plan.warnings):
        attempt.log.system(f"warning: {warning}")
