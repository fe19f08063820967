"""go.mod and go.work, and the modules of a source that a build takes packages from. Pure; runs no Go."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from builder.errors import BuildError
from builder.source.tree import Tree

STANDARD = frozenset((
    "archive", "arena", "bufio", "builtin", "bytes", "cmp", "compress", "container", "context", "crypto", "database",
    "debug", "embed", "encoding", "errors", "expvar", "flag", "fmt", "go", "hash", "html", "ignite", "image", "index",
    "internal", "io", "iter", "log", "maps", "math", "mime", "net", "os", "path", "plugin", "reflect", "regexp",
    "runtime", "slices", "sort", "strconv", "strings", "structs", "sync", "syscall", "testing", "text", "time",
    "unicode", "unique", "unsafe", "vendor", "weak",
))  # fmt: skip
"""First parts of what is never a package of the source: of Go's own packages, and the SDK."""
_VERSION = re.compile(r"(?:go)?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


@dataclass(frozen=True, kw_only=True)
class GoMod:
    """go.mod: versions as (value, line); `requires` path → (version, line); `replaces` path → (target, line)."""

    module: str
    go: tuple[str, int]
    toolchain: tuple[str, int]
    requires: Mapping[str, tuple[str, int]]
    replaces: Mapping[str, tuple[str, int]]
    ignores: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GoWork:
    """go.work in `folder`: versions as (value, line), `uses` (path, line), `replaces` as in go.mod."""

    folder: str
    go: tuple[str, int]
    toolchain: tuple[str, int]
    uses: tuple[tuple[str, int], ...]
    replaces: Mapping[str, tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class Module:
    """A module of the source in `folder`."""

    folder: str
    mod: GoMod

    @property
    def file(self) -> str:
        """The path of its go.mod."""
        return below(self.folder, "go.mod")


@dataclass(frozen=True, kw_only=True)
class Project:
    """What is built: the main modules, of a workspace or one alone. `base` is the folder that the request names."""

    base: str
    modules: tuple[Module, ...]
    work: GoWork | None
    roots: frozenset[str]
    """Every folder of the source that has a go.mod."""

    def nearest(self, folder: str) -> str:
        """The folder of the nearest go.mod at or above a folder, or nothing."""
        while folder not in self.roots:
            if folder in (".", "/", "//"):  # a request may name a folder outside of the source
                return ""
            folder = posixpath.dirname(folder) or "."
        return folder

    def module_of(self, folder: str) -> Module | None:
        """The main module of a folder, if that module's go.mod is the nearest one."""
        root = self.nearest(folder)
        if not root and not self.work:  # the source has no go.mod for it: one is made
            own = self.modules[0]
            return own if own.folder == "." or f"{folder}/".startswith(f"{own.folder}/") else None
        return next((module for module in self.modules if module.folder == root), None)

    @property
    def home(self) -> str:
        """Where `go` runs: the folder of go.work, or of the module."""
        return self.work.folder if self.work else self.modules[0].folder

    @property
    def paths(self) -> dict[str, str]:
        """Module path → folder: the main modules, and the ones that a replacement takes from the source."""
        found = {}
        for module in self.modules:
            for path, (target, _) in module.mod.replaces.items():
                if target.startswith("."):
                    found[path] = below(module.folder, target)
        for path, (target, _) in self.work.replaces.items() if self.work else ():
            if target.startswith("."):
                found[path] = below(self.home, target)
        return found | {module.mod.module or "app": module.folder for module in self.modules}

    def materials(self) -> tuple[str, ...]:
        """The files that name what is built in."""
        folders = dict.fromkeys(module.folder for module in self.modules)
        own = tuple(below(folder, name) for folder in folders for name in ("go.mod", "go.sum"))
        return (*(below(self.home, name) for name in ("go.work", "go.work.sum")), *own) if self.work else own


def named(project: Project, imports: Iterable[str], is_folder: Callable[[str], bool]) -> Project:
    """A project without a go.mod, with the module's name that its imports give to its own folders, if it is one name.

    "app" of `import "app/web"` beside a folder web; a name with a host has three parts, as a repository has.
    """
    found: dict[str, None] = {}
    for name in imports:
        parts = name.split("/")
        for count in range(1, min(len(parts), 8) if parts[0] not in STANDARD else 0):
            if is_folder(below(project.home, "/".join(parts[count:]))) and (count > 2 or "." not in parts[0]):
                found["/".join(parts[:count])] = None
                break
    if len(found) != 1:
        return project
    (module,) = project.modules
    return replace(project, modules=(replace(module, mod=replace(module.mod, module=next(iter(found)))),))


def below(folder: str, path: str) -> str:
    """A path of the source that is relative to a folder of it."""
    return posixpath.normpath(posixpath.join(folder, path))


def is_outside(path: str) -> bool:
    """Whether a path relative to the source's root leads out of it."""
    return path == ".." or path.startswith(("../", "/"))


def read_project(tree: Tree, base: str) -> Project:
    """The modules that a build in `base` takes, as `go` finds them. Raises `BuildError` ManifestInvalid."""
    roots = frozenset(posixpath.dirname(path) or "." for path in tree.files() if posixpath.basename(path) == "go.mod")
    at = _nearest(tree, base, "go.work")
    if at is not None:
        work = read_work(tree.read_text(below(at, "go.work")), at)
        return Project(base=base, modules=_members(tree, work), work=work, roots=roots)
    at = _nearest(tree, base, "go.mod")
    text = "" if at is None else tree.read_text(below(at, "go.mod"))
    module = Module(folder=base if at is None else at, mod=read_mod(text))
    return Project(base=base, modules=(module,), work=None, roots=roots)


def _nearest(tree: Tree, folder: str, name: str) -> str | None:
    """The folder itself or the nearest above it that has a file of this name."""
    while not tree.has(below(folder, name)):
        if folder == ".":
            return None
        folder = posixpath.dirname(folder) or "."
    return folder


def _members(tree: Tree, work: GoWork) -> tuple[Module, ...]:
    file = below(work.folder, "go.work")
    modules: dict[str, Module] = {}
    for path, line in work.uses:
        folder, where = below(work.folder, path), f"{file}:{line}"
        if is_outside(folder):
            hint = "Send the folder above it and name this one: --build-arg sub_path=FOLDER. Or take the line out."
            raise BuildError("ManifestInvalid", f"{path} is outside of the source", where=where, next=hint)
        if not tree.has(below(folder, "go.mod")):
            hint = f"Send {path} with the source, or take the line out of go.work."
            raise BuildError("ManifestInvalid", f"{path} has no go.mod in what was sent", where=where, next=hint)
        modules[folder] = Module(folder=folder, mod=read_mod(tree.read_text(below(folder, "go.mod"))))
    if not modules:
        hint = "Name the modules: go work use -r . Or leave go.work out."
        raise BuildError("ManifestInvalid", "go.work uses no module", where=file, next=hint)
    for module in modules.values():
        _refuse_newer(module, work, file)
    return tuple(modules.values())


def _refuse_newer(module: Module, work: GoWork, file: str) -> None:
    """The go line of go.work is at least that of each module, or `go` refuses the workspace."""
    value, line = work.go
    needs = go_version(module.mod.go[0])
    if needs and needs > (go_version(value) or (1, 18)):
        lists = f"lists go {value}" if value else "implies go 1.18"
        message = f"{module.file} requires go {module.mod.go[0]}, but go.work {lists}"
        where = f"{file}:{line}" if line else file
        raise BuildError("ManifestInvalid", message, where=where, next="Update go.work and commit it: go work use")


def go_version(value: str) -> tuple[int, ...] | None:
    """The numbers of a go or toolchain line: "1.24", "go1.26.3"."""
    found = _VERSION.match(value)
    return tuple(int(part) for part in found.groups() if part is not None) if found else None


def read_work(text: str, folder: str) -> GoWork:
    """What a plan needs of go.work (Go modules reference, "Workspaces"). What is malformed is left to `go`."""
    single = {"go": ("", 0), "toolchain": ("", 0)}
    uses: list[tuple[str, int]] = []
    replaces: dict[str, tuple[str, int]] = {}
    for verb, words, line in _directives(text):
        if verb in single and words:
            single[verb] = (words[0], line)
        elif verb == "use" and len(words) == 1:
            uses.append((words[0], line))
        elif verb == "replace" and "=>" in words:
            replaces[words[0]] = (next(iter(words[words.index("=>") + 1 :]), ""), line)
    return GoWork(folder=folder, **single, uses=tuple(uses), replaces=replaces)


def read_mod(text: str) -> GoMod:
    """What a plan needs of go.mod (Go modules reference, "go.mod files"). What is malformed is left to `go`."""
    single = {"module": ("", 0), "go": ("", 0), "toolchain": ("", 0)}
    requires: dict[str, tuple[str, int]] = {}
    replaces: dict[str, tuple[str, int]] = {}
    ignores: list[str] = []
    for verb, words, line in _directives(text):
        if verb in single and words:
            single[verb] = (words[0], line)
        elif verb == "ignore" and len(words) == 1:
            ignores.append(words[0])
        elif verb == "require" and len(words) == 2:
            requires[words[0]] = (words[1], line)
        elif verb == "replace" and "=>" in words:
            at = words.index("=>")
            replaces[words[0]] = (words[at + 1] if len(words) > at + 1 else "", line)
    return GoMod(
        module=single["module"][0],
        go=single["go"],
        toolchain=single["toolchain"],
        requires=requires,
        replaces=replaces,
        ignores=tuple(ignores),
    )


def _directives(text: str) -> Iterator[tuple[str, list[str], int]]:
    block = ""
    for line, raw in enumerate(text.splitlines(), 1):
        words = [word.strip('"`') for word in raw.split("//", 1)[0].split()]
        if not words:
            continue
        if words[0].endswith("(") and len(words) == 1:
            words = [words[0][:-1], "("]
        if block:
            if words[0] == ")":
                block = ""
            else:
                yield block, words, line
        elif len(words) > 1 and words[1] == "(":
            block = words[0]
        else:
            yield words[0], words[1:], line
