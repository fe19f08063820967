"""Patterns of the source and of requests: names as Python's `fnmatch` has them, paths as a shell with `**` has them.

Text is compared in time that grows as pattern times text, and a pattern is read in time that grows as it does:
`fnmatch` looks for the end of each bracket to the end of the pattern, and an expression with a loop for each star tries
all their places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

from builder.globs.runs import runs

_KEPT = 256
"""Patterns that are kept ready: a source's are compared with one path after the other."""


class Glob:
    """One pattern. No expression is made of one that is longer than all it is compared with."""

    def __init__(self, least: int, make: Callable[[], Callable[[str], object]]) -> None:
        self._least = least
        self._make = make
        self._whole: Callable[[str], object] | None = None

    def matches(self, text: str) -> bool:
        """Whether it is the whole of a text."""
        if len(text) < self._least:
            return False
        if self._whole is None:
            self._whole = self._make()
        return bool(self._whole(text))


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
    return Glob(least, lambda: _Automaton(tokens))


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


class _Automaton:
    """Tokens as a set of states, the bits of a number: each character of a path moves all of them at once."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._chars: dict[str, int] = {}
        self._folders = self._inside = self._stars = self._anything = self._any_one = 0
        state = 1
        for token in tokens:
            if token == "**/":  # before a folder, and inside of one until its slash
                self._folders |= state
                state <<= 1
                self._inside |= state
            elif token == "**":
                self._anything |= state
            elif token == "*":
                self._stars |= state
            elif token == "?":
                self._any_one |= state
            else:
                self._chars[token] = self._chars.get(token, 0) | state
            state <<= 1
        self._end = state

    def __call__(self, path: str) -> bool:
        states = self._skipped(1)
        for char in path:
            moved = (states & self._chars.get(char, 0)) << 1 | states & self._anything
            if char == "/":
                moved |= (states & self._inside) >> 1
            else:
                moved |= (states & self._any_one) << 1 | (states & self._folders) << 1
                moved |= states & (self._inside | self._stars)
            if not moved:
                return False
            states = self._skipped(moved)
        return bool(states & self._end)

    def _skipped(self, states: int) -> int:
        """With the states behind what may be left out. Of two loops beside each other the first is a `**/`."""
        states |= (states & self._folders) << 2
        return states | (states & (self._stars | self._anything)) << 1
