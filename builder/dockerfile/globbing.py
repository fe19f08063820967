"""Wildcards of COPY and ADD, as Go's `filepath.Match` has them. Linear in pattern times name, without backtracking."""

from __future__ import annotations

Token = object
"""A character, None for `?`, ... for `*`, or a class: (negated, ((low, high), ...))."""


def is_wild(path: str) -> bool:
    return any(char in path for char in "*?[\\")


def tokens(pattern: str) -> tuple[Token, ...] | None:
    """One segment of a pattern; None for one that is none."""
    found: list[Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*":
            if not found or found[-1] is not ...:
                found.append(...)
        elif char == "?":
            found.append(None)
        elif char == "\\":
            if at == len(pattern):
                return None
            found.append(pattern[at])
            at += 1
        elif char == "[":
            made = _class(pattern, at)
            if made is None:
                return None
            token, at = made
            found.append(token)
        else:
            found.append(char)
    return tuple(found)


def _class(pattern: str, at: int) -> tuple[Token, int] | None:
    negated = pattern[at : at + 1] == "^"
    at += negated
    ranges: list[tuple[str, str]] = []
    while not ranges or pattern[at : at + 1] != "]":
        low, at = _char(pattern, at)
        high = low
        if low and pattern[at : at + 1] == "-":
            high, at = _char(pattern, at + 1)
        if not low or not high:
            return None
        ranges.append((low, high))
    return (negated, tuple(ranges)), at + 1


def _char(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at : at + 1]
    if char in ("", "-", "]"):
        return "", at
    if char == "\\":
        return pattern[at + 1 : at + 2], at + 2
    return char, at + 1


def matches(pattern: tuple[Token, ...], name: str) -> bool:
    """Whether a segment is the whole name."""
    at = place = 0
    star = mark = -1
    while place < len(name):
        if at < len(pattern) and pattern[at] is ...:
            star, mark = at, place
            at += 1
        elif at < len(pattern) and _is(pattern[at], name[place]):
            at, place = at + 1, place + 1
        elif star >= 0:
            mark += 1
            at, place = star + 1, mark
        else:
            return False
    while at < len(pattern) and pattern[at] is ...:
        at += 1
    return at == len(pattern)


def _is(token: Token, char: str) -> bool:
    if token is None:
        return True
    if isinstance(token, tuple):
        negated, ranges = token
        return bool(negated) != any(low <= char <= high for low, high in ranges)
    return token == char
