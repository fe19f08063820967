"""A launcher in an image: it becomes the command that its words name, with their variables' values. Pure.

    /ignite/start [NAME=VALUE...] -- WORD...

A runtime brings the program in a language of its own, because no base has a shell. All of them have the rules of
`runtimes/python/front/start.py`: $NAME, ${NAME} and ${NAME:-default}; a word stays one; PORT is 80 where it is not set.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from builder.plan import LayerSource

MADE = "/work/out/ignite"
"""Where a step leaves it."""
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]|\{[A-Za-z_]\w*(?::?-[^}]*)?\})", re.ASCII)


def names_variables(words: Iterable[str]) -> bool:
    """Whether a word has a variable to replace: a command without one needs no launcher."""
    return any(_VARIABLE.search(word) for word in words)


def started(words: tuple[str, ...], *variables: str) -> tuple[tuple[str, ...], int]:
    """The command that sets `variables` (NAME=VALUE) and becomes `words`, and how many words it has before those."""
    before = ("/ignite/start", *variables, "--")
    return (*before, *words), len(before)


def layer() -> LayerSource:
    """The launcher in the image, apart from the program's own folder."""
    return LayerSource(source=MADE, dest="/ignite", created_by="ignite: launcher")
