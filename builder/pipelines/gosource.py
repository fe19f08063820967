"""Reading Go source and go.mod as far as a plan needs it: packages, imports, build constraints. Pure; runs no Go."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.source.tree import Tree

FILE_LIMIT = 128 * 1024 * 1024
"""Generated Go files may be large; only their head is looked at."""

_TOKEN = re.compile(r'//[^\n]*|/\*.*?\*/|"([^"\n]*)"|`([^`]*)`|([^\W\d]\w*)|(\S)', re.DOTALL)
_CONSTRAINT = re.compile(r"^//go:build\s+(.+)$", re.MULTILINE)
_UNIX = frozenset(("linux", "amd64", "unix", "gc"))
_ELSEWHERE = frozenset(
    (
        "aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "netbsd", "openbsd", "plan9",
        "solaris", "wasip1", "windows", "386", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle",
        "ppc64", "ppc64le", "riscv64", "s390x", "wasm",
    )
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GoFile:
    """The head of one file: `package` and its line, imports as (path, line), the text of `//go:build`."""

    path: str
    package: str
    line: int
    imports: tuple[tuple[str, int], ...]
    constraint: str


def read_head(path: str, text: str) -> GoFile:
    """Package clause and imports; comments and string literals mislead nobody (Go specification, source file)."""
    package, line = "", 0
    imports: list[tuple[str, int]] = []
    constraint = ""
    previous, inside = "", False
    for match in _TOKEN.finditer(text.removeprefix("\ufeff")):
        token = match[0]
        if token.startswith(("//", "/*")):
            if not package and (found := _CONSTRAINT.match(token)):
                constraint = found[1]
            continue
        literal = match[1] if match[1] is not None else match[2]
        if not package:
            if previous == "package" and match[3]:
                package, line = token, text.count("\n", 0, match.start()) + 1
            elif token not in ("package", ";"):
                break
        elif literal is not None and (inside or previous == "import"):
            imports.append((literal, text.count("\n", 0, match.start()) + 1))
            previous = "(" if inside else ""
            continue
        elif token == "(" and previous == "import":
            inside = True
        elif token == ")" and inside:
            inside = False
        elif token == "import":
            pass
        elif inside or previous == "import" or token == ";":
            continue  # the name before an import path
        else:
            break
        previous = token
    return GoFile(path=path, package=package, line=line, imports=tuple(imports), constraint=constraint)


def is_built(file: GoFile, cgo: bool = False) -> bool:
    """Whether a linux/amd64 build takes this file: its name and its constraint (go help buildconstraint)."""
    parts = posixpath.basename(file.path).removesuffix(".go").split("_")[1:]
    if _ELSEWHERE & set(parts[-2:]):
        return False
    return not file.constraint or _holds(file.constraint, _UNIX | ({"cgo"} if cgo else set()))


def _holds(expression: str, tags: frozenset[str]) -> bool:
    tokens = re.findall(r"&&|\|\||[!()]|[\w.]+", expression)

    def either() -> bool:
        value = both()
        while tokens and tokens[0] == "||":
            tokens.pop(0)
            value = both() or value
        return value

    def both() -> bool:
        value = single()
        while tokens and tokens[0] == "&&":
            tokens.pop(0)
            value = single() and value
        return value

    def single() -> bool:
        token = tokens.pop(0) if tokens else ""
        if token == "!":
            return not single()
        if token == "(":
            value = either()
            if tokens:
                tokens.pop(0)
            return value
        return token in tags or bool(re.fullmatch(r"go1\.\d+", token))

    return either()


def read_all(tree: Tree) -> dict[str, list[GoFile]]:
    """Folder → its files, of this module only: no vendor, testdata, hidden folders, tests or nested modules."""
    nested = {posixpath.dirname(path) + "/" for path in tree.files() if path.endswith("/go.mod")}
    found: dict[str, list[GoFile]] = {}
    for path in tree.files():
        if not path.endswith(".go") or path.endswith("_test.go"):
            continue
        folders = posixpath.dirname(path).split("/") if "/" in path else []
        if any(name in ("vendor", "testdata") or name.startswith((".", "_")) for name in folders):
            continue
        if posixpath.basename(path).startswith((".", "_")) or any(path.startswith(one) for one in nested):
            continue
        file = read_head(path, tree.read_text(path, FILE_LIMIT))
        found.setdefault("/".join(folders) or ".", []).append(file)
    return found


def reachable(packages: Mapping[str, list[GoFile]], start: str, module: str) -> tuple[str, ...]:
    """The folders of this module that the package in `start` imports, itself first."""
    seen, waiting = [start], [start]
    while waiting:
        for file in packages.get(waiting.pop(), ()):
            for name, _ in file.imports if is_built(file) else ():
                folder = name.removeprefix(module + "/") if name.startswith(module + "/") else ""
                if folder in packages and folder not in seen:
                    seen.append(folder)
                    waiting.append(folder)
    return tuple(seen)


@dataclass(frozen=True, kw_only=True)
class GoMod:
    """go.mod: versions as (value, line); `requires` path → (version, line); `replaces` path → (target, line)."""

    module: str
    go: tuple[str, int]
    toolchain: tuple[str, int]
    requires: Mapping[str, tuple[str, int]]
    replaces: Mapping[str, tuple[str, int]]


def read_mod(text: str) -> GoMod:
    """What a plan needs of go.mod (Go modules reference, "go.mod files"). What is malformed is left to `go`."""
    single = {"module": ("", 0), "go": ("", 0), "toolchain": ("", 0)}
    requires: dict[str, tuple[str, int]] = {}
    replaces: dict[str, tuple[str, int]] = {}
    for verb, words, line in _directives(text):
        if verb in single and words:
            single[verb] = (words[0], line)
        elif verb == "require" and len(words) == 2:
            requires[words[0]] = (words[1], line)
        elif verb == "replace" and "=>" in words:
            at = words.index("=>")
            replaces[words[0]] = (words[at + 1] if len(words) > at + 1 else "", line)
    return GoMod(
        module=single["module"][0], go=single["go"], toolchain=single["toolchain"], requires=requires, replaces=replaces
    )


def _directives(text: str) -> Iterator[tuple[str, list[str], int]]:
    block = ""
    for line, raw in enumerate(text.splitlines(), 1):
        words = [word.strip('"`') for word in raw.split("//", 1)[0].split()]
        if not words:
            continue
        if block:
            if words[0] == ")":
                block = ""
            else:
                yield block, words, line
        elif len(words) > 1 and words[1] == "(":
            block = words[0]
        else:
            yield words[0], words[1:], line
