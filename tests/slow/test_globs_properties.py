"""Patterns of ignore files: each verdict is that of one plain expression."""

from __future__ import annotations

import posixpath
import re

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from builder.globs import git_patterns, moby_pattern
from builder.globs.git import _NEVER, _bracket
from builder.globs.moby import _automaton, _moby_class, _moby_tokens

PARTS = ("a", "b", "/", "*", "**", "**/", "/**/", "?", "[ab]", "[^a]", "[.-a]", "\\a", "\\/", ".")
PATTERNS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=9).map("".join)
PATHS = st.lists(st.sampled_from(["a", "b", "/", "ab", "/a", ".", "\n"]), min_size=1, max_size=9).map("".join)
SPECIAL = re.compile(r"[*?\[\\]")


def normal(pattern: str) -> str:
    body = "/" + pattern.lstrip("/") if pattern.startswith("/") else pattern
    return posixpath.normpath(body).removeprefix("/") or "/"


def plain(pattern: str) -> re.Pattern[str]:
    """The expression that moby's own loop makes of a pattern. It backtracks."""
    out: list[str] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 2 if pattern.startswith("/", at + 1) else 1
            if at == len(pattern):
                out.append(".*")
            else:
                is_end = not out and not SPECIAL.search(pattern[at:]) and not pattern.startswith("**/")
                out.append(".*" if is_end else "(?:.*/)?")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            part, at = _moby_class(pattern, at)
            out.append(part)
        elif char == "\\":
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out), re.DOTALL)


@given(pattern=PATTERNS, paths=st.lists(PATHS, min_size=1, max_size=20))
@settings(max_examples=250, deadline=None)
def test_a_verdict_is_that_of_the_plain_expression(pattern: str, paths: list[str]) -> None:
    body = normal(pattern)
    assume(not body.endswith("\\"))
    made, expected, automaton = moby_pattern(pattern), plain(body), _automaton(_moby_tokens(body))
    for path in paths:
        wanted = expected.fullmatch(path) is not None
        assert (made.matches(path), automaton(path)) == (wanted, wanted), (pattern, path)


GIT_PARTS = (
    b"a", b"b", b"/", b"*", b"**", b"**/", b"/**/", b"?", b"[ab]", b"[^a]", b"\\a", b"\\/", b".", b"/**\\/", b"a*b*",
)  # fmt: skip
GIT_PATTERNS = st.lists(st.sampled_from(GIT_PARTS), min_size=1, max_size=9).map(b"".join)


def plain_wildmatch(pattern: bytes) -> bytes:
    """wildmatch.c as an expression, token by token. It backtracks."""
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            rest, before = pattern[end:], pattern[at - 1 : at] if at else b"/"
            is_part = before == b"/" and (not rest or rest.startswith((b"/", b"\\/")))
            if end - at == 1 or not is_part:
                part, at = b"[^/]*", end
            else:
                part, at = (b"(?:.*/)?", end + 1) if rest.startswith(b"/") else (b".*", end)
        elif char == b"?":
            part, at = b"[^/]", at + 1
        elif char == b"[":
            part, at = _bracket(pattern, at)
        elif char == b"\\":
            part, at = re.escape(pattern[at + 1 : at + 2]) or _NEVER, at + 2
        else:
            part, at = re.escape(char), at + 1
        out.append(part)
    return b"".join(out)


@given(pattern=GIT_PATTERNS, paths=st.lists(PATHS, min_size=1, max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_verdict_of_git_is_that_of_the_plain_expression(pattern: bytes, paths: list[str]) -> None:
    made = git_patterns(pattern)
    assume(made)
    body = pattern.removesuffix(b"/").removeprefix(b"/")
    special = re.search(rb"[*?\[\\]", body)
    head = body[: special.start()] if special else body
    expected = re.compile(re.escape(head) + plain_wildmatch(body[len(head) :]), re.DOTALL)
    found = re.compile(made[0].regex, re.DOTALL)
    for path in paths:
        assert bool(found.fullmatch(path.encode())) == bool(expected.fullmatch(path.encode())), (pattern, path)
