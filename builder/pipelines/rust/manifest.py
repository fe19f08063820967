"""Cargo.toml as far as a plan needs it: packages, workspaces, dependencies; and the stubs that a network may see. Pure.

A stub has the dependencies, features and profiles of a manifest and empty targets: cargo resolves and compiles the same
crates for it, and no line of the source is in it.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError, refused_source
from builder.pipelines.limits import LINE_LIMIT, place_of, read_toml
from builder.source.tree import Tree, match

MANIFEST = "Cargo.toml"
KINDS = ("dependencies", "dev-dependencies", "build-dependencies")
STUB = "ignite-stub"
"""How files of stubs begin. cargo takes a target whose file has another path for another one: named as those of the
source, the empty targets would count as compiled already."""
MOST_PACKAGES = 1000
MOST_PATTERNS = 100
_PACKAGE = ("name", "version", "edition", "rust-version", "resolver")
_WORKSPACE = ("members", "exclude", "default-members", "resolver", "dependencies")
_INHERITED = ("version", "edition", "rust-version")
_DEPENDENCY = (
    "version", "path", "features", "default-features", "default_features", "optional", "package", "workspace",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package of the source: its folder and what its Cargo.toml has."""

    folder: str
    table: Mapping[str, Any]

    @property
    def file(self) -> str:
        return below(self.folder, MANIFEST)

    @property
    def package(self) -> Mapping[str, Any]:
        return table(self.table, "package")

    @property
    def name(self) -> str:
        return str(self.package.get("name", ""))

    @property
    def library(self) -> Mapping[str, Any]:
        return table(self.table, "lib")

    @property
    def direct(self) -> frozenset[str]:
        """The names under which code of the package finds its dependencies."""
        return frozenset(str(name).replace("-", "_") for name in table(self.table, "dependencies"))


@dataclass(frozen=True, kw_only=True)
class Project:
    """The package to build, the workspace it is in (its own folder, where it is in none), and every package beside."""

    package: Package
    root: str
    packages: tuple[Package, ...]
    top: Mapping[str, Any]
    """The manifest at the root: profiles and patches count there alone."""

    @property
    def lock(self) -> str:
        return below(self.root, "Cargo.lock")


def below(folder: str, path: str) -> str:
    """A path of the source that is relative to a folder of it."""
    return posixpath.normpath(posixpath.join(folder, path))


def is_outside(path: str) -> bool:
    """Whether a path relative to the source's root leads out of it."""
    return path == ".." or path.startswith(("../", "/"))


def table(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A table of a manifest; what is none is an empty one, and cargo names it."""
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def read_project(
    tree: Tree, folder: str, starts: Callable[[Tree, tuple[Package, ...]], tuple[Package, ...]], chosen: str = ""
) -> Project:
    """The package in `folder`, or the one of its workspace that `chosen` names by name or folder.

    `starts` picks the packages that have a program, of which a workspace's member is chosen where nothing names one.
    Raises `BuildError` ManifestInvalid, EntryPointMissing for a workspace whose member is not clear.
    """
    at = _nearest(tree, folder)
    if at is None:
        hint = "Send Cargo.toml with the source, or name its folder: --build-arg sub_path=FOLDER."
        raise BuildError("EntryPointMissing", "there is no Cargo.toml", where=below(folder, MANIFEST), next=hint)
    own = _read(tree, at)
    root = _root_of(tree, own)
    top = own if root == at else _read(tree, root)
    members = _members(tree, top) if "workspace" in top.table else (top,)
    package = _choose(tree, own, members, starts, chosen)
    packages = _with_paths(tree, (package, *members), root)
    project = Project(package=package, root=root, packages=packages, top=top.table)
    _refuse_sources(tree, project)
    return project


def _read(tree: Tree, folder: str) -> Package:
    return Package(folder=folder, table=read_toml(tree, below(folder, MANIFEST)))


def _nearest(tree: Tree, folder: str) -> str | None:
    while not tree.has(below(folder, MANIFEST)):
        if folder == ".":
            return None
        folder = posixpath.dirname(folder) or "."
    return folder


def _root_of(tree: Tree, package: Package) -> str:
    """The folder of the workspace, as cargo finds it: here, where `package.workspace` points, or the nearest above."""
    if "workspace" in package.table:
        return package.folder
    named = package.package.get("workspace")
    if isinstance(named, str):
        folder = below(package.folder, named)
        if is_outside(folder):
            raise _outside(package, f"the workspace {named[:80]}", "package.workspace")
        if not tree.has(below(folder, MANIFEST)):
            message = f"the workspace {named[:80]} has no Cargo.toml in what was sent"
            hint = "Send it with the source, or take the key out."
            raise BuildError("ManifestInvalid", message, where=f"{package.file}  package.workspace", next=hint)
        return folder
    folder = package.folder
    while folder != ".":
        folder = posixpath.dirname(folder) or "."
        if tree.has(below(folder, MANIFEST)):
            above = _read(tree, folder)
            workspace = table(above.table, "workspace")
            if "workspace" in above.table and not any(
                _is_in(package.folder, below(folder, str(path))) for path in _texts(workspace, "exclude")
            ):
                return folder
    return package.folder


def _is_in(folder: str, above: str) -> bool:
    return above == "." or f"{folder}/".startswith(f"{above}/")


def _texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = value.get(key)
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def _members(tree: Tree, top: Package) -> tuple[Package, ...]:
    """The packages of a workspace. A member that was not sent is an error that names it."""
    workspace = table(top.table, "workspace")
    folders = [posixpath.dirname(path) or "." for path in tree.files() if posixpath.basename(path) == MANIFEST]
    left_out = [below(top.folder, path) for path in _texts(workspace, "exclude")]
    found: dict[str, None] = {}
    patterns = _texts(workspace, "members")
    if max(len(patterns), len(left_out)) > MOST_PATTERNS:
        message = f"the workspace has {max(len(patterns), len(left_out))} patterns; at most {MOST_PATTERNS} are read"
        raise BuildError("ManifestInvalid", message, where=f"{top.file}  workspace.members")
    for path in patterns:
        pattern = below(top.folder, path[:LINE_LIMIT])
        if is_outside(pattern):
            raise _outside(top, f"the member {path[:80]}")
        fitting = [pattern] if pattern in folders else list(match(tuple(folders), pattern))
        if not fitting and not any(sign in pattern for sign in "*?["):
            hint = f"Send {pattern} with the source, or take it out of workspace.members."
            message = f"the member {path[:80]} has no Cargo.toml in what was sent"
            raise BuildError("ManifestInvalid", message, where=f"{top.file}  workspace.members", next=hint)
        found |= dict.fromkeys(one for one in fitting if not any(_is_in(one, out) for out in left_out))
    found.pop(top.folder, None)
    if len(found) > MOST_PACKAGES:
        message = f"the workspace has {len(found)} members; at most {MOST_PACKAGES} are read"
        raise BuildError("ManifestInvalid", message, where=f"{top.file}  workspace.members")
    members = tuple(_read(tree, folder) for folder in found)
    return (top, *members) if "package" in top.table else members


def _choose(
    tree: Tree,
    own: Package,
    members: tuple[Package, ...],
    starts: Callable[[Tree, tuple[Package, ...]], tuple[Package, ...]],
    chosen: str,
) -> Package:
    """The package itself; in the root of a workspace the named member, or the only one with a program."""
    by_name = {key: one for one in members for key in (one.folder, one.name)}
    if chosen in by_name:
        return by_name[chosen]
    if "package" in own.table:
        return own
    if not members:
        hint = "Name its packages in workspace.members."
        raise BuildError("ManifestInvalid", "the workspace has no member", where=own.file, next=hint)
    if len(members) == 1:
        return members[0]
    default = [by_name[path] for path in _texts(table(own.table, "workspace"), "default-members") if path in by_name]
    if len(default) == 1:
        return default[0]
    startable = starts(tree, members)
    if len(startable) == 1:
        return startable[0]
    names = ", ".join(sorted(one.name or one.folder for one in startable or members)[:16])
    what = f"{len(startable)} members with a program" if startable else f"{len(members)} members, none with a program"
    message = f"the workspace has {what}: {names}"
    raise BuildError("EntryPointMissing", message, where=own.file, next="Name one of them: --build-arg entry=MEMBER.")


def dependencies(value: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(key of the table, name, value) of every dependency of a manifest, those of targets and patches included."""
    for kind in KINDS:
        for name, one in table(value, kind).items():
            yield kind, name, one
    for target, parts in table(value, "target").items():
        for kind in KINDS if isinstance(parts, dict) else ():
            for name, one in table(parts, kind).items():
                yield f"target.{target}.{kind}", name, one
    for name, one in table(table(value, "workspace"), "dependencies").items():
        yield "workspace.dependencies", name, one
    for registry, parts in table(value, "patch").items():
        for name, one in parts.items() if isinstance(parts, dict) else ():
            yield f"patch.{registry}", name, one


def _with_paths(tree: Tree, packages: tuple[Package, ...], root: str) -> tuple[Package, ...]:
    """The packages and those that they take from a path of the source. Raises for a path that was not sent."""
    found = {one.folder: one for one in packages}
    waiting = list(found.values())
    if root not in found:
        waiting.append(_read(tree, root))
    while waiting:
        package = waiting.pop()
        for key, name, value in dependencies(package.table):
            path = value.get("path") if isinstance(value, dict) else None
            if not isinstance(path, str):
                continue
            folder = below(package.folder, path)
            if is_outside(folder):
                raise _outside(package, f"{name[:80]} at {path[:80]}", f"{key}.{name}")
            if folder in found:
                continue
            if not tree.has(below(folder, MANIFEST)):
                message = f"{name[:80]} is at {path[:80]}, which has no Cargo.toml in what was sent"
                hint = f"Send {folder} with the source."
                raise BuildError("ManifestInvalid", message, where=f"{package.file}  {key}.{name}"[:200], next=hint)
            found[folder] = _read(tree, folder)
            waiting.append(found[folder])
            if len(found) > MOST_PACKAGES:
                message = f"more than {MOST_PACKAGES} packages of the source are named"
                raise BuildError("ManifestInvalid", message, where=package.file)
    return tuple(found.values())


def _outside(package: Package, what: str, key: str = "workspace.members") -> BuildError:
    hint = "Send the folder above it and name this one: --build-arg sub_path=FOLDER."
    where = f"{package.file}  {key}"[:200]
    return BuildError("ManifestInvalid", f"{what} is outside of the source", where=where, next=hint)


def _refuse_sources(tree: Tree, project: Project) -> None:
    """Only crates.io and paths: what comes from elsewhere has no digest in Cargo.lock that a node could verify."""
    for package in (*project.packages, Package(folder=project.root, table=project.top)):
        for key, name, value in dependencies(package.table):
            if isinstance(value, dict) and "git" in value:
                message = f"{name[:80]} is taken from git ({str(value['git'])[:120]}); Cargo.lock pins no bytes of it"
                hint = "Take a version of crates.io, or send its source and name its path."
                raise refused_source(message, where=_place(tree, package, key, name), next=hint)
            if isinstance(value, dict) and ("registry" in value or "registry-index" in value):
                named = str(value.get("registry", value.get("registry-index")))[:80]
                message = f"{name[:80]} is taken from the registry {named}; only crates.io is reached"
                hint = "Take a crate of crates.io, or a path."
                raise refused_source(message, where=_place(tree, package, key, name), next=hint)


def _place(tree: Tree, package: Package, key: str, name: str) -> str:
    named = rf"\s*(?:\[.*[.\s])?[\"']?{re.escape(name[:LINE_LIMIT])}[\"']?\s*[=.\]]"
    return f"{place_of(tree, package.file, named)}  {key}.{name}"[:200]


def stub(package: Package, project: Project, binary: str, added: Mapping[str, Any], builds: bool) -> dict[str, Any]:
    """The manifest of a package with empty targets: a library, and the program where it is the one to build."""
    own = package.table
    made: dict[str, Any] = {}
    if "package" in own:
        kept = {key: package.package[key] for key in _PACKAGE if key in package.package}
        build = f"{STUB}-build.rs" if builds else False
        found = ("autobins", "autobenches", "autoexamples", "autotests")
        made["package"] = {**kept, "publish": False, "build": build, **dict.fromkeys(found, False)}
        library = {key: package.library[key] for key in ("name", "proc-macro", "proc_macro") if key in package.library}
        made["lib"] = {**library, "path": f"{STUB}-lib.rs"}
        if package.folder == project.package.folder:
            made["bin"] = [{"name": binary, "path": f"{STUB}-main.rs"}]
        if "features" in own:
            made["features"] = own["features"]
    for kind in KINDS:
        if kind in own:
            made[kind] = _plain(table(own, kind))
    if package.folder == project.package.folder and added:
        made["dependencies"] = {**made.get("dependencies", {}), **added}
    targets = {
        str(target): {kind: _plain(table(parts, kind)) for kind in KINDS if kind in parts}
        for target, parts in table(own, "target").items()
        if isinstance(parts, dict)
    }
    if targets:
        made["target"] = targets
    if package.folder == project.root:
        made |= _top(own)
    return made


def _top(own: Mapping[str, Any]) -> dict[str, Any]:
    """What counts at the root of a workspace alone."""
    made: dict[str, Any] = {}
    if "workspace" in own:
        workspace = table(own, "workspace")
        made["workspace"] = {key: workspace[key] for key in _WORKSPACE if key in workspace}
        if "dependencies" in made["workspace"]:
            made["workspace"]["dependencies"] = _plain(table(workspace, "dependencies"))
        inherited = {key: table(workspace, "package")[key] for key in _INHERITED if key in table(workspace, "package")}
        if inherited:
            made["workspace"]["package"] = inherited
    if table(own, "profile"):
        made["profile"] = own["profile"]
    patches = {name: _plain(parts) for name, parts in table(own, "patch").items() if isinstance(parts, dict)}
    if patches:
        made["patch"] = patches
    return made


def _plain(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Dependencies with the keys that a resolution reads."""
    return {
        name: {key: value[key] for key in _DEPENDENCY if key in value} if isinstance(value, dict) else value
        for name, value in parts.items()
    }


def to_toml(value: Mapping[str, Any]) -> str:
    """A manifest as text: one table a line below its own header."""
    lines = []
    for key, part in value.items():
        if isinstance(part, list) and part and all(isinstance(one, dict) for one in part):
            for one in part:
                lines += [f"[[{_key(key)}]]", *(f"{_key(name)} = {_value(each)}" for name, each in one.items()), ""]
        elif isinstance(part, dict):
            lines += [f"[{_key(key)}]", *(f"{_key(name)} = {_value(each)}" for name, each in part.items()), ""]
        else:
            lines.insert(0, f"{_key(key)} = {_value(part)}")
    return "\n".join(lines) + "\n"


def _key(text: str) -> str:
    return text if text.isascii() and text.replace("-", "_").isalnum() else _text(text)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(name)} = {_value(one)}' for name, one in value.items())} }}"
    return _text(str(value))
