"""Kaniko's log → what went wrong, with the Dockerfile's line. Pure.

The executor logs each stage and each instruction before it runs it, and one line `error building image: …` at the end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from builder.kube.ended import Ended
from builder.plan import Diagnosis

_KEYS = {"level", "msg", "time"}
_STAGE = re.compile(r"Building stage '.*' \[idx: '(\d+)', base-idx: '-?\d+'\]")
_EXIT = re.compile(r"waiting for process to exit: exit status (\d+)")
_SIGNAL = re.compile(r"waiting for process to exit: signal: (\w+)")
_NO_PROGRAM = re.compile(r"starting command: (.*)")
FINAL = "error building image: "
SAID_LINES = 6


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
        value = json.loads(line)
    except ValueError:
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
    stage, position, last = -1, -1, None
    for line in lines:
        text = own_message(line)
        if text is None:
            continue
        if begun := _STAGE.match(text):
            stage, position = int(begun[1]), -1
            last = next((one for one in instructions if one.stage == stage), None)
            continue
        for index, one in enumerate(instructions):
            if index > position and one.stage == stage and _words(one.text) == _words(text):
                position, last = index, one
                break
    return last


def diagnose(
    ended: Ended, lines: Sequence[str], instructions: Sequence[Instruction], dockerfile: str = "Dockerfile"
) -> Diagnosis:
    """What a person needs of a Job that ended with a failure."""
    if ended.reason not in ("StepFailed", "OutOfMemory"):
        return Diagnosis(reason=ended.reason, message=ended.message, said=_cut(ended.said.splitlines()))
    last = last_instruction(lines, instructions)
    where = f"{dockerfile}:{last.line}" if last else dockerfile
    what = last.text.partition(" ")[0].upper() if last else "the build"
    if ended.reason == "OutOfMemory":
        return Diagnosis(reason=ended.reason, message=ended.message, where=where)
    final = _final(lines) or ended.said
    said = _cut(_output(lines) or [final])
    if code := _EXIT.search(final):
        return Diagnosis(reason="StepFailed", message=f"{what} ended with exit code {code[1]}", where=where, said=said)
    if signal := _SIGNAL.search(final):
        return Diagnosis(reason="StepFailed", message=f"{what} was ended by signal {signal[1]}", where=where, said=said)
    if program := _NO_PROGRAM.search(final):
        return Diagnosis(reason="StepFailed", message=f"{what} could not start: {program[1]}", where=where, said=said)
    return Diagnosis(reason="StepFailed", message=final or ended.message, where=where, said=said)


def _final(lines: Sequence[str]) -> str:
    """The executor's last words on why the build failed."""
    found = next((line for line in reversed(lines) if FINAL in line), "")
    return found.partition(FINAL)[2].strip()


def _output(lines: Sequence[str]) -> list[str]:
    """What the failed instruction's own program wrote last, without the executor's lines."""
    own: list[str] = []
    for line in reversed(lines):
        if FINAL in line:
            continue
        if own_message(line) is not None:
            break
        if line.strip():
            own.append(line)
    return own[::-1]


def _cut(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line for line in lines if line)[-SAID_LINES:]


def _words(text: str) -> str:
    return " ".join(text.split())
