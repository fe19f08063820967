"""Patterns of the source and of requests: names as Python's `fnmatch` has them, paths as a shell with `**` has them.

Text is compared in time that grows as pattern times text, and a pattern is read in time that grows as it does:
`fnmatch` looks for the end of each bracket to the end of the pattern, and an expression with a loop for each star tries
all their places.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

from builder.globs.pattern import Automaton, Glob
from builder.globs.runs import runs

_KEPT = 256
"""Patterns that are kept ready: a source's are compared with one path after the other."""


@lru_cache(_KEPT)
def name_glob(pattern: str) -> Glob:
    """A pattern of `fnmatch.fnmatchcase`: `*` and `?` stand for a `/` too, `[` without an end for itself."""
    parts, least, at = [""], 0, 0
    last = pattern.rfind("]")
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if parts[-1] or len(parts) == 1:  # another star beside it adds nothing
                parts.append("")
            continue
        least += 1
        if char == "?":
            parts[-1] += "."
        elif char == "[" and (end := _end_of_class(pattern, at, last)) <= last:
            parts[-1] += _class(pattern[at:end])
            at = end + 1
        else:
            parts[-1] += re.escape(char)
    return Glob(least, lambda: re.compile(_first_places(parts, ".*"), re.DOTALL).fullmatch)


def _end_of_class(pattern: str, at: int, last: int) -> int:
    """Where the `]` of a class is that begins at `at`; behind `last`, the pattern's last `]`, where it has none."""
    at += pattern.startswith("!", at)
    at += pattern.startswith("]", at)
    return pattern.find("]", at) if at <= last else len(pattern)


def _class(text: str) -> str:
    """The expression of a class, by fnmatch's rules: a range that ends before it begins is empty."""
    if "-" not in text:
        inner = text.replace("\\", "\\\\")
    else:
        chunks, at, dash = [], 0, text.find("-", 2 if text.startswith("!") else 1)
        while dash >= 0:
            chunks.append(text[at:dash])
            at, dash = dash + 1, text.find("-", dash + 3)
        if text[at:]:
            chunks.append(text[at:])
        else:
            chunks[-1] += "-"
        pieces = [_escaped(chunks[0])]
        for before, chunk in pairwise(chunks):
            if before[-1] > chunk[0]:
                pieces[-1] = pieces[-1][: -len(_escaped(before[-1]))]
                pieces.append(_escaped(chunk[1:]))
            else:
                pieces.append("-" + _escaped(chunk))
        inner = "".join(pieces)
    inner = re.sub(r"([&~|])", r"\\\1", inner)
    if not inner:
        return "(?!)"
    if inner == "!":
        return "."
    if inner[0] == "!":
        inner = "^" + inner[1:]
    elif inner[0] in "^[":
        inner = "\\" + inner
    return f"[{inner}]"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("-", "\\-")


def _first_places(parts: Sequence[str], star: str) -> str:
    """Expressions with a star between them. Each but the last is taken at its first place: the next star takes the
    rest, so that no other place could do more."""
    first, *rest = parts
    if not rest:
        return first
    return first + "".join(f"(?>{star}?{part})" for part in rest[:-1]) + star + rest[-1]


_STAR, _ONE, _FOLDERS, _ANYTHING = "[^/]*", "[^/]", "(?:[^/]++/)*", ".*"
_TOKEN = re.compile(r"\*\*/|\*\*|.", re.DOTALL)
_LOOPS = frozenset({"**/", "**", "*"})


@lru_cache(_KEPT)
def path_glob(pattern: str) -> Glob:
    """A pattern of whole paths: `*` and `?` do not cross `/`, `**/` is any number of folders, also none."""
    tokens: list[str] = []
    for token in _TOKEN.findall(pattern):
        if token == "**":  # any other loop beside it adds nothing
            while tokens and tokens[-1] in _LOOPS:
                tokens.pop()
        elif token in _LOOPS and tokens[-1:] in ([token], ["**"]):
            continue
        tokens.append(token)
    least = sum(token not in _LOOPS for token in tokens)
    if _is_regular(tokens):
        return Glob(least, lambda: re.compile(_regex(tokens), re.DOTALL).fullmatch)
    return Glob(least, lambda: _automaton(tokens))


def _is_regular(tokens: Sequence[str]) -> bool:
    """Whether each `**/` begins a folder, and a `**` ends the pattern: then `_regex` has an expression for it."""
    for at, token in enumerate(tokens):
        if token == "**/" and at and tokens[at - 1] not in ("/", "**/"):
            return False
        if token == "**" and at != len(tokens) - 1:
            return False
    return True


def _regex(tokens: Sequence[str]) -> str:
    """What stands between two `**/` are whole names: they are taken at their first place."""
    is_open = tokens[-1:] == ["**"]
    *firsts, last = [_names(each) for each in runs(tokens[:-1] if is_open else tokens, "**/")]
    if not firsts:
        return last + (_ANYTHING if is_open else "")
    middle = "".join(f"(?>{_FOLDERS}?{part})" for part in firsts[1:])
    return firsts[0] + middle + _FOLDERS + last + (_ANYTHING if is_open else "")


def _names(tokens: Sequence[str]) -> str:
    return "/".join(
        _first_places(
            ["".join(_ONE if token == "?" else re.escape(token) for token in part) for part in runs(name, "*")], _STAR
        )
        for name in runs(tokens, "/")
    )


def _automaton(tokens: Sequence[str]) -> Automaton:
    made = Automaton()
    add = {"**/": made.folders, "**": made.anything, "*": made.star, "?": made.any_in_name}
    for token in tokens:
        if token in add:
            add[token]()
        else:
            made.char(token)
    return made
