"""Reading Go source as far as a plan needs it: packages, imports, constraints, what is embedded. Pure; runs no Go."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.go.constraints import Constraint, TooComplex, fits_by_name, read_constraint
from builder.pipelines.limits import LINE_LIMIT
from builder.source.tree import Tree

FILE_LIMIT = 128 * 1024 * 1024
"""Generated Go files may be large; only their head is looked at, unless they embed."""

_TOKEN = re.compile(r'//[^\n]*|/\*.*?(?:\*/|\Z)|"([^"\n]*)"|`([^`]*)`|([^\W\d]\w*)|(\S)', re.DOTALL)
# Comments and literals as wholes. An unclosed one extends to where it must end, hence one pass.
_WHOLE = re.compile(r"""//[^\n]*+|/\*.*?(?:\*/|\Z)|"(?:\\.|[^"\\\n])*+"?|`[^`]*+`?|'(?:\\.|[^'\\\n])*+'?""", re.DOTALL)
_PATTERN = re.compile(r"""[ \t]*(?:"((?:\\.|[^"\\])*+)"|`([^`]*)`|([^\s"`]\S*))""")


@dataclass(frozen=True, kw_only=True)
class GoFile:
    """The head of one file: `package` and its line, imports and embedded patterns as (text, line), its constraint."""

    path: str
    package: str
    line: int
    imports: tuple[tuple[str, int], ...]
    constraint: Constraint
    embeds: tuple[tuple[str, int], ...] = ()

    @property
    def cgo_line(self) -> int:
        """The line of `import "C"`, or 0."""
        return next((line for name, line in self.imports if name == "C"), 0)


def read_head(path: str, text: str) -> GoFile:
    """Package clause and imports; comments and string literals mislead nobody (Go specification, source file)."""
    package, line = "", 0
    imports: list[tuple[str, int]] = []
    previous, inside = "", False
    text = text.removeprefix("\ufeff")
    try:
        constraint = read_constraint(text)
    except TooComplex as error:
        message, at = error.args
        raise BuildError("ManifestInvalid", message, where=f"{path}:{at}", next="Write it shorter.") from None
    here, counted = 1, 0  # the line of the last import, and how far newlines are counted
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token.startswith(("//", "/*")):
            continue
        literal = match[1] if match[1] is not None else match[2]
        if not package:
            if previous == "package" and match[3]:
                package, line = token, 1 + text.count("\n", 0, match.start())
            elif token not in ("package", ";"):
                break
        elif literal is not None and (inside or previous == "import"):
            here += text.count("\n", counted, match.start())
            counted = match.start()
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
    embeds = read_embeds(text) if any(name == "embed" for name, _ in imports) else ()
    return GoFile(path=path, package=package, line=line, imports=tuple(imports), constraint=constraint, embeds=embeds)


def read_embeds(text: str) -> tuple[tuple[str, int], ...]:
    """The patterns of `//go:embed` at the start of a line; comments and literals mislead nobody."""
    found: list[tuple[str, int]] = []
    here, counted = 1, 0
    for match in _WHOLE.finditer(text):
        if (
            not text.startswith("//go:embed", match.start())
            or text[match.start() + 10 : match.start() + 11] not in " \t"
        ):
            continue
        start = text.rfind("\n", max(0, match.start() - LINE_LIMIT), match.start()) + 1
        if text[start : match.start()].strip():
            continue
        here += text.count("\n", counted, match.start())
        counted = match.start()
        for pattern in _PATTERN.finditer(match[0][10 : 10 + LINE_LIMIT]):
            found.append((next(part for part in pattern.groups() if part is not None), here))
    return tuple(found)


def is_built(file: GoFile, tags: frozenset[str]) -> bool:
    """Whether a build with these tags takes this file: its name, its constraint, no cgo, no documentation."""
    if file.package == "documentation" or (file.cgo_line and "cgo" not in tags):
        return False
    return fits_by_name(posixpath.basename(file.path), tags) and file.constraint.holds(tags)


class Packages:
    """The Go files of a source by folder, each head read once and when it is asked for. Tests are left out."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._heads: dict[str, tuple[GoFile, ...]] = {}
        self._paths: dict[str, list[str]] = {}
        for path in tree.files():
            folder, _, name = path.rpartition("/")
            if name.endswith(".go") and not name.endswith("_test.go") and not name.startswith((".", "_")):
                self._paths.setdefault(folder or ".", []).append(path)

    def __contains__(self, folder: str) -> bool:
        return folder in self._paths

    def files(self, folder: str) -> tuple[GoFile, ...]:
        """The heads of a folder's files."""
        if folder not in self._heads:
            paths = self._paths.get(folder, ())
            self._heads[folder] = tuple(read_head(path, self._tree.read_text(path, FILE_LIMIT)) for path in paths)
        return self._heads[folder]

    def folders(self) -> Iterator[str]:
        """The folders that `...` matches: none that is vendored, hidden or for tests."""
        for folder in self._paths:
            if not any(name in ("vendor", "testdata") or name.startswith("_") for name in folder.split("/")) and (
                folder == "." or not any(name.startswith(".") for name in folder.split("/"))
            ):
                yield folder


def reachable(packages: Packages, start: str, modules: Mapping[str, str], tags: frozenset[str]) -> tuple[str, ...]:
    """The folders of the source that the package in `start` imports, itself first. `modules`: path → folder."""
    seen, waiting = {start: None}, [start]
    while waiting:
        for file in packages.files(waiting.pop()):
            for name, _ in file.imports if is_built(file, tags) else ():
                folder = folder_of(name, modules)
                if folder and folder in packages and folder not in seen:
                    seen[folder] = None
                    waiting.append(folder)
    return tuple(seen)


def folder_of(name: str, modules: Mapping[str, str]) -> str:
    """The folder of an import path in the module with the longest path above it, or nothing."""
    above = name
    while above:
        if above in modules:
            return posixpath.normpath(posixpath.join(modules[above], name[len(above) + 1 :]))
        above = above.rpartition("/")[0]
    return ""
