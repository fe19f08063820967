"""A command that ends without a build, as text; and the labelled rows that a failed build shares. Pure.

Nothing here needs a record: a mistyped command is answered without loading the contract. Text of strangers passes
`safe.shown`.
"""

from __future__ import annotations

from collections.abc import Sequence

from builder.cli import format as fmt
from builder.cli.safe import lines, shown
from builder.cli.stop import Stop
from builder.cli.terminal import Look

LABEL = 7
TOOL_OUTPUT_ROWS = 6

WHOSE = {
    "user_code": "your code (user_code)",
    "client": "the request (client)",
    "platform": "the platform (platform)",
}


def refused(stop: Stop, look: Look) -> tuple[str, ...]:
    """The block where no build exists, or none could be asked for. An interrupt is one line: nothing is to be done."""
    if stop.verdict == "CANCELLED":
        return (verdict(look, "yellow", stop.verdict, shown(stop.message)),)
    head = _wrapped(f"{stop.verdict}  {shown(stop.reason)}: {shown(stop.message)}", look, len(stop.verdict) + 2)
    head[0] = look.paint("red", look.paint("bold", stop.verdict)) + head[0][len(stop.verdict) :]
    whose = WHOSE.get(stop.error_class, WHOSE["client"])
    rows = row("whose", f"{whose}: {stop.where}" if stop.where else whose, look)
    return (*head, *rows, *tool_output_rows(stop.tool_output, look), *row("next", stop.next, look))


def row(label: str, text: str, look: Look, style: str = "") -> list[str]:
    """One labelled row, wrapped below its own column; nothing for an empty text."""
    if not text:
        return []
    first, *rest = _wrapped(" " * LABEL + shown(text), look, LABEL)
    body = [first[LABEL:], *(line[LABEL:] for line in rest)]
    painted = [look.paint(style, line) if style else line for line in body]
    return [f"{label:<{LABEL}}{painted[0]}", *(" " * LABEL + line for line in painted[1:])]


def tool_output_rows(output: Sequence[str], look: Look) -> list[str]:
    """The tool's own words: at most six lines, the last saying how many more there are."""
    words = [line for text in output for line in lines(text)]
    if not words:
        return []
    if len(words) > TOOL_OUTPUT_ROWS:
        hidden = len(words) - (TOOL_OUTPUT_ROWS - 1)
        words = [*words[: TOOL_OUTPUT_ROWS - 1], f"{look.symbols.ellipsis} {fmt.count(hidden, 'more line')}"]
    room = None if look.columns is None else max(look.columns - LABEL, 20)
    rows = [part for line in words for part in fmt.wrap(line, room)]
    return [f"{'said' if index == 0 else '':<{LABEL}}{text}".rstrip() for index, text in enumerate(rows)]


def _wrapped(text: str, look: Look, indentation: int) -> list[str]:
    """Rows of one text; those after the first stand below column `indentation`."""
    head, body = text[:indentation], text[indentation:]
    room = None if look.columns is None else max(look.columns - indentation, 20)
    first, *rest = fmt.wrap(body, room)
    return [head + first, *(" " * indentation + line for line in rest)]


def verdict(look: Look, style: str, word: str, *facts: str) -> str:
    """The first line of a block: one bold word, then facts."""
    return "  ".join((look.paint("bold", look.paint(style, word)), *facts))
