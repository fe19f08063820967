"""The output of a step whose plan names all that it depends on: the node stores it and runs the step once.

Only the node writes here. The lines are text for a log, as hostile as any line of a step.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from builder.attempt.attempt import Attempt
from builder.attempt.downloads import shared
from builder.attempt.planned import Bound
from builder.attempt.steps import TAIL_LINES
from builder.key import digest_of
from builder.plan import Step

CACHE = "step-output"
MOST = 256 * 1024
"""Bytes of the output that is stored; a step that prints more, or `TAIL_LINES` lines, runs again."""


def recall(attempt: Attempt, bound: Bound, step: Step) -> tuple[str, ...] | None:
    """The lines that a step printed when it ended well with the same input; None: it must run."""
    if not step.memo:
        return None
    try:
        with _path(attempt, bound, step).open("rb") as file:
            lines = json.loads(file.read(MOST + 1))
    except (OSError, ValueError):
        return None
    return tuple(lines) if isinstance(lines, list) and all(isinstance(line, str) for line in lines) else None


def record(attempt: Attempt, bound: Bound, step: Step, lines: tuple[str, ...]) -> None:
    """Store what a step printed that ended well, whole or not at all."""
    text = json.dumps(lines).encode()
    if not step.memo or len(text) > MOST or len(lines) >= TAIL_LINES:
        return
    path = _path(attempt, bound, step)
    fd, partial = tempfile.mkstemp(prefix=".partial-", dir=path.parent)
    try:
        with open(fd, "wb") as out:
            out.write(text)
        os.rename(partial, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)
        raise


def _path(attempt: Attempt, bound: Bound, step: Step) -> Path:
    parts = {"digests": dict(bound.toolchain.digests), "argv": step.argv, "env": step.env, "memo": step.memo}
    return shared(attempt, CACHE) / digest_of(parts)[7:]
