"""Build constraints and file names as `go/build` judges them for linux/amd64 without cgo. Pure; runs no Go.

`//go:build` is read by the grammar of `go/build/constraint`. A file without one is judged by its `// +build` lines,
which count above the last blank line before the package clause.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from builder.pipelines.limits import LINE_LIMIT

NESTING = 32
MOST_TERMS = 101
"""`go` leaves out a `// +build` line of more than 100 operators."""
_TOOL_TAGS = ("amd64.v1", "goexperiment.regabiargs", "goexperiment.regabiwrappers")
# `internal/syslist` of Go: past, present and future names. "unix" is a tag, but no part of a file name.
_KNOWN_OS = frozenset(
    (
        "aix", "android", "darwin", "dragonfly", "freebsd", "hurd", "illumos", "ios", "js", "linux", "nacl", "netbsd",
        "openbsd", "plan9", "solaris", "wasip1", "windows", "zos",
    )
)  # fmt: skip
_KNOWN_ARCH = frozenset(
    (
        "386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64",
        "mips64le", "mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x",
        "sparc", "sparc64", "wasm",
    )
)  # fmt: skip
_TOKEN = re.compile(r"[ \t]*(?:(&&|\|\||[!()])|([\w.]+)|(.)|$)", re.DOTALL)
_TAG = re.compile(r"[\w.]+")
_BLANKS = re.compile(r"\s*")


class Malformed(ValueError):
    """A constraint that `go` refuses; the message is the one that `go` prints."""


class TooComplex(Malformed):
    """A constraint beyond the limits here."""


def tags_of(version: str, more: tuple[str, ...] = ()) -> frozenset[str]:
    """The tags that hold for a build by this version of Go ("1.26"), with the ones that a request adds."""
    minor = int(version.split(".")[1])
    releases = (f"go1.{one}" for one in range(1, minor + 1))
    return frozenset(("linux", "amd64", "unix", "gc", *_TOOL_TAGS, *releases, *more))


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What stands above a package clause: the text of `//go:build`, or else the `// +build` lines.

    `fault` is why `go` refuses the file, and `line` where the constraint is; no constraint has line 0.
    """

    expression: str = ""
    options: tuple[str, ...] = ()
    line: int = 0
    fault: str = ""

    def holds(self, tags: frozenset[str]) -> bool:
        """Whether a build with these tags takes the file. A malformed one holds for no tags."""
        if self.fault:
            return False
        if self.expression:
            return evaluate(self.expression, tags)
        return all(_any_option(text, tags) for text in self.options)

    @property
    def lines(self) -> tuple[str, ...]:
        """The constraint as a Go file has it."""
        if self.expression:
            return (f"//go:build {self.expression}",)
        return tuple(f"// +build {option}" for option in self.options)

    def __str__(self) -> str:
        return " ".join(self.lines)


def read_constraint(text: str) -> Constraint:
    """The constraint of a Go file. Raises `TooComplex`, whose second argument is the line."""
    expression: tuple[str, int] | None = None
    options: list[tuple[str, int]] = []
    counted = 0  # how many of them are above the last blank line
    ended = inside = False
    for number, line in _lines(text):
        if not line and not ended:
            counted = len(options)
            continue
        if not line.startswith("//"):
            ended = True
        if not inside and line.startswith("//go:build") and line[10:11].strip() == "":
            if expression:
                return Constraint(line=number, fault="multiple //go:build comments")
            expression = (line[10:].strip(), number)
        elif not ended and (option := _option(line)) is not None:
            options.append((option, number))
        inside, code = _skip_comments(line, inside)
        if code:
            break
    if expression:
        return _parsed(*expression)
    if too_long := next((at for option, at in options[:counted] if len(option) > LINE_LIMIT), 0):
        raise TooComplex("the build constraint is too long", too_long)
    first = options[0][1] if counted else 0
    return Constraint(options=tuple(option for option, _ in options[:counted]), line=first)


def _parsed(expression: str, line: int) -> Constraint:
    if len(expression) > LINE_LIMIT or _depth(expression) > NESTING:
        raise TooComplex("the build constraint is too long, or nested too deeply", line)
    try:
        evaluate(expression, frozenset())
    except Malformed as error:
        return Constraint(line=line, fault=f"parsing //go:build line: {error}")
    return Constraint(expression=expression, line=line)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Number and text of each line, blanks cut; a file may be large, and only its head is read."""
    start, number = 0, 1
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        yield number, text[start:end].strip()
        start, number = end + 1, number + 1


def _skip_comments(line: str, inside: bool) -> tuple[bool, bool]:
    """(inside of a `/*` comment at the line's end, whether the line has code)."""
    at = 0
    while at < len(line):
        if inside:
            end = line.find("*/", at)
            if end < 0:
                return True, False
            inside, at = False, _BLANKS.match(line, end + 2).end()  # type: ignore[union-attr]  # it matches nothing too
        elif line.startswith("//", at):
            return False, False
        elif line.startswith("/*", at):
            inside, at = True, at + 2
        else:
            return False, True
    return inside, False


def _option(line: str) -> str | None:
    """The text of a `// +build` line."""
    text = line.removeprefix("//").strip()
    if text == line or not text.startswith("+build"):
        return None
    rest = text[6:]
    return None if rest and rest == rest.strip() else rest.strip()


def _any_option(text: str, tags: frozenset[str]) -> bool:
    """Options apart by blanks: one must hold. Terms apart by commas: all must."""
    if len(text.replace(",", " ").split()) > MOST_TERMS:
        return True
    return any(all(_term(term, tags) for term in option.split(",")) for option in text.split())


def _term(term: str, tags: frozenset[str]) -> bool:
    name = term.removeprefix("!")
    if term == "!" or name.startswith("!"):
        return False
    holds = name in tags if _TAG.fullmatch(name) else False
    return holds is not term.startswith("!")


def _depth(expression: str) -> int:
    """How deep its parentheses nest."""
    depth = deepest = 0
    for character in expression:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def evaluate(expression: str, tags: frozenset[str]) -> bool:
    """The value of a `//go:build` expression. Raises `Malformed`; the caller bounds parentheses."""
    tokens = list(_tokens(expression))
    at = 0

    def peek() -> str:
        return tokens[at] if at < len(tokens) else ""

    def either() -> bool:
        nonlocal at
        value = both()
        while peek() == "||":
            at += 1
            value = both() or value
        return value

    def both() -> bool:
        nonlocal at
        value = negated()
        while peek() == "&&":
            at += 1
            value = negated() and value
        return value

    def negated() -> bool:
        nonlocal at
        if peek() != "!":
            return single()
        at += 1
        if peek() == "!":
            raise Malformed("double negation not allowed")
        return not single()

    def single() -> bool:
        nonlocal at
        token = peek()
        at += 1
        if token == "(":
            value = either()
            if peek() != ")":
                raise Malformed("missing close paren")
            at += 1
            return value
        if not token:
            raise Malformed("unexpected end of expression")
        if not _TAG.fullmatch(token):
            raise Malformed(f"unexpected token {token}")
        return token in tags

    value = either()
    if at < len(tokens):
        raise Malformed(f"unexpected token {tokens[at]}")
    return value


def _tokens(expression: str) -> Iterator[str]:
    for found in _TOKEN.finditer(expression):
        if found[3]:
            raise Malformed(f"invalid syntax at {found[3]}")
        if found[1] or found[2]:
            yield found[1] or found[2]


def fits_by_name(name: str, tags: frozenset[str]) -> bool:
    """The rule of `go/build` for `*_GOOS.go`, `*_GOARCH.go` and `*_GOOS_GOARCH.go`, each also before `_test`."""
    parts = name.partition(".")[0].split("_")[1:]
    if parts[-1:] == ["test"]:
        parts.pop()
    if len(parts) >= 2 and parts[-2] in _KNOWN_OS and parts[-1] in _KNOWN_ARCH:
        return parts[-2] in tags and parts[-1] in tags
    return not parts or parts[-1] not in _KNOWN_OS | _KNOWN_ARCH or parts[-1] in tags
