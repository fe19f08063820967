"""Choosing the package that is built, and what its files ask for: cgo, embedded files. Pure; runs no Go."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from builder.errors import BuildError
from builder.globs import name_glob
from builder.pipelines.go.project import Module, Project, below
from builder.pipelines.go.source import GoFile, Packages, folder_of, is_built
from builder.source.tree import Tree, relative

ASIDE = frozenset(("example", "examples", "hack", "scripts", "test", "tests", "tools"))
"""Folders whose programs are not what a repository is for."""
LISTED = 8
LONGEST_PATH = 4096
ALLOW_CGO = "Take a module that is Go alone, or allow cgo: --build-arg cgo=1, with a toolchain that has a C compiler."
LOOKS = 50_000
"""How many files and folders the patterns of a source are compared with; beyond it they are left to `go`."""


def choose(packages: Packages, project: Project, tags: frozenset[str], entry: str) -> tuple[str, str]:
    """(folder, why) of the package main that is built. Raises `BuildError` EntryPointMissing with the candidates."""
    mains = _mains(packages, project, tags)
    if entry:
        return _named(packages, project, mains, tags, entry)
    if project.base in mains:
        return project.base, mains[project.base]
    near = [folder for folder in mains if project.base == "." or folder.startswith(project.base + "/")]
    own = [folder for folder in near if not ASIDE.intersection(_inside(project, folder).split("/"))]
    if len(own) == 1 or (not own and len(near) == 1):
        found = (own or near)[0]
        other = f" outside of {', '.join(sorted(_aside(project, near)))}" if len(near) > 1 else ""
        return found, f"{mains[found]}, the only one{other}"
    commands = [folder for folder in own if re.fullmatch(r"cmd/[^/]+", _inside(project, folder))]
    if len(commands) == 1:
        return commands[0], f"{mains[commands[0]]}, the only one below cmd/"
    named = [folder for folder in commands if posixpath.basename(folder) == _last_part(project.module_of(folder))]
    if len(named) == 1:
        return named[0], f"{mains[named[0]]}, of the module's name"
    if near:
        raise BuildError(
            "EntryPointMissing",
            f"package main is not at the root, but in several folders: {_listed(project, own or near)}",
            next=f"Name the one to build: --build-arg entry={target_of(project, sorted(own or near)[0])}",
        )
    raise _no_main(packages, project, tags)


def _mains(packages: Packages, project: Project, tags: frozenset[str]) -> dict[str, str]:
    """Folder → file:line of each package main of the main modules that a build would take."""
    return _mains_of(packages, own_folders(packages, project), tags)


def _mains_of(packages: Packages, folders: Iterable[str], tags: frozenset[str]) -> dict[str, str]:
    mains: dict[str, str] = {}
    for folder in folders:
        for file in packages.files(folder):
            # A file that `go` refuses makes its package fail, not vanish.
            if file.package == "main" and (is_built(file, tags) or file.constraint.fault):
                mains.setdefault(folder, f"{file.path}:{file.line}")
    return mains


def own_folders(packages: Packages, project: Project) -> Iterator[str]:
    """The folders of packages that belong to a main module: to none below it, and not to what it ignores."""
    for folder in packages.folders():
        module = project.module_of(folder)
        if module and not _is_ignored(module, folder):
            yield folder


def _is_ignored(module: Module, folder: str) -> bool:
    """Whether an `ignore` line of go.mod leaves a folder out: "./x" is that folder, "x" one of any place."""
    inside = relative(folder, module.folder)
    for one in module.mod.ignores:
        path = posixpath.normpath(one)
        where = f"/{inside}/"
        if where.startswith(f"/{path}/") if one.startswith("./") else f"/{path}/" in where:
            return True
    return False


def _inside(project: Project, folder: str) -> str:
    module = project.module_of(folder)
    return relative(folder, module.folder) if module else folder


def target_of(project: Project, folder: str) -> str:
    """A folder as an argument of `go build` in the folder where it runs."""
    path = relative(folder, project.home)
    return path if path.startswith(".") else f"./{path}"


def _listed(project: Project, folders: list[str]) -> str:
    names = [relative(folder, project.home) for folder in sorted(folders)]
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _aside(project: Project, folders: list[str]) -> set[str]:
    return {f"{part}/" for folder in folders for part in _inside(project, folder).split("/") if part in ASIDE}


def _last_part(module: Module | None) -> str:
    """The last part of a module's path, without its major version: "app" of "example.com/app/v2"."""
    path = module.mod.module if module else ""
    return posixpath.basename(re.sub(r"/v\d{1,9}$", "", path))


def _named(
    packages: Packages, project: Project, mains: dict[str, str], tags: frozenset[str], entry: str
) -> tuple[str, str]:
    """The package that the build argument names: a folder, an import path, or a file of it."""
    asked = entry[:LONGEST_PATH].rstrip("/") or "."
    folder = below(project.home, posixpath.dirname(asked) if asked.endswith(".go") else asked)
    if not asked.startswith(".") and folder not in packages:
        folder = folder_of(asked, project.paths) or folder
    if project.module_of(folder):  # also one that no pattern matches, such as _examples/hello
        mains = mains | _mains_of(packages, [folder], tags)
    if folder in mains:
        return folder, f"build argument entry, {mains[folder]}"
    known = f"; package main is in {_listed(project, list(mains))}" if mains else ""
    if folder not in packages:
        message = f"there is no package {entry[:80]} in what was sent{known}"
    elif not project.module_of(folder):
        message = f"{entry[:80]} belongs to a module that is not built here"
        raise BuildError(
            "EntryPointMissing",
            message,
            where="buildArgs.entry",
            next="Name that module's folder: --build-arg sub_path=FOLDER, or add it to go.work: go work use FOLDER",
        )
    else:
        package = next((file.package for file in packages.files(folder) if file.package), "empty")
        message = f"the package {entry[:80]} is {_why_not(packages, folder, tags) or package}, no main{known}"
    hint = "Name a package main: its folder, its import path, or a file of it."
    raise BuildError("EntryPointMissing", message, where="buildArgs.entry", next=hint)


def _why_not(packages: Packages, folder: str, tags: frozenset[str]) -> str:
    """Why a package main is in no build here, or nothing."""
    for file in packages.files(folder):
        if file.package == "main" and not is_built(file, tags):
            if file.cgo_line:
                return f'left out (line {file.cgo_line} of {posixpath.basename(file.path)} imports "C")'
            by = f" ({file.constraint})" if file.constraint.line and not file.constraint.holds(tags) else ""
            return f"left out of a linux/amd64 build{by}"
    return ""


def _no_main(packages: Packages, project: Project, tags: frozenset[str]) -> BuildError:
    for folder in own_folders(packages, project):
        for file in packages.files(folder):
            if file.package == "main" and file.cgo_line and is_built(file, tags | {"cgo"}):
                return refused_cgo(file)
    root = next((file.package for file in packages.files(project.base) if file.package and is_built(file, tags)), "")
    has = f"the root's package is {root}" if root else "there is no Go file at the root"
    hint = 'Add main.go with "package main".'
    for folder in own_folders(packages, project):
        if why := _why_not(packages, folder, tags):
            file = next(one for one in packages.files(folder) if one.package == "main")
            return BuildError("EntryPointMissing", f"no package main: {has}; the one in {file.path} is {why}",
                              where=f"{file.path}:{file.constraint.line or file.line}", next=hint)  # fmt: skip
    apart = (one for one in packages.folders() if not project.module_of(one))
    for folder in apart:
        if any(file.package == "main" and is_built(file, tags) for file in packages.files(folder)):
            module = project.nearest(folder)
            listed = " that go.work does not use" if project.work else ""
            message = f"no package main: {has}; the one in {folder} belongs to the module in {module}{listed}"
            return BuildError("EntryPointMissing", message, next=f"Build that module: --build-arg sub_path={module}")
    first = next((f"{file.path}:{file.line}" for file in packages.files(project.base) if file.package == root), "")
    return BuildError("EntryPointMissing", f"no package main: {has}", where=first or project.base, next=hint)


def refused_cgo(file: GoFile) -> BuildError:
    """A file of the source that only a build with cgo takes, where nothing stands in for it."""
    message = f'{file.path} imports "C"; the artifact is built without cgo'
    return BuildError("CgoRefused", message, where=f"{file.path}:{file.cgo_line}", next=ALLOW_CGO)


def refuse_cgo(packages: Packages, folders: tuple[str, ...], tags: frozenset[str]) -> None:
    """Refuse a package with a file that only cgo takes; one with a twin for builds without cgo is whole."""
    for folder in folders:
        files = packages.files(folder)
        if any(is_built(file, tags) and not is_built(file, tags | {"cgo"}) for file in files):
            continue
        for file in files:
            if file.cgo_line and is_built(file, tags | {"cgo"}) and file.constraint.holds(tags):
                raise refused_cgo(file)


def refuse_faults(packages: Packages, folders: tuple[str, ...]) -> None:
    """Refuse a constraint that `go` cannot read, in a package that is built."""
    for file in (file for folder in folders for file in packages.files(folder)):
        if file.constraint.fault:
            where = f"{file.path}:{file.constraint.line}"
            hint = f"Correct the build constraint in {file.path}."
            raise BuildError("CompileFailed", f"{file.path}: {file.constraint.fault}", where=where, next=hint)


def refuse_missing_embeds(tree: Tree, packages: Packages, folders: tuple[str, ...], tags: frozenset[str]) -> None:
    """Refuse a `//go:embed` pattern that matches nothing in what was sent; no step makes files before the compiler."""
    asked = [
        (file.path, folder, pattern, line)
        for folder in folders
        for file in packages.files(folder)
        if file.embeds and is_built(file, tags)
        for pattern, line in file.embeds
    ]
    if not asked:
        return
    names = _children(tree)
    looks = 0
    for path, folder, pattern, line in asked:
        glob = pattern.removeprefix("all:")
        if any(character in glob for character in "[\\") or glob.startswith(("/", "..")) or glob == ".":
            continue
        found = [folder]
        for part in glob.split("/"):
            looks += 1 + sum(len(names.get(one, ())) for one in found if "*" in part or "?" in part)
            if looks > LOOKS:
                return
            found = [below(one, name) for one in found for name in _matching(names.get(one, {}), part)]
        if not found:
            raise BuildError(
                "CompileFailed",
                f"{pattern[:200]} is embedded, but nothing in what was sent matches it",
                where=f"{path}:{line}",
                next="Send the files with the source (a folder is sent without what its ignore rules leave out), "
                "or correct the pattern.",
            )


def _children(tree: Tree) -> dict[str, dict[str, None]]:
    """Folder → the names in it, of files and folders."""
    found: dict[str, dict[str, None]] = {}
    for file in tree.files():
        path = file
        while path:
            folder, _, name = path.rpartition("/")
            names = found.setdefault(folder or ".", {})
            if name in names:
                break
            names[name] = None
            path = folder
    return found


def _matching(names: dict[str, None], part: str) -> list[str]:
    if "*" not in part and "?" not in part:
        return [part] if part in names else []
    glob = name_glob(part)
    return [name for name in names if glob.matches(name)]
