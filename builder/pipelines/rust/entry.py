"""Which program of a package is built: one with a main, or a library with a handler. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.rust.manifest import Package, below, table
from builder.pipelines.rust.source import FILE_LIMIT, handler_line
from builder.source.tree import Tree, relative

OURS = "ignite-app"
"""The name of the program that starts the handler of a library."""
WRAPPER = ".ignite/main.rs"
_MAIN = re.compile(r"(?:^|/)src/(?:main\.rs|bin/[^/]+\.rs|bin/[^/]+/main\.rs)$")


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program: its name for cargo, and its file. `library`: it is ours, and calls the library's handler."""

    name: str
    path: str
    library: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The program to build, why, and whether it has a handler."""

    program: Program
    why: str
    handler: bool


def programs(tree: Tree, package: Package) -> tuple[Program, ...]:
    """The programs of a package as cargo finds them (The Cargo Book, "Target auto-discovery")."""
    found = dict(_declared(tree, package))
    if package.package.get("autobins") is not False:
        taken = {one.path for one in found.values()}
        for name, path in _discovered(tree, package):
            if name not in found and path not in taken:
                found[name] = Program(name=name, path=path)
    return tuple(found.values())


def _declared(tree: Tree, package: Package) -> Iterator[tuple[str, Program]]:
    rows = package.table.get("bin")
    for row in rows if isinstance(rows, list) else ():
        name = row.get("name") if isinstance(row, dict) else None
        if not isinstance(name, str):
            continue
        path = row.get("path")
        if isinstance(path, str):
            yield name, Program(name=name, path=below(package.folder, path))
            continue
        places = (f"src/bin/{name}.rs", f"src/bin/{name}/main.rs", "src/main.rs")
        there = next((place for place in places if tree.has(below(package.folder, place))), places[0])
        yield name, Program(name=name, path=below(package.folder, there))


def _discovered(tree: Tree, package: Package) -> Iterator[tuple[str, str]]:
    if tree.has(path := below(package.folder, "src/main.rs")):
        yield package.name, path
    prefix = below(package.folder, "src/bin") + "/"
    for path in tree.files():
        if path.startswith(prefix):
            rest = path.removeprefix(prefix)
            if rest.endswith(".rs") and "/" not in rest:
                yield rest.removesuffix(".rs"), path
            elif rest.endswith("/main.rs") and rest.count("/") == 1:
                yield rest.removesuffix("/main.rs"), path


def starting(tree: Tree, packages: tuple[Package, ...]) -> tuple[Package, ...]:
    """The packages that have a program, or a library with a handler. Each file of the tree is looked at once."""
    mains = {path.rpartition("/src/")[0] or "." for path in tree.files() if _MAIN.search(path)}
    return tuple(one for one in packages if "bin" in one.table or one.folder in mains or _has_handler(tree, one))


def _has_handler(tree: Tree, package: Package) -> bool:
    library = library_of(tree, package)
    return bool(library and _line(tree, library))


def library_of(tree: Tree, package: Package) -> str:
    """The file of the package's library, or nothing."""
    named = package.library.get("path")
    path = below(package.folder, named if isinstance(named, str) else "src/lib.rs")
    return path if tree.has(path) else ""


def choose(tree: Tree, package: Package, asked: str) -> Entry:
    """The program to build. Raises `BuildError` EntryPointMissing, with the candidates where there are several, and
    ManifestInvalid for one whose name is none of a file or an option of a tool."""
    entry = _chosen(tree, package, asked)
    name = entry.program.name
    if not name.isprintable() or name.startswith(("-", ".")) or any(sign in name for sign in "/\\"):
        message = f"{name[:80]!r} is no name of a program"
        hint = "Name it by letters, digits, - and _, a letter first."
        raise BuildError("ManifestInvalid", message, where=f"{package.file}  {entry.program.path}"[:200], next=hint)
    return entry


def _chosen(tree: Tree, package: Package, asked: str) -> Entry:
    found = programs(tree, package)
    library = library_of(tree, package)
    handlers = {path: line for path in (library, *(one.path for one in found)) if path and (line := _line(tree, path))}
    ours = Program(name=OURS, path=library, library=True)
    by_name = {key: one for one in found for key in (one.name, one.path, relative(one.path, package.folder))}
    if library and library in handlers:
        by_name |= {library: ours, relative(library, package.folder): ours}
    if asked and asked not in (package.name, package.folder):
        if asked not in by_name:
            message = f"entry {asked[:80]} is no program of {package.name[:80]}; it has {_list(found, library)}"
            raise BuildError("EntryPointMissing", message, where="buildArgs.entry", next="Name one of these.")
        return _entry(by_name[asked], "asked for", handlers)
    if len(handlers) == 1:
        path, line = next(iter(handlers.items()))
        return _entry(by_name[path], f"#[ignite::main] at {path}:{line}", handlers)
    default = package.package.get("default-run")
    if isinstance(default, str) and default in by_name:
        return _entry(by_name[default], "package.default-run", handlers)
    if len(found) == 1 and not handlers:
        return _entry(found[0], "the only program", handlers)
    if not found and not handlers:
        raise _none(package, library)
    message = f"{package.name[:80]} has several programs: {_list(found, library if library in handlers else '')}"
    raise BuildError("EntryPointMissing", message, where=package.file, next="Name one of them: --build-arg entry=NAME.")


def _entry(program: Program, why: str, handlers: dict[str, int]) -> Entry:
    return Entry(program=program, why=why, handler=program.path in handlers)


def _line(tree: Tree, path: str) -> int:
    return handler_line(tree.read_text(path, FILE_LIMIT)) if tree.has(path) else 0


def _list(found: tuple[Program, ...], library: str) -> str:
    names = [f"{one.name} ({one.path})" for one in found] + ([library] if library else [])
    return ", ".join(names[:16]) or "none"


def _none(package: Package, library: str) -> BuildError:
    if library:
        message = f"{library} has no #[ignite::main], and {package.name[:80]} has no program"
        handler = "async fn handler(req: ignite::Request, ctx: ignite::Context) -> ignite::Result<String>"
        hint = f"Put #[ignite::main] before `{handler}` in {library}."
        return BuildError("EntryPointMissing", message, where=library, next=hint)
    message = f"{package.name[:80]} has neither src/main.rs nor src/lib.rs"
    hint = "Add src/lib.rs with #[ignite::main], or src/main.rs with a server on $PORT."
    return BuildError("EntryPointMissing", message, where=package.file, next=hint)


def linkable(package: Package) -> bool:
    """Whether a program can call the library: one that is only for C is compiled as a program itself."""
    kinds = package.library.get("crate-type", package.library.get("crate_type"))
    return not isinstance(kinds, list) or not kinds or any(kind in ("lib", "rlib") for kind in kinds)


def library_name(package: Package) -> str:
    """The library's name in code."""
    named = package.library.get("name")
    return str(named if isinstance(named, str) else package.name).replace("-", "_")


def features(package: Package) -> frozenset[str]:
    """The features that a manifest declares."""
    return frozenset(str(name) for name in table(package.table, "features"))
