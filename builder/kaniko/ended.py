"""Kaniko's log → what went wrong, with the Dockerfile's line. Pure.

The executor logs each stage and each instruction before it runs it, and one line `error building image: …` at the end.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from builder.kube.ended import Ended
from builder.plan import Diagnosis
from builder.text import strangers_json

_KEYS = {"level", "msg", "time"}
_STAGE = re.compile(r"Building stage '.*' \[idx: '(\d{1,9})', base-idx: '-?\d+'\]")
_EXIT = re.compile(r"waiting for process to exit: exit status (\d+)")
_SIGNAL = re.compile(r"waiting for process to exit: signal: (\w+)")
_NO_PROGRAM = re.compile(r"starting command: (.*)")
_PARSE = re.compile(r"dockerfile parse error on line (\d+): (.*)")
_ABSENT = re.compile(r"failed to get fileinfo for /kaniko/buildcontext/(.*?): lstat .*: no such file or directory$")
_NOT_THERE = ": no such file or directory"
"""The end of what `_ABSENT` matches; where it is none, the expression would try each pair of its parts."""
_MANIFEST = re.compile(r"Retrieving image manifest (\S+)")
_PUSH = re.compile(r"^error (?:checking push permissions|pushing image)")
_PULL = re.compile(r"^unable to complete operation after \d+ attempts|^GET https?://\S+/manifests/|^Get \"https?://")
_UNKNOWN = re.compile(r"MANIFEST_UNKNOWN|NAME_UNKNOWN|NOT_FOUND|404 Not Found")
_DENIED = re.compile(r"UNAUTHORIZED|DENIED|unauthorized|401 Unauthorized|403 Forbidden")
_NO_HOST = re.compile(r"no such host|server misbehaving")
FINAL, USAGE = "error building image: ", "Error: "
FINALS = (FINAL, "error checking push permissions", "error pushing image", USAGE)
STARTS = ("Cmd: ", "Args: ", "Running: ")
"""What the executor tells of a program that it starts, behind the instruction itself."""
BESIDE = ("Pushing layer ", "Pushing image to ", "Pushed ", "Retrying operation ")
"""What it tells of an earlier layer that it stores for later builds, while the next program runs."""
SAID_LINES = 6
EXPLAINED = ("StepFailed", "OutOfMemory")
"""Reasons of an end that the log explains."""
SLIP_CHARACTERS = 4
"""The least of a name that may be a slip of another: one character is too much of a shorter one."""
MOST_FINAL = 4096
"""Characters of the last words that are read. A program of the build can imitate them, with a line of any length."""


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction of a Dockerfile: its stage (0 the first FROM's), the line it begins at (1 the first), its text
    with continuation lines joined."""

    stage: int
    line: int
    text: str


def own_message(line: str) -> str | None:
    """What the executor itself logs in this line (`--log-format=json`); None for a line of a program that it runs."""
    if not line.startswith("{"):
        return None
    try:
        value = strangers_json(line)
    except (ValueError, RecursionError):  # a program's line may be nested as deep as it is long
        return None
    return str(value["msg"]) if isinstance(value, dict) and value.keys() == _KEYS else None


def shown(line: str) -> str:
    """A line as people read it: of the executor's own the words, of a program's all."""
    message = own_message(line)
    return line if message is None else message


def last_instruction(lines: Iterable[str], instructions: Sequence[Instruction]) -> Instruction | None:
    """The instruction that the log shows as begun last; None before the first.

    Instructions are matched in order within the stage, so that the second of two that are alike is not the first.
    """
    begun_by: dict[tuple[int, str], list[int]] = {}
    first: dict[int, Instruction] = {}
    for index, one in enumerate(instructions):
        begun_by.setdefault((one.stage, _words(one.text)), []).append(index)
        first.setdefault(one.stage, one)
    stage, position, last = -1, -1, None
    for line in lines:
        text = own_message(line)
        if text is None:
            continue
        if begun := _STAGE.match(text):
            stage, position = int(begun[1]), -1
            last = first.get(stage)
            continue
        alike = begun_by.get((stage, _words(text)), [])
        if (at := bisect_right(alike, position)) < len(alike):
            position = alike[at]
            last = instructions[position]
    return last


def diagnose(
    ended: Ended,
    lines: Sequence[str],
    instructions: Sequence[Instruction],
    dockerfile: str = "Dockerfile",
    mistyped: Sequence[tuple[str, str]] = (),
) -> Diagnosis:
    """What a person needs of a Job that ended with a failure. `mistyped`: (image, the stage that may be meant)."""
    if ended.reason not in EXPLAINED:
        return Diagnosis(reason=ended.reason, message=ended.message, said=_cut(ended.said.splitlines()))
    last = last_instruction(lines, instructions)
    if ended.reason == "OutOfMemory":
        return Diagnosis(reason=ended.reason, message=ended.message, where=_where(dockerfile, last))
    final = _final(lines) or _final(ended.said.splitlines()) or ended.message
    if _PUSH.search(final):
        return _push(final)
    if _PULL.search(final):
        return _pull(final, lines, instructions, dockerfile, dict(mistyped))
    if parsed := _PARSE.search(final):
        return Diagnosis(reason="StepFailed", message=parsed[2], where=f"{dockerfile}:{parsed[1]}", said=(final,))
    if final.endswith(_NOT_THERE) and (absent := _ABSENT.search(final)):
        after = _next(last, instructions, ("COPY", "ADD"))
        message = f"{absent[1]} is not in the source"
        next_ = "Check the path, .dockerignore, and that the file is part of the source."
        return Diagnosis(
            reason="StepFailed", message=message, where=_where(dockerfile, after), said=(final,), next=next_
        )
    what = last.text.partition(" ")[0].upper() if last else "the build"
    for pattern, words in (
        (_EXIT, "ended with exit code"),
        (_SIGNAL, "was ended by signal"),
        (_NO_PROGRAM, "could not start:"),
    ):
        if found := pattern.search(final):
            message, said = f"{what} {words} {found[1]}", _cut(_output(lines, last) or [final])
            return Diagnosis(reason="StepFailed", message=message, where=_where(dockerfile, last), said=said)
    message = final.removeprefix("error building stage: ").removeprefix("failed to execute command: ")
    return Diagnosis(reason="StepFailed", message=message, where=_where(dockerfile, last), said=(final,))


def _push(final: str) -> Diagnosis:
    """The registry that the builder pushes to; a user has no part in it."""
    if _DENIED.search(final):
        return Diagnosis(reason="RegistryRefused", message="the registry does not let this build push", said=(final,))
    return Diagnosis(reason="RegistryUnavailable", message="the image could not be pushed", said=(final,))


def _pull(
    final: str,
    lines: Sequence[str],
    instructions: Sequence[Instruction],
    dockerfile: str,
    mistyped: Mapping[str, str],
) -> Diagnosis:
    """An image that the Dockerfile names, in `FROM` or `COPY --from`."""
    named = [found[1] for line in lines if (found := _MANIFEST.match(own_message(line) or ""))]
    image = named[-1] if named else ""
    users = (one for one in instructions if image and image in one.text)
    where = _where(dockerfile, next(users, None))
    if stage := mistyped.get(image):
        if not _is_none(final) and not is_slip(image, stage):
            message = f'{not_answering(image)}; it is no stage: is "{stage}" meant?'
            return Diagnosis(reason="RegistryUnavailable", message=message, where=where, said=(final,))
        return mistyped_stage(image, stage, where, final)
    if _UNKNOWN.search(final):
        message, next_ = f"there is no image {image}", "Check the image's registry, name and tag."
    elif _DENIED.search(final):
        message, next_ = f"image {image} may not be pulled", "Check its name; a private image takes a registry secret."
    elif _NO_HOST.search(final):
        message, next_ = f"the registry of image {image} has no address", "Check the registry's name in the reference."
    else:
        message = not_answering(image)
        return Diagnosis(reason="RegistryUnavailable", message=message, where=where, said=(final,))
    return Diagnosis(reason="StepFailed", message=message, where=where, said=(final,), next=next_)


def _is_none(final: str) -> bool:
    """Whether the registry answered that it has no such image. Docker Hub says so of one that is not there, too, when
    it refuses."""
    return any(pattern.search(final) for pattern in (_UNKNOWN, _DENIED, _NO_HOST))


def not_answering(image: str) -> str:
    """The words of a registry in trouble."""
    return f"the registry of image {image} does not answer"


def mistyped_stage(image: str, stage: str, where: str, final: str) -> Diagnosis:
    """The failure of a name that is nearly that of a stage, and no image that anybody gets."""
    message = f'{image} is no stage before it, and no image that can be pulled; is the stage "{stage}" meant?'
    step = f"Name the stage: {stage}. An image is named by its registry, or with a tag: docker.io/library/{image}"
    return Diagnosis(reason="StepFailed", message=message, where=where, said=(final,), next=step)


def is_slip(one: str, other: str) -> bool:
    """Whether one name is the other with a character more, less or changed, or two exchanged: a slip of the hand. Of
    such a name nobody waits for a registry that does not answer; a name that is merely near may be an image."""
    short, long = sorted((one.lower(), other.lower()), key=len)
    if len(short) < SLIP_CHARACTERS or len(long) - len(short) > 1 or short == long:
        return False
    at = next((index for index, char in enumerate(short) if char != long[index]), len(short))
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    exchanged = short[at : at + 2] == long[at : at + 2][::-1] and short[at + 2 :] == long[at + 2 :]
    return exchanged or short[at + 1 :] == long[at + 1 :]


def _next(last: Instruction | None, instructions: Sequence[Instruction], kinds: tuple[str, ...]) -> Instruction | None:
    """The first instruction of these kinds behind the last that began: its files are looked for before it begins."""
    behind = (one for one in instructions if last and one.stage == last.stage and one.line > last.line)
    named = (one for one in behind if one.text.upper().startswith(kinds) and "--from=" not in one.text)
    return next(named, last)


def _where(dockerfile: str, one: Instruction | None) -> str:
    return f"{dockerfile}:{one.line}" if one else dockerfile


def _final(lines: Sequence[str]) -> str:
    """The executor's last words on why the build failed."""
    for line in reversed(lines):
        for start in FINALS:
            if start in line:
                words = line[line.index(start) :][:MOST_FINAL]
                return words.removeprefix(FINAL).removeprefix(USAGE).strip()
    return ""


def _output(lines: Sequence[str], last: Instruction | None) -> list[str]:
    """What the failed instruction's own program wrote last, without the executor's lines.

    The executor writes to another pipe than the program, so what this wrote in its first moments may stand before the
    lines that tell of its start, of its instruction, and of the snapshot before that. What stands right behind another
    program's start is that one's.
    """
    own: list[str] = []
    begun, is_before = _words(last.text) if last else "", False
    for line in reversed(lines):
        if any(start in line for start in FINALS):
            continue
        message = own_message(line)
        if message is None:
            if line.strip():
                own.append(line)
        elif message.startswith(BESIDE):
            continue
        elif is_before and message.startswith((*STARTS, "RUN ")):
            return []
        elif own:
            break
        elif begun and _words(message) == begun:
            is_before = True
        elif not begun and not message.startswith(STARTS):
            break
    return own[::-1]


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if line)[-SAID_LINES:]


def _words(text: str) -> str:
    return " ".join(text.split())
