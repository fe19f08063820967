"""A Dockerfile cut into instructions, as BuildKit's parser cuts it: directives, continuations, comments, heredocs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from builder.dockerfile.words import BLANKS, SPACES, Bad, Lex, quoted_words, strip, take_flags
from builder.errors import BuildError
from builder.text import visible

INVALID = "DockerfileInvalid"
MOST_BYTES = 1024 * 1024
MOST_LINE = 64 * 1024
"""BuildKit's longest line, its end included."""
MOST_INSTRUCTIONS = 20_000
_BOM = "\ufeff"
_DIRECTIVE = re.compile(r"#[\t\n\f\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=")
_HEREDOC = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_DIRECTIVES = ("syntax", "escape", "check")
WITH_HEREDOC = ("add", "copy", "run")
_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Heredoc:
    """A document inside of the file. `name` ends it."""

    name: str
    chomp: bool
    content: str


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction. `name` is in lower case, `original` its line with continuations joined; lines count from 1.

    `args` of ENV and LABEL are name and value by turns; `trigger` is the instruction of an ONBUILD.
    """

    name: str
    flags: tuple[str, ...]
    args: tuple[str, ...]
    is_json: bool
    line: int
    end_line: int
    original: str
    heredocs: tuple[Heredoc, ...] = ()
    trigger: Instruction | None = None


@dataclass(frozen=True, kw_only=True)
class Document:
    """The instructions of a file, and what names the place of one."""

    name: str
    lines: tuple[str, ...]
    escape: str
    instructions: tuple[Instruction, ...]

    def error(
        self, message: str, at: Instruction, word: str = "", next: str = "", *, reason: str = INVALID
    ) -> BuildError:
        """An error at an instruction, or at the first place of `word` in it."""
        return invalid(self.name, self.lines, message, at.line, at.end_line, word, next, reason=reason)

    def place(self, at: Instruction, word: str) -> str:
        """FILE:LINE:COLUMN of the first place of `word` in an instruction, for a warning."""
        return self.error("", at, word).where


def invalid(
    name: str,
    lines: tuple[str, ...],
    message: str,
    line: int,
    end_line: int = 0,
    word: str = "",
    next: str = "",
    *,
    reason: str = INVALID,
) -> BuildError:
    """The error with line, column and the line itself."""
    text = lines[line - 1] if line <= len(lines) else ""
    column = len(text) - len(text.lstrip(SPACES)) + 1
    if word:
        for number in range(line, min(end_line or line, len(lines)) + 1):
            if (at := lines[number - 1].find(word)) >= 0:
                line, column, text = number, at + 1, lines[number - 1]
                break
    said = (visible(text.strip(SPACES), limit=_SHOWN),) if text.strip(SPACES) else ()
    return BuildError(reason, message, where=f"{name}:{line}:{column}", said=said, next=next)


def read(data: bytes, name: str = "Dockerfile") -> Document:
    """The instructions of a file. Raises `BuildError` DockerfileInvalid."""
    if len(data) > MOST_BYTES:
        raise BuildError("DockerfileInvalid", f"{name} has {len(data)} bytes, {MOST_BYTES} are allowed", where=name)
    raw = data.decode("utf-8", "surrogateescape").removeprefix(_BOM).split("\n")
    if raw[-1] == "":
        raw.pop()
    lines = tuple(line.rstrip("\r") for line in raw)
    for number, line in enumerate(raw, 1):
        if len(line) >= MOST_LINE - 1 and len(line.encode("utf-8", "surrogateescape")) >= MOST_LINE - 1:
            raise invalid(name, lines, f"the line is longer than {MOST_LINE - 1} bytes", number)
    escape, first = _directives(lines, name)
    found = tuple(_instructions(raw, lines, first, escape, name))
    if not found:
        step = "Begin it with FROM and the image to build on."
        raise BuildError("DockerfileInvalid", f"{name} has no instruction", where=f"{name}:1:1", next=step)
    return Document(name=name, lines=lines, escape=escape, instructions=found)


def _directives(lines: tuple[str, ...], name: str) -> tuple[str, int]:
    """(the escape character, how many lines are directives)."""
    escape, seen = "\\", set[str]()
    for number, whole in enumerate(lines, 1):
        line = whole.lstrip(SPACES)
        match = _DIRECTIVE.match(line)
        key = match[1].lower() if match else ""
        value = line[match.end() :].strip("\t\n\f\r ") if match else ""
        if not value or key not in _DIRECTIVES:
            return escape, number - 1
        if key in seen:
            raise invalid(name, lines, f"the directive {key} stands twice", number, next="Leave one of them out.")
        seen.add(key)
        if key == "escape":
            if value not in ("\\", "`"):
                raise invalid(name, lines, f'escape is "{visible(value, limit=40)}"; it takes \\ or `', number)
            escape = value
    return escape, len(lines)


def _instructions(raw: list[str], lines: tuple[str, ...], at: int, escape: str, name: str) -> Iterator[Instruction]:
    count = 0
    while at < len(lines):
        start = at + 1
        text, ends = _continued(_without_comment(lines[at]).lstrip(SPACES), escape)
        at += 1
        if ends and not text:
            continue
        parts = [text]
        while not ends and at < len(lines):
            line = lines[at]
            at += 1
            if _is_comment(line) or not line.strip(SPACES):
                continue
            text, ends = _continued(line, escape)
            parts.append(text)
        original = "".join(parts)
        try:
            made = _instruction(original, escape, start, at)
            found, at = _heredocs(made, raw, lines, at)
        except Bad as error:
            raise invalid(name, lines, str(error), start) from None
        count += 1
        if count > MOST_INSTRUCTIONS:
            raise invalid(name, lines, f"there are more than {MOST_INSTRUCTIONS} instructions", start)
        yield found


def _is_comment(line: str) -> bool:
    return line.lstrip(SPACES).startswith("#")


def _without_comment(line: str) -> str:
    return "" if _is_comment(line) else line


def _continued(line: str, escape: str) -> tuple[str, bool]:
    """(the line without the escape character that continues it, whether the instruction ends here)."""
    text = line.rstrip(" \t")
    if text.endswith(escape) and not text.endswith(escape * 2):
        return text[:-1], False
    return line, True


def _instruction(original: str, escape: str, line: int, end_line: int, *, nested: bool = False) -> Instruction:
    """One line as its instruction. Raises `Bad`."""
    name, *rest = BLANKS.split(strip(original), maxsplit=1)
    flags: tuple[str, ...] = ()
    text = ""
    if rest:
        flags, text = take_flags(rest[0], escape)
        text = strip(text)
    lower = name.lower()
    args, is_json, trigger = _arguments(lower, text, escape, line, end_line, nested=nested)
    return Instruction(
        name=lower if lower in KNOWN else name,
        flags=flags,
        args=args,
        is_json=is_json,
        line=line,
        end_line=end_line,
        original=original,
        trigger=trigger,
    )


KNOWN = (
    "add", "arg", "cmd", "copy", "entrypoint", "env", "expose", "from", "healthcheck", "label", "maintainer", "onbuild",
    "run", "shell", "stopsignal", "user", "volume", "workdir",
)  # fmt: skip


def _arguments(
    name: str, text: str, escape: str, line: int, end_line: int, *, nested: bool
) -> tuple[tuple[str, ...], bool, Instruction | None]:
    if not text or name not in KNOWN:
        return (), False, None
    if name in ("env", "label"):
        return _pairs(name, text, escape), False, None
    if name == "arg":
        return tuple(quoted_words(text, escape)), False, None
    if name in ("expose", "from"):
        return tuple(BLANKS.split(text)), False, None
    if name in ("maintainer", "stopsignal", "user", "workdir"):
        return (text,), False, None
    if name == "onbuild":
        if nested:
            raise Bad("ONBUILD cannot trigger another ONBUILD")
        trigger = _instruction(text, escape, line, end_line, nested=True)
        return (trigger.name, *trigger.args), False, trigger
    if name == "healthcheck":
        kind, *rest = re.split(f"[{SPACES}]+", text, maxsplit=1)
        words, is_json = _command(rest[0]) if rest else ((), False)
        return (kind, *words), is_json, None
    if name in ("add", "copy", "volume"):
        found = _json(text)
        return (tuple(BLANKS.split(text)), False, None) if found is None else (found, True, None)
    words, is_json = _command(text)
    return words, is_json, None


def _pairs(name: str, text: str, escape: str) -> tuple[str, ...]:
    words = quoted_words(text, escape)
    if "=" not in words[0] if words else False:
        parts = BLANKS.split(text, maxsplit=1)
        if len(parts) < 2:
            raise Bad(f"{name.upper()} takes a name and a value: {name.upper()} NAME=VALUE")
        return tuple(parts)
    found: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            shown = visible(word, limit=80)
            raise Bad(f'"{shown}" of {name.upper()} has no =; write NAME=VALUE, and quotes around a value with spaces')
        found += (key, value)
    return tuple(found)


def _command(text: str) -> tuple[tuple[str, ...], bool]:
    found = _json(text)
    return ((text,), False) if found is None else (found, True)


def _number(text: str) -> int:
    return 0  # what it is does not matter: it is no string


def _refused(text: str) -> None:
    raise ValueError(text)


def _json(text: str) -> tuple[str, ...] | None:
    """A JSON list of strings; None for what is no JSON list. Raises `Bad` for a list of something else."""
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_refused)
    except ValueError:
        return None
    except RecursionError:
        raise Bad("the list is nested too deep") from None
    if not all(isinstance(word, str) for word in found):
        raise Bad("a list in brackets takes strings in double quotes alone")
    if any("\ud800" <= c <= "\udfff" for word in found for c in word):
        raise Bad("a \\u escape in the list is no character")
    return tuple(found)


def heredoc_of(word: str) -> Heredoc | None:
    """The heredoc that a word announces. Raises `Bad`."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match[3]:
        return None
    words = Lex(match[3]).words()
    if len(words) != 1:
        return None
    return Heredoc(name=words[0], chomp=match[2] == "-", content="")


def _heredocs(made: Instruction, raw: list[str], lines: tuple[str, ...], at: int) -> tuple[Instruction, int]:
    """The instruction with the documents that follow its line, and where the next instruction begins."""
    holder = made.trigger or made
    if holder.name not in WITH_HEREDOC or holder.is_json or "<<" not in made.original:
        return made, at
    try:
        words = Lex(made.original, raw_quotes=True, raw_escapes=True).words()
    except Bad:
        words = []  # no shell could read it; BuildKit leaves it to the shell
    found: list[Heredoc] = []
    for word in words:
        heredoc = heredoc_of(word)
        if heredoc is None:
            continue
        began = at
        while at < len(lines):
            line = lines[at].lstrip("\t") if heredoc.chomp else lines[at]
            at += 1
            if line == heredoc.name:
                break
        else:
            raise Bad(f'the heredoc "{visible(heredoc.name, limit=80)}" has no end: a line that is just this word')
        content = "".join(f"{line}\n" for line in raw[began : at - 1])
        found.append(Heredoc(name=heredoc.name, chomp=heredoc.chomp, content=content))
    if not found:
        return made, at
    changed = {**vars(made), "heredocs": tuple(found), "end_line": at}
    return Instruction(**changed), at
