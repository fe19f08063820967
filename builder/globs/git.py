"""Lines of a `.gitignore`, matched on bytes: git's `wildmatch.c` as a regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_CLASSES = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f", b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e", b"lower": rb"a-z", b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e", b"space": rb" \t\n\r\x0b\x0c", b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip
_NEVER = rb"(?!)"
_GIT_SPECIAL = re.compile(rb"[*?\[\\]")
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
    """A pattern of wildmatch.c as an expression that takes time in proportion to the path, for each part of it.

    What stands between two stars is looked for once, at its first place: whatever stands behind the second star takes
    the rest. An expression that tried the other places too would try all combinations of them.
    """
    parts: list[list[tuple[bytes, bool]]] = [[(b"", False)]]
    crossing, at = [b""], 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            part, at = _stars(pattern, at, end)
            if part:
                crossing.append(part)
                parts.append([(b"", False)])
            else:
                parts[-1].append((b"", False))
            continue
        if char == b"?":
            part, at = rb"[^/]", at + 1
        elif char == b"[":
            part, at = _bracket(pattern, at)
        elif char == b"\\":
            part = re.escape(pattern[at + 1 : at + 2]) or _NEVER
            at += 2
        else:
            part, at = re.escape(char), at + 1
        fixed, has_slash = parts[-1][-1]
        parts[-1][-1] = fixed + part, has_slash or part == b"/"
    first, *rest = [_between_stars(each) for each in parts]
    if not rest:
        return first
    middle = (b"(?>%s%s)" % (_FIRST[glue], part) for glue, part in zip(crossing[1:-1], rest[:-1], strict=True))
    return b"".join((first, *middle, crossing[-1], rest[-1]))


def _between_stars(fixed: Sequence[tuple[bytes, bool]]) -> bytes:
    """What stands between the stars of one name or more, each with whether it has a slash.

    A star ends with its name, so the last one of a name has one place at the most.
    """
    (out, _), *rest = fixed
    for number, (each, has_slash) in enumerate(rest, 1):
        out += b"[^/]*" + each if has_slash or number == len(rest) else b"(?>[^/]*?%s)" % each
    return out


_ACROSS, _ANY = rb"(?:.*/)?", rb".*"
_FIRST = {_ACROSS: rb"(?:.*?/)??", _ANY: rb".*?"}


def _stars(pattern: bytes, at: int, end: int) -> tuple[bytes, int]:
    """One star stays within a name, which is b""; two that are a whole part of the path cross folders."""
    rest = pattern[end:]
    is_part = (at == 0 or pattern[at - 1 : at] == b"/") and (not rest or rest.startswith((b"/", rb"\/")))
    if end - at == 1 or not is_part:
        return b"", end
    if rest.startswith(b"/"):
        return _ACROSS, end + 1
    return _ANY, end


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
