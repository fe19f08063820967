"""Lines of a `.dockerignore`, matched on text: moby's rules, for which Python has no library."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
        whole = re.compile(_moby_regex(tokens), re.DOTALL).fullmatch if _is_regular(tokens) else _Automaton(tokens)
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
_MOST_MOVES = 64
"""Different characters of paths that an automaton remembers."""


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


class _Automaton:
    """Tokens as a set of states, the bits of a number: each character of a path moves all of them at once.

    Of two loops beside each other the first is a `_FOLDERS`, so that what may be left out is so in two moves.
    """

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens: Sequence[_Token] = tokens
        self._chars: dict[str, int] = {}
        """A character → the states that wait for it alone."""
        self._classes: list[tuple[Callable[[str], object], int]] = []
        """Whether a character is of a class, and the states that wait for it."""
        self._moves: dict[str, int] = {}
        self._least = sum(isinstance(token, _One) for token in tokens)
        self._folders = self._inside = self._stars = self._anything = self._end = 0

    def _make(self) -> None:
        """The states. Each number has a bit for each: a pattern that is longer than any path gets none."""
        classes: dict[str, int] = {}
        state = 1
        for token in self._tokens:
            if isinstance(token, _One):
                if len(token.regex) > 2:
                    classes[token.regex] = classes.get(token.regex, 0) | state
                else:  # one character, maybe escaped
                    self._chars[token.regex[-1]] = self._chars.get(token.regex[-1], 0) | state
            elif token == _FOLDERS:  # before them, and inside of them until a slash
                self._folders |= state
                state <<= 1
                self._inside |= state
            elif token == _STAR:
                self._stars |= state
            else:
                self._anything |= state
            state <<= 1
        self._end = state
        self._classes = [(re.compile(regex, re.DOTALL).fullmatch, states) for regex, states in classes.items()]
        self._tokens = ()

    def __call__(self, path: str) -> bool:
        if len(path) < self._least:
            return False
        if not self._end:
            self._make()
        inside, stars = self._inside, self._stars
        anywhere, optional = inside | self._anything, stars | self._anything
        states = 1
        for char in path:
            states |= (states & self._folders) * 6  # the state inside of them, and the one behind
            states |= (states & optional) << 1
            moved = (states & self._move(char)) << 1 | states & anywhere
            states = moved | ((states & inside) << 1 if char == "/" else states & stars)
            if not states:
                return False
        states |= (states & self._folders) * 6
        states |= (states & optional) << 1
        return bool(states & self._end)

    def _move(self, char: str) -> int:
        """The states that this character leaves for the next."""
        found = self._moves.get(char)
        if found is None:
            if len(self._moves) >= _MOST_MOVES:
                self._moves.clear()
            found = self._chars.get(char, 0)
            for matches, states in self._classes:
                if matches(char):
                    found |= states
            self._moves[char] = found
        return found


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
