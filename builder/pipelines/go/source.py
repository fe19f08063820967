"""Reading Go source and go.mod as far as a plan needs it: packages, imports, build constraints. Pure; runs no Go."""

from __future__ import annotations

import posixpath
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT
from builder.source.tree import Tree

FILE_LIMIT = 128 * 1024 * 1024
"""Generated Go files may be large; only their head is looked at."""

_TOKEN = re.compile(r'//[^\n]*|/\*.*?(?:\*/|\Z)|"([^"\n]*)"|`([^`]*)`|([^\W\d]\w*)|(\S)', re.DOTALL)
_CONSTRAINT = re.compile(r"^//go:build\s+(.+)$", re.MULTILINE)
_TAGS = frozenset(("linux", "amd64", "unix", "gc"))
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
_NESTING = 32


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
    text = text.removeprefix("\ufeff")
    here, counted = 1, 0  # the line of the token, and how far newlines are counted
    for match in _TOKEN.finditer(text):
        token = match[0]
        here += text.count("\n", counted, match.start())
        counted = match.start()
        if token.startswith(("//", "/*")):
            if not package and (found := _CONSTRAINT.match(token)):
                constraint = found[1]
                if len(constraint) > LINE_LIMIT or _depth(constraint) > _NESTING:
                    message = "the build constraint is too long, or nested too deeply"
                    raise BuildError("ManifestInvalid", message, where=f"{path}:{here}", next="Write it shorter.")
            continue
        literal = match[1] if match[1] is not None else match[2]
        if not package:
            if previous == "package" and match[3]:
                package, line = token, here
            elif token not in ("package", ";"):
                break
        elif literal is not None and (inside or previous == "import"):
            imports.append((literal[:LINE_LIMIT], here))
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


def _depth(expression: str) -> int:
    """How deep its parentheses nest."""
    depth = deepest = 0
    for character in expression:
        depth += (character == "(") - (character == ")")
        deepest = max(deepest, depth)
    return deepest


def is_built(file: GoFile, cgo: bool = False) -> bool:
    """Whether a linux/amd64 build takes this file: its name and its constraint (go help buildconstraint)."""
    if not _fits_by_name(posixpath.basename(file.path)):
        return False
    return not file.constraint or _holds(file.constraint, _TAGS | ({"cgo"} if cgo else set()))


def _fits_by_name(name: str) -> bool:
    """The rule of `go/build` for `*_GOOS.go`, `*_GOARCH.go` and `*_GOOS_GOARCH.go`, each also before `_test`."""
    parts = name.partition(".")[0].split("_")[1:]
    if parts[-1:] == ["test"]:
        parts.pop()
    if len(parts) >= 2 and parts[-2] in _KNOWN_OS and parts[-1] in _KNOWN_ARCH:
        return parts[-2] in _TAGS and parts[-1] in _TAGS
    return not parts or parts[-1] not in _KNOWN_OS | _KNOWN_ARCH or parts[-1] in _TAGS


def _holds(expression: str, tags: frozenset[str]) -> bool:
    """The value of a constraint. What is malformed is left to `go`; `read_head` has bounded its parentheses."""
    tokens = deque(re.findall(r"&&|\|\||[!()]|[\w.]+", expression))

    def either() -> bool:
        value = both()
        while tokens and tokens[0] == "||":
            tokens.popleft()
            value = both() or value
        return value

    def both() -> bool:
        value = single()
        while tokens and tokens[0] == "&&":
            tokens.popleft()
            value = single() and value
        return value

    def single() -> bool:
        negated = False
        while tokens and tokens[0] == "!":
            tokens.popleft()
            negated = not negated
        token = tokens.popleft() if tokens else ""
        if token == "(":
            value = either()
            if tokens:
                tokens.popleft()
        else:
            value = token in tags or bool(re.fullmatch(r"go1\.\d+", token))
        return value is not negated

    return either()


def read_all(tree: Tree) -> dict[str, list[GoFile]]:
    """Folder → its files, of this module only: no vendor, testdata, hidden folders, tests or nested modules."""
    nested = {posixpath.dirname(path) for path in tree.files() if path.endswith("/go.mod")}
    found: dict[str, list[GoFile]] = {}
    for path in tree.files():
        if not path.endswith(".go") or path.endswith("_test.go"):
            continue
        folders = posixpath.dirname(path).split("/") if "/" in path else []
        if any(name in ("vendor", "testdata") or name.startswith((".", "_")) for name in folders):
            continue
        if posixpath.basename(path).startswith((".", "_")):
            continue
        if nested and any("/".join(folders[: depth + 1]) in nested for depth in range(len(folders))):
            continue
        file = read_head(path, tree.read_text(path, FILE_LIMIT))
        found.setdefault("/".join(folders) or ".", []).append(file)
    return found


def reachable(packages: Mapping[str, list[GoFile]], start: str, module: str) -> tuple[str, ...]:
    """The folders of this module that the package in `start` imports, itself first."""
    seen, waiting = {start: None}, [start]
    while waiting:
        for file in packages.get(waiting.pop(), ()):
            for name, _ in file.imports if is_built(file) else ():
                folder = name.removeprefix(module + "/") if name.startswith(module + "/") else ""
                if folder in packages and folder not in seen:
                    seen[folder] = None
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
