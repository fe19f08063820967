"""Lines of a `.dockerignore`, matched on text: moby's rules, for which Python has no library."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.globs.pattern import Automaton, Glob
from builder.globs.runs import runs

_SPECIAL = re.compile(r"[*?\[\\]")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True)
class MobyPattern:
    """One line of a `.dockerignore`.

    `literal` is what stands before the first special character; `is_exact`: it is all there is.
    """

    line: int
    text: str
    negated: bool
    literal: str
    is_exact: bool
    _whole: Callable[[str], object]

    def matches(self, path: str) -> bool:
        """Whether it names this path, of a file or of a folder above one. Linear in pattern times path."""
        return bool(self._whole(path))


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
        tokens = _moby_tokens(body)
        whole = re.compile(_moby_regex(tokens), re.DOTALL).fullmatch if _is_regular(tokens) else _late(tokens)
    except re.error as error:
        raise ValueError(f'"{text}" is no pattern: {error}') from None
    return MobyPattern(
        line=number,
        text=text,
        negated=text.startswith("!"),
        literal=body[: special.start()] if special else body,
        is_exact=special is None,
        _whole=whole,
    )


def deciding(rules: Sequence[MobyPattern], path: str) -> MobyPattern | None:
    """The rule that leaves a path out; None: it is sent. The last one that matches it or a folder above decides."""
    above = [path]
    while "/" in above[-1]:
        above.append(above[-1].rpartition("/")[0])
    last: MobyPattern | None = None
    for rule in rules:
        if any(rule.matches(each) for each in above):
            last = None if rule.negated else rule
    return last


_STAR, _FOLDERS, _ANYTHING = "[^/]*", "(?:.*/)?", ".*"
_LOOPS = frozenset({_STAR, _FOLDERS, _ANYTHING})


@dataclass(frozen=True, kw_only=True)
class _One:
    """One character of a path: its expression, and whether it may be a slash."""

    regex: str
    slash: bool


_Token = str | _One
"""One character, or one of `_LOOPS`: any number of characters."""
_SLASH = _One(regex="/", slash=True)


def _moby_tokens(pattern: str) -> list[_Token]:
    out: list[_Token] = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if pattern.startswith("**", at - 1):
            at += 2 if pattern.startswith("/", at + 1) else 1
            if at == len(pattern):
                loop = _ANYTHING
            else:
                # At the very start, before a name without special characters, the end of a path is enough.
                is_end = not out and not _SPECIAL.search(pattern[at:]) and not pattern.startswith("**/")
                loop = _ANYTHING if is_end else _FOLDERS
            if out[-1:] != [loop]:  # the same again adds nothing
                out.append(loop)
        elif char == "*":
            out.append(_STAR)
        elif char == "?":
            out.append(_One(regex="[^/]", slash=False))
        elif char == "[":
            regex, at = _moby_class(pattern, at)
            out.append(_One(regex=regex, slash=re.fullmatch(regex, "/") is not None))
        elif char == "\\":
            if at == len(pattern):
                raise re.error("it ends with a backslash")
            out.append(_One(regex=re.escape(pattern[at]), slash=pattern[at] == "/"))
            at += 1
        else:
            out.append(_One(regex=re.escape(char), slash=char == "/"))
    return out


def _is_regular(tokens: Sequence[_Token]) -> bool:
    """Whether `_moby_regex` has an expression without backtracking of a higher degree.

    It has where one loop alone decides nothing else, and where each `**` begins a folder and only a written slash may
    be one: then the first place where a part fits is as good as any later one.
    """
    loops = [at for at, token in enumerate(tokens) if token in _LOOPS]
    if len(loops) <= 1:
        return True
    for at, token in enumerate(tokens):
        if isinstance(token, _One):
            if token.slash and token != _SLASH:
                return False
        elif (token == _FOLDERS and at and tokens[at - 1] != _SLASH) or (token == _ANYTHING and at != len(tokens) - 1):
            return False
    return True


def _moby_regex(tokens: Sequence[_Token]) -> str:
    """An expression for the tokens; what stands between two loops of a kind is atomic, found at its first place."""
    if sum(token in _LOOPS for token in tokens) <= 1:
        return "".join(token if isinstance(token, str) else token.regex for token in tokens)
    *firsts, last = runs(tokens, _FOLDERS)
    parts: list[str] = []
    for index, inner in enumerate(firsts):
        part = _names(inner)
        # The folders in front of a part, as few as it takes; the first part has none in front.
        parts.append(f"(?>(?:.*?/)??{part})" if index else part)
    return "".join(parts) + (_FOLDERS if firsts else "") + _names(last)


def _names(tokens: Sequence[_Token]) -> str:
    """The expression of a part between two `**`: names, each with its stars."""
    out: list[str] = []
    for name in runs(tokens, _SLASH):
        *firsts, last = runs(name, _STAR)
        fixed = ["".join(token if isinstance(token, str) else token.regex for token in each) for each in firsts]
        out.append("".join(f"(?>[^/]*?{each})" if index else each for index, each in enumerate(fixed)))
        out[-1] += (_STAR if firsts else "") + "".join(
            token if isinstance(token, str) else token.regex for token in last
        )
    return "/".join(out)


def _late(tokens: Sequence[_Token]) -> Callable[[str], object]:
    least = sum(isinstance(token, _One) for token in tokens)
    return Glob(least, lambda: _automaton(tokens)).matches


def _automaton(tokens: Sequence[_Token]) -> Automaton:
    made = Automaton()
    add: Mapping[str, Callable[[], None]] = {
        _STAR: made.star, _FOLDERS: made.up_to_a_slash, _ANYTHING: made.anything,
    }  # fmt: skip
    for token in tokens:
        if isinstance(token, str):
            add[token]()
        elif len(token.regex) > 2:
            made.any_of(token.regex)
        else:  # one character, maybe escaped
            made.char(token.regex[-1])
    return made


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
