"""What is built, read once, and what cargo gets of it: manifests of ours, stubs with empty targets, a lock. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.rust.config import TRIPLES, Config, read_config
from builder.pipelines.rust.entry import OURS, WRAPPER, Entry, Program, choose, library_name, linkable, starting
from builder.pipelines.rust.manifest import (
    MANIFEST,
    STUB,
    Package,
    Project,
    below,
    dependencies,
    read_project,
    stub,
    table,
    to_toml,
)
from builder.pipelines.rust.source import FILE_LIMIT, handler_line, has_main, named
from builder.plan import CopyFile, WriteFile
from builder.source.tree import Tree, relative

SDK = "/opt/ignite/sdk/rust"
FETCH = "/work/fetch"
VENDOR = f"{FETCH}/vendor"
"""Crates, unpacked: a directory source of cargo."""
OFFLINE, MIRROR = "offline.toml", "mirror.toml"
APP = "app"
"""Where the stubs are below `/work/fetch`, at the places that the manifests have in the source."""
INJECTED: Mapping[str, Any] = {
    "ignite": {"path": f"{SDK}/ignite"},
    "serde": {"version": "1", "features": ["derive"]},
    "serde_json": "1",
    "tokio": {"version": "1", "features": ["full"]},
}
IN_COMPONENTS: Mapping[str, Any] = {
    "tokio": {"version": "1", "features": ["io-util", "macros", "rt", "sync", "time"]},
}
"""What is injected otherwise in a component: all that tokio has there."""
_OFFLINE = f'[source.crates-io]\nreplace-with = "verified"\n\n[source.verified]\ndirectory = "{VENDOR}"\n'
_MIRROR = '[source.crates-io]\nreplace-with = "mirror"\n'
_SINGLE = '[package]\nname = "app"\nversion = "0.0.0"\nedition = "2021"\n\n[[bin]]\nname = "app"\npath = "{}"\n'


@dataclass(frozen=True, kw_only=True)
class Source:
    """What is built, read once: the tree may have a manifest of ours for a single file."""

    project: Project
    entry: Entry
    added: Mapping[str, Any]
    config: Config
    files: tuple[WriteFile, ...]
    locked: bool
    """Whether the source has a lock."""
    foreign: bool
    """Whether it has a dependency that no lock of ours pins."""
    triple: str


def read_source(tree: Tree, folder: str, request: PlanRequest, triple: str) -> Source:
    """The package in `folder`, the member of its workspace that is asked for, or the file that is alone there.

    Raises `BuildError` EntryPointMissing, ManifestInvalid.
    """
    asked = request.build_args.get("entry", "")
    single = next((name for name in ("main.rs", "lib.rs") if tree.has(below(folder, name))), "")
    if single and not tree.has(below(folder, MANIFEST)):
        return _read_single(tree, folder, single, triple)
    project = read_project(tree, folder, starting, asked)
    own = project.package
    entry = choose(tree, own, asked)
    config = read_config(tree, project.root, own.folder, triple)
    if triple == TRIPLES["wasm"] and not entry.handler:
        raise _no_handler(entry.program.path)
    added = _added(tree, own, triple) if entry.handler else {}
    files = _files(tree, project, entry, added)
    files += tuple(WriteFile(path=path, content=config.text) for path in config.files)
    locked = tree.has(project.lock)
    foreign = _is_foreign(project)
    return Source(project=project, entry=entry, added=added, config=config, files=files, locked=locked,
                  foreign=foreign, triple=triple)  # fmt: skip


def _no_handler(path: str) -> BuildError:
    """A component is called by its host and has no port to listen on, so that a server of its own is none."""
    message = f"{path} has no #[ignite::main]: a component is called for each request, it does not listen"
    hint = "Put #[ignite::main] before a handler, or build the server for the target native."
    return BuildError("EntryPointMissing", message, where=path, next=hint)


def _injected(triple: str) -> Mapping[str, Any]:
    return {**INJECTED, **(IN_COMPONENTS if triple == TRIPLES["wasm"] else {})}


def _read_single(tree: Tree, folder: str, file: str, triple: str) -> Source:
    """A file without a manifest: ours names it as the program."""
    path = below(folder, file)
    text = tree.read_text(path, FILE_LIMIT)
    line = handler_line(text)
    if not line and not has_main(text):
        hint = "Put #[ignite::main] before the handler, or add `fn main()` with a server on $PORT."
        raise BuildError("EntryPointMissing", f"{path} has neither #[ignite::main] nor fn main", where=path, next=hint)
    if triple == TRIPLES["wasm"] and not line:
        raise _no_handler(path)
    used = named(tree, folder, frozenset(INJECTED))
    added = {name: value for name, value in _injected(triple).items() if name in used}
    manifest = _SINGLE.format(file)
    parsed = {
        "package": {"name": "app", "version": "0.0.0", "edition": "2021"},
        "bin": [{"name": "app", "path": file}],
        "workspace": {},
    }
    package = Package(folder=folder, table=parsed)
    why = f"#[ignite::main] at {path}:{line}" if line else f"fn main in {path}"
    return Source(
        project=Project(package=package, root=folder, packages=(package,), top=parsed),
        entry=Entry(program=Program(name="app", path=path), why=why, handler=bool(line)),
        added=added,
        config=read_config(tree, folder, folder, triple),
        files=(WriteFile(path=below(folder, MANIFEST), content=manifest + "\n[workspace]\n" + _tables(added)),),
        locked=False,
        foreign=False,
        triple=triple,
    )


def _is_foreign(project: Project) -> bool:
    """Whether a package takes a crate from elsewhere, by its own row or by one of the workspace's manifest, which may
    be no package."""
    shared = table(table(project.top, "workspace"), "dependencies")
    for package in project.packages:
        for _, name, value in dependencies(package.table):
            inherits = isinstance(value, dict) and "workspace" in value
            row = shared.get(name, {"path": ""}) if inherits else value  # cargo names a row that is not there
            if not (isinstance(row, dict) and "path" in row):
                return True
    return False


def _added(tree: Tree, package: Package, triple: str) -> dict[str, Any]:
    """What a package with a handler names and its manifest lacks."""
    used = named(tree, package.folder, frozenset(INJECTED)) | {"ignite"}
    return {name: value for name, value in _injected(triple).items() if name in used - package.direct}


def _tables(added: Mapping[str, Any]) -> str:
    """Dependencies as tables of their own, which may follow any line of a manifest."""
    text = ""
    for name, value in added.items():
        parts = value if isinstance(value, dict) else {"version": value}
        text += "\n" + to_toml({"x": parts}).replace("[x]", f"[dependencies.{name}]", 1).rstrip("\n") + "\n"
    return text


def _files(tree: Tree, project: Project, entry: Entry, added: Mapping[str, Any]) -> tuple[WriteFile, ...]:
    """What the build writes: a longer manifest, and the program of a library with a handler."""
    own = project.package
    text = _tables(added)
    files: list[WriteFile] = []
    if entry.program.library:
        direct = not linkable(own)
        path = relative(entry.program.path, own.folder) if direct else WRAPPER
        text += f'\n[[bin]]\nname = "{OURS}"\npath = "{path}"\n'
        if not direct:
            content = f"fn main() {{\n    {library_name(own)}::main()\n}}\n"
            files.append(WriteFile(path=below(own.folder, WRAPPER), content=content))
    if added and "dependencies" in own.table and not isinstance(own.table["dependencies"], dict):
        raise BuildError("ManifestInvalid", "dependencies is no table", where=f"{own.file}  dependencies")
    if text:
        content = tree.read_text(own.file).rstrip("\n") + "\n" + text
        files.append(WriteFile(path=own.file, content=content))
    return tuple(files)


def stubs_of(tree: Tree, source: Source) -> tuple[tuple[WriteFile, ...], tuple[CopyFile, ...]]:
    """Manifests with empty targets at the places of the source, and what directs cargo to verified crates."""
    made: dict[str, str] = {OFFLINE: _OFFLINE, MIRROR: _MIRROR}
    project, binary = source.project, source.entry.program.name
    packages = project.packages
    if project.root not in {one.folder for one in packages}:
        packages = (*packages, Package(folder=project.root, table=project.top))
    for package in packages:
        builds = _has_build_script(tree, package)
        content = to_toml(stub(package, project, binary, source.added, builds))
        made[below(APP, package.file)] = content
        if "package" in package.table:
            made[below(APP, below(package.folder, f"{STUB}-lib.rs"))] = ""
            if builds:
                made[below(APP, below(package.folder, f"{STUB}-build.rs"))] = "fn main() {}\n"
            if package.folder == project.package.folder:
                made[below(APP, below(package.folder, f"{STUB}-main.rs"))] = "fn main() {}\n"
    if source.config.text:
        made[below(APP, below(project.root, ".cargo/config.toml"))] = source.config.text
    copies: list[CopyFile] = []
    if source.locked:
        copies.append(CopyFile(path=below(APP, project.lock), source=project.lock))
        if source.added:  # a lock that fits what was sent, before it grows by what is added
            copies.append(CopyFile(path=below("sent", project.lock), source=project.lock))
            made |= {
                below("sent", path.removeprefix(f"{APP}/")): content
                for path, content in made.items()
                if path.startswith(f"{APP}/")
            }
            own = project.package
            plain = to_toml(stub(own, project, binary, {}, _has_build_script(tree, own)))
            made[below("sent", own.file)] = plain
    return tuple(WriteFile(path=path, content=content) for path, content in made.items()), tuple(copies)


def _has_build_script(tree: Tree, package: Package) -> bool:
    named = package.package.get("build")
    if isinstance(named, str):
        return True
    return named is not False and tree.has(below(package.folder, "build.rs"))
