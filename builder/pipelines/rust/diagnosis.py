"""What cargo and rustc print when they fail, as a reason and what a person needs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from builder.pipelines.output import cut_root, index_trouble, step_failed
from builder.pipelines.rust.components import unbuildable
from builder.plan import Diagnosis, Step

_ERROR = re.compile(r"^error(?:\[E\d{4}\])?: ")
_AT = re.compile(r"^ {0,8}--> ([^\s:][^:]{0,300}):(\d+):(\d+)")


def diagnose(step: Step, exit_code: int, lines: Sequence[str]) -> Diagnosis:
    """What cargo printed."""
    said = [cut_root(line).replace("/work/fetch/app/", "").replace("/work/fetch/sent/", "") for line in lines]
    trouble = index_trouble(said) if step.name.startswith(("download", "resolve")) else None
    return trouble or unbuildable(step, said) or step_failed(step, exit_code, said)
