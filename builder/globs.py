"""Patterns of ignore files, by the rules of git and of moby. Pure.

Git's are matched on bytes, moby's on text, as they do it. The matcher of git is its `wildmatch.c` as a regular
expression. pathspec 1.1 is not used: its verdicts differ from git's for `**` within a name (`a**/b`) and for classes
such as `[[:alpha:]]`, and loading it takes longer than packing a small folder. No library of Python has moby's rules.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

_CLASSES = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f", b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e", b"lower": rb"a-z", b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e", b"space": rb" \t\n\r\x0b\x0c", b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip
_NEVER = rb"(?!)"
_GIT_SPECIAL = re.compile(rb"[*?\[\\]")
_SPECIAL = re.compile(r"[*?\[\\]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class GitPattern:
    """One line of a `.gitignore`. `regex` matches the name, or with `anchored` the path below the file's folder."""

    line: int
    text: str
    negated: bool
    only_folders: bool
    anchored: bool
    regex: bytes


def git_patterns(data: bytes) -> tuple[GitPattern, ...]:
    """The patterns of a file in git's syntax, in its order."""
    found = []
    for number, line in enumerate(data.removeprefix(_BOM).split(b"\n"), 1):
        text = _without_trailing_spaces(line.removesuffix(b"\r"))
        if text and not text.startswith(b"#") and (pattern := _git_pattern(number, text)):
            found.append(pattern)
    return tuple(found)


def _without_trailing_spaces(line: bytes) -> bytes:
    """Spaces at the end go, tabs and a space behind a backslash stay."""
    end = at = 0
    while at < len(line):
        at += 2 if line[at : at + 1] == b"\\" else 1
        if line[at - 1 : at] != b" " or line[at - 2 : at - 1] == b"\\":
            end = min(at, len(line))
    return line[:end]


def _git_pattern(number: int, text: bytes) -> GitPattern | None:
    body = text.removeprefix(b"!")
    negated = len(body) < len(text)
    only_folders = body.endswith(b"/")
    body = body.removesuffix(b"/")
    if not body:
        return None
    anchored = b"/" in body
    body = body.removeprefix(b"/")
    # git compares what stands before the first special character as it is, and matches the rest on its own.
    special = _GIT_SPECIAL.search(body)
    head = body[: special.start()] if special else body
    regex = re.escape(head) + _wildmatch(body[len(head) :])
    return GitPattern(
        line=number,
        text=text.decode("utf-8", "replace"),
        negated=negated,
        only_folders=only_folders,
        anchored=anchored,
        regex=regex,
    )


def _wildmatch(pattern: bytes) -> bytes:
    out, at = [], 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            part, at = _stars(pattern, at, end)
        elif char == b"?":
            part, at = rb"[^/]", at + 1
        elif char == b"[":
            part, at = _bracket(pattern, at)
        elif char == b"\\":
            part = re.escape(pattern[at + 1 : at + 2]) or _NEVER
            at += 2
        else:
            part, at = re.escape(char), at + 1
        out.append(part)
    return b"".join(out)


def _stars(pattern: bytes, at: int, end: int) -> tuple[bytes, int]:
    """One star stays within a name; two that are a whole part of the path cross folders."""
    rest = pattern[end:]
    is_part = (at == 0 or pattern[at - 1 : at] == b"/") and (not rest or rest.startswith((b"/", rb"\/")))
    if end - at == 1 or not is_part:
        return rb"[^/]*", end
    if rest.startswith(b"/"):
        return rb"(?:.*/)?", end + 1
    return rb".*", end


def _bracket(pattern: bytes, at: int) -> tuple[bytes, int]:
    """A class and where it ends; one without an end matches nothing."""
    at += 1
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    items: list[bytes] = []
    previous, first = b"", True
    while first or pattern[at : at + 1] != b"]":
        first = False
        char = pattern[at : at + 1]
        if not char:
            return _NEVER, len(pattern)
        if char == b"\\":
            at, char = at + 1, pattern[at + 1 : at + 2]
            if not char:
                return _NEVER, len(pattern)
            items.append(re.escape(char))
        elif char == b"-" and previous and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 2 if pattern[at + 1 : at + 2] == b"\\" else 1
            last = pattern[at : at + 1]
            if not last:
                return _NEVER, len(pattern)
            if previous <= last:
                items.append(re.escape(previous) + b"-" + re.escape(last))
            char = b""
        elif char == b"[" and pattern[at + 1 : at + 2] == b":":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return _NEVER, len(pattern)
            if end - 1 >= at + 2 and pattern[end - 1 : end] == b":":
                name = pattern[at + 2 : end - 1]
                if name not in _CLASSES:
                    return _NEVER, len(pattern)
                items.append(_CLASSES[name])
                at, char = end, b""
            else:
                items.append(rb"\[")
        else:
            items.append(re.escape(char))
        previous, at = char, at + 1
    body = b"".join(items)
    if not body:  # ranges that are empty
        return (rb"[^/]" if negated else _NEVER), at + 1
    return rb"(?!/)[" + (b"^" if negated else b"") + body + b"]", at + 1


@dataclass(frozen=True, kw_only=True)
class MobyPattern:
    """One line of a `.dockerignore`: `regex` matches the path of a file or of a folder above it.

    `literal` is what stands before the first special character.
    """

    line: int
    text: str
    negated: bool
    regex: re.Pattern[str]
    literal: str


def moby_patterns(data: bytes) -> tuple[MobyPattern, ...]:
    """The patterns of a file in moby's syntax, in its order. Raises ValueError for one that moby refuses."""
    found = []
    for number, line in enumerate(data.removeprefix(_BOM).decode("utf-8", "surrogateescape").split("\n"), 1):
        if not line.startswith("#") and (text := line.strip()):
            found.append(moby_pattern(text, number))
    return tuple(found)


def moby_pattern(text: str, number: int = 0) -> MobyPattern:
    """One pattern: from the root, `**` for any number of folders. Raises ValueError for one that is refused."""
    body = text.removeprefix("!").strip()
    if not body:
        raise ValueError("a ! alone names nothing")
    body = "/" + posixpath.normpath(body).lstrip("/") if body.startswith("/") else posixpath.normpath(body)
    body = body[1:] if len(body) > 1 and body.startswith("/") else body
    special = _SPECIAL.search(body)
    try:
        regex = re.compile(_moby_regex(body), re.DOTALL)
    except re.error as error:
        raise ValueError(f'"{text}" is no pattern: {error}') from None
    return MobyPattern(
        line=number,
        text=text,
        negated=text.startswith("!"),
        regex=regex,
        literal=body[: special.start()] if special else body,
    )


def _moby_regex(pattern: str) -> str:
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
                # At the very start, before a name without special characters, the end of a path is enough.
                is_end = not out and not _SPECIAL.search(pattern[at:]) and not pattern.startswith("**/")
                out.append(".*" if is_end else "(?:.*/)?")
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            part, at = _moby_class(pattern, at)
            out.append(part)
        elif char == "\\":
            if at == len(pattern):
                raise re.error("it ends with a backslash")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _moby_class(pattern: str, at: int) -> tuple[str, int]:
    """`[a-z]` or `[^a-z]`, as Go's filepath.Match has it: a backslash escapes, a dash makes a range."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    items: list[str] = []
    while not items or pattern[at : at + 1] != "]":
        low, at = _moby_char(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _moby_char(pattern, at + 1)
        if low > high:
            raise re.error("a range ends before it begins")
        items.append(f"{re.escape(low)}-{re.escape(high)}")
    return "[" + ("^" if negated else "") + "".join(items) + "]", at + 1


def _moby_char(pattern: str, at: int) -> tuple[str, int]:
    char = pattern[at : at + 1]
    if char in ("", "-", "]"):
        raise re.error("a class has no end")
    if char == "\\":
        at += 1
        char = pattern[at : at + 1]
        if not char:
            raise re.error("a class has no end")
    return char, at + 1
