"""How a build ended, as text: the verdict, whose, where, tool output, log, next. Pure: a record in, lines out.

The recipe of docs/cli.md: verdict first, evidence in the middle, what to do last. Everything a stranger wrote passes
`safe.shown`.
"""

from __future__ import annotations

from builder.cli import format as fmt
from builder.cli.refusal import LABEL, WHOSE, row, tool_output_rows, verdict
from builder.cli.safe import shown
from builder.cli.stop import PROG
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS


def took_ms(build: pb.Build, now_ms: int = 0) -> int:
    """From the request to the end (or until now)."""
    return max((build.ended_at_ms or now_ms or build.updated_at_ms) - build.created_at_ms, 0)


def reference(build: pb.Build) -> str:
    """The artifact by digest; empty when there is none."""
    by_digest = [ref for ref in build.image_refs if "@sha256:" in ref]
    return by_digest[0] if by_digest else build.artifact_ref


def ended(build: pb.Build, look: Look, again: str = "") -> tuple[str, ...]:
    """The closing lines of any ended build. `again` is the command that would try once more."""
    if build.status == pb.BUILD_STATUS_SUCCEEDED:
        return succeeded(build, look)
    if build.status == pb.BUILD_STATUS_CANCELLED:
        return (cancelled(build, look),)
    return failed(build, look, again)


def succeeded(build: pb.Build, look: Look) -> tuple[str, ...]:
    """`SUCCEEDED  k7m2xq9d  21.0s  9.4 MiB`, and the command that starts it."""
    return (verdict(look, "green", "SUCCEEDED", *success_facts(build)), _next_run(build, look))


def success_facts(build: pb.Build) -> tuple[str, ...]:
    """Id, time and size of a build that succeeded."""
    facts = [fmt.short_id(build.build_id), fmt.duration(took_ms(build)), fmt.size(build.size_bytes)]
    return (*facts, "from the cache") if build.from_cache_of else tuple(facts)


def _next_run(build: pb.Build, look: Look) -> str:
    command = look.paint("cyan", f"{PROG} run {fmt.short_id(build.build_id)}")
    return f"{'next':<{LABEL}}{command}"


def cancelled(build: pb.Build, look: Look) -> str:
    """One line; nothing more is to be done."""
    facts = (fmt.short_id(build.build_id), fmt.duration(took_ms(build)))
    return verdict(look, "yellow", "CANCELLED", *facts, "nothing of it runs any more; its log is kept")


def failed(build: pb.Build, look: Look, again: str = "") -> tuple[str, ...]:
    """The block of a failed build."""
    failure = build.failure
    facts = [shown(failure.reason), fmt.short_id(build.build_id), fmt.duration(took_ms(build))]
    if failure.error_class == "platform" and build.attempt > 1:
        facts.append(f"after {build.attempt} attempts")
    whose = WHOSE.get(failure.error_class, WHOSE["platform"])
    rows = [verdict(look, "red", "FAILED", *facts)]
    rows += row("whose", f"{whose}: {failure.message}", look)
    rows += row("where", failure.where, look)
    rows += tool_output_rows(failure.said, look)
    if failure.error_class == "user_code":
        rows += row("log", f"{PROG} logs {fmt.short_id(build.build_id)} --failed", look, "cyan")
    return (*rows, *row("next", _what_to_do(failure, again), look))


def _what_to_do(failure: pb.Failure, again: str) -> str:
    known = REASONS.get(failure.reason)
    text = failure.next or (known.hint if known else "Try again later.")
    if again and text.endswith("Try again later."):
        return f"{text[:-1]}: {again}"
    return text
