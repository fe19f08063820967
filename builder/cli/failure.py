"""How a build ended, as text: the verdict, whose, where, said, log, next. Pure: a record in, lines out.

The recipe of docs/cli.md: verdict first, evidence in the middle, what to do last. Everything a stranger wrote passes
`safe.shown`.
"""

from __future__ import annotations

from collections.abc import Sequence

from builder.cli import format as fmt
from builder.cli.safe import lines, shown
from builder.cli.stop import Stop
from builder.cli.terminal import Look
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import REASONS

PROGRAM = "ignite-builder"
LABEL = 7
SAID_ROWS = 6

_WHOSE = {
    "user_code": "your code (user_code)",
    "client": "the request (client)",
    "platform": "the platform (platform)",
}


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
    return (_verdict(look, "green", "SUCCEEDED", *success_facts(build)), _next_run(build, look))


def success_facts(build: pb.Build) -> tuple[str, ...]:
    """Id, time and size of a build that succeeded."""
    facts = [fmt.short_id(build.build_id), fmt.duration(took_ms(build)), fmt.size(build.size_bytes)]
    return (*facts, "from the cache") if build.from_cache_of else tuple(facts)


def _next_run(build: pb.Build, look: Look) -> str:
    command = look.paint("cyan", f"{PROGRAM} run {fmt.short_id(build.build_id)}")
    return f"{'next':<{LABEL}}{command}"


def cancelled(build: pb.Build, look: Look) -> str:
    """One line; nothing more is to be done."""
    facts = (fmt.short_id(build.build_id), fmt.duration(took_ms(build)))
    return _verdict(look, "yellow", "CANCELLED", *facts, "nothing of it runs any more; its log is kept")


def failed(build: pb.Build, look: Look, again: str = "") -> tuple[str, ...]:
    """The block of a failed build."""
    failure = build.failure
    facts = [shown(failure.reason), fmt.short_id(build.build_id), fmt.duration(took_ms(build))]
    if failure.error_class == "platform" and build.attempt > 1:
        facts.append(f"after {build.attempt} attempts")
    whose = _WHOSE.get(failure.error_class, _WHOSE["platform"])
    rows = [_verdict(look, "red", "FAILED", *facts)]
    rows += row("whose", f"{whose}: {failure.message}", look)
    rows += row("where", failure.where, look)
    rows += said_rows(failure.said, look)
    if failure.error_class == "user_code":
        rows += row("log", f"{PROGRAM} logs {fmt.short_id(build.build_id)} --failed", look, "cyan")
    return (*rows, *row("next", _what_to_do(failure, again), look))


def _what_to_do(failure: pb.Failure, again: str) -> str:
    known = REASONS.get(failure.reason)
    text = failure.next or (known.hint if known else "Try again later.")
    if again and text.endswith("Try again later."):
        return f"{text[:-1]}: {again}"
    return text


def refused(stop: Stop, look: Look) -> tuple[str, ...]:
    """The block where no build exists, or none could be asked for."""
    head = _wrapped(f"{stop.verdict}  {shown(stop.reason)}: {shown(stop.message)}", look, len(stop.verdict) + 2)
    head[0] = look.paint("red", look.paint("bold", stop.verdict)) + head[0][len(stop.verdict) :]
    whose = _WHOSE.get(stop.error_class, _WHOSE["client"])
    rows = row("whose", f"{whose}: {stop.where}" if stop.where else whose, look)
    return (*head, *rows, *said_rows(stop.said, look), *row("next", stop.next, look))


def row(label: str, text: str, look: Look, style: str = "") -> list[str]:
    """One labelled row, wrapped below its own column; nothing for an empty text."""
    if not text:
        return []
    first, *rest = _wrapped(" " * LABEL + shown(text), look, LABEL)
    body = [first[LABEL:], *(line[LABEL:] for line in rest)]
    painted = [look.paint(style, line) if style else line for line in body]
    return [f"{label:<{LABEL}}{painted[0]}", *(" " * LABEL + line for line in painted[1:])]


def said_rows(said: Sequence[str], look: Look) -> list[str]:
    """The tool's own words: at most six lines, the last saying how many more there are."""
    words = [line for text in said for line in lines(text)]
    if not words:
        return []
    if len(words) > SAID_ROWS:
        hidden = len(words) - (SAID_ROWS - 1)
        words = [*words[: SAID_ROWS - 1], f"{look.symbols.ellipsis} {fmt.count(hidden, 'more line')}"]
    room = None if look.columns is None else max(look.columns - LABEL, 20)
    rows = [part for line in words for part in fmt.wrap(line, room)]
    return [f"{'said' if index == 0 else '':<{LABEL}}{text}".rstrip() for index, text in enumerate(rows)]


def _wrapped(text: str, look: Look, indentation: int) -> list[str]:
    """Rows of one text; those after the first stand below column `indentation`."""
    head, body = text[:indentation], text[indentation:]
    room = None if look.columns is None else max(look.columns - indentation, 20)
    first, *rest = fmt.wrap(body, room)
    return [head + first, *(" " * indentation + line for line in rest)]


def _verdict(look: Look, style: str, word: str, *facts: str) -> str:
    return "  ".join((look.paint("bold", look.paint(style, word)), *facts))
