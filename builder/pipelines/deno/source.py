"""What a TypeScript or JavaScript file imports, by its tokens. Pure; runs nothing.

It is a scan, no parser: comments, strings, templates and regular expressions mislead nobody, and Deno's own check
decides what is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_SKIP = re.compile(
    r"""(?P<comment>//[^\n]*+|/\*(?:[^*]++|\*(?!/))*+(?:\*/)?)"""
    r"""|(?P<string>"(?:[^"\\\n]++|\\.)*+"?|'(?:[^'\\\n]++|\\.)*+'?)"""
    r"""|(?P<word>[^\W\d]\w*+|\$\w*+)|(?P<number>\d[\w.]*+)|(?P<blank>\s++)|(?P<mark>.)""",
    re.DOTALL,
)
_TEMPLATE = re.compile(r"(?:[^`\\$]++|\\.|\$(?!\{))*+(`|\$\{)?", re.DOTALL)
_REGEX = re.compile(r"/(?![*/])(?:[^/\\\[\n]++|\\.|\[(?:[^\]\\\n]++|\\.)*+\])++/\w*+")
_REGEX_MOST = 1000
_TYPES = re.compile(r"""(?:@deno-types|@ts-types)\s{0,9}=\s{0,9}["']([^"'\s]{1,500})["']"""
                    r"""|@jsxImportSource\s{1,9}(\S{1,500})"""
                    r"""|<reference\s{1,9}types\s{0,9}=\s{0,9}["']([^"'\s]{1,500})["']""")  # fmt: skip
_BEFORE_REGEX = frozenset(("return", "typeof", "case", "in", "of", "delete", "void", "do", "else", "await", "yield"))


@dataclass(frozen=True, kw_only=True)
class Import:
    """A specifier and its line. `types`: it is needed by the type check alone."""

    specifier: str
    line: int
    types: bool = False


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a file imports, and whether it has a default export, serves or listens by itself."""

    imports: tuple[Import, ...]
    exports_default: bool
    serves: bool


def read_source(text: str) -> Source:
    """The imports of a file, those that are computed when it runs left out."""
    found: list[Import] = []
    at, line, counted = 0, 1, 0
    braces: list[bool] = []  # for each open brace, whether it is one of a template
    before: list[str] = ["", "", "", ""]  # the last tokens, newest last; a string as itself
    exports = serves = called = False
    while at < len(text):
        char = text[at]
        if char == "`" or (char == "}" and braces and braces[-1]):
            if char == "}":
                braces.pop()
            ended = _TEMPLATE.match(text, at + 1)
            at = ended.end() if ended else len(text)
            if ended and ended[1] == "${":
                braces.append(True)
                before = [*before[1:], "("]
            else:
                before = [*before[1:], "``"]
            continue
        if char == "/" and (regex := _regex(text, at, before[-1])):
            at = regex.end()
            before = [*before[1:], "0"]
            continue
        match = _SKIP.match(text, at)
        assert match is not None  # the last alternative takes anything
        at = match.end()
        kind, token = match.lastgroup, match[0]
        if kind == "blank":
            continue
        if kind == "comment":
            for types in _TYPES.finditer(token):
                line += text.count("\n", counted, match.start())
                counted = match.start()
                specifier = types[1] or types[2] or types[3]
                found.append(Import(specifier=specifier, line=line + token.count("\n", 0, types.start()), types=True))
            continue
        if called and token not in (")", ","):  # what is imported is computed
            found.pop()
        called = False
        if kind == "string":
            if len(token) > 2 and "\\" not in token and _imports(before, token[1:-1]):
                line += text.count("\n", counted, match.start())
                counted = match.start()
                found.append(Import(specifier=token[1:-1], line=line))
                called = before[-1] == "("
        elif token == "{":
            braces.append(False)
        elif token == "}" and braces:
            braces.pop()
        exports = exports or (token == "default" and before[-1] in ("export", "as"))
        serves = serves or (
            token in ("serve", "listen", "createServer", "listenAndServe") and before[-1] in (".", "{", ",")
        )
        before = [*before[1:], token if kind != "string" else "''"]
    return Source(imports=tuple(found), exports_default=exports, serves=serves)


def _regex(text: str, at: int, token: str) -> re.Match[str] | None:
    """The regular expression that starts at this slash; none where a slash behind this token is a division."""
    if token and token not in _BEFORE_REGEX and (token[-1].isalnum() or token[-1] in "_$)]}'`\""):
        return None
    return _REGEX.match(text, at, at + _REGEX_MOST)


def _imports(before: list[str], text: str) -> bool:
    """Whether a string behind these tokens is a specifier: `import`, `export … from`, `import(`, a worker's URL."""
    if before[-1] in ("from", "import"):
        return before[-2] != "."
    if before[-1] != "(":
        return False
    worker = before[-3:-1] == ["new", "URL"] and text.startswith(("./", "../"))
    return worker or (before[-2] == "import" and before[-3] != ".")
