"""A Deno project: its configuration, its packages, its entry, and what the entry imports from outside. Pure."""

from __future__ import annotations

import json
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from builder.errors import BuildError
from builder.pipelines.deno.jsonc import line_of, read_json, table
from builder.pipelines.deno.lock import LOCK
from builder.pipelines.deno.source import Source, read_source
from builder.source.tree import SubTree, Tree

CONFIGS = ("deno.json", "deno.jsonc")
PACKAGE = "package.json"
SCRIPTS = (".ts", ".mts", ".cts", ".tsx", ".js", ".mjs", ".cjs", ".jsx")
ENTRIES = tuple(
    f"{name}.{kind}" for name in ("main", "server", "mod", "index") for kind in ("ts", "js", "tsx", "mts", "mjs")
)
MAINS = tuple(name for name in ENTRIES if name.startswith("main."))
FILE_LIMIT = 16 * 1024 * 1024
FILES_MOST = 20_000
SDK_NAME = "ignite"
_KEPT = ("name", "version", "exports", "imports", "scopes", "compilerOptions", "unstable", "workspace")
"""Keys of a configuration that the build and the artifact read. `tasks`, `lock`, `nodeModulesDir`, `permissions` and
what lets scripts run decide nothing here."""
_NPM = re.compile(r"npm:/?((?:@[\w.~-]{1,214}/)?[\w.~-]{1,214})(?:@([^/\"'\\\s][^/\"'\\]{0,100}))?(?:/.*)?", re.DOTALL)
_RANGE = re.compile(r"[\w.^~<>=|*+ -]{0,100}")
_NAME = re.compile(r"(?:@[\w.~-]{1,214}/)?[\w.~-]{1,214}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,20}:")
_NAME_PARTS_MOST = 16
"""An import map's name of a package has at most so many parts; what is behind it is a subpath."""
_DETECT = "detect-cjs"
_DEPENDENCIES = ("dependencies", "devDependencies", "optionalDependencies")


@dataclass(frozen=True, kw_only=True)
class Need:
    """A package or module that is needed ("npm:chalk@^5"), and where it is named."""

    specifier: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """A folder with its configuration; `tree` is the folder. `lock` is the path of its lock, or ""."""

    tree: Tree
    config_name: str
    config: Mapping[str, Any]
    imports: Mapping[str, str]
    package: Mapping[str, Any]
    lock: str

    def configuration(self, sdk: str, *, lax: bool, vendor: bool = False) -> str:
        """The deno.json that the build and the artifact have: what the source's decides, and the SDK by its name.

        `vendor`: modules of `https:` imports lie beside it.
        """
        made = _kept(self.config)
        made["imports"] = {SDK_NAME: sdk, **self.imports}
        if lax:  # a single file may be JavaScript
            made["compilerOptions"] = {"noImplicitAny": False, **table(made, "compilerOptions")}
        return _written(_as_node_reads(made, self.package), vendor)


def _as_node_reads(config: Mapping[str, Any], package: Mapping[str, Any]) -> dict[str, Any]:
    """With a package.json that names no `type` a script may be CommonJS, as Node takes it; Deno looks when asked to."""
    if not package or "type" in package:
        return dict(config)
    features = config.get("unstable")
    listed = [one for one in features if one != _DETECT] if isinstance(features, list) else []
    return {**config, "unstable": [*listed, _DETECT]}


def _kept(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in _KEPT if key in config}


def _written(config: Mapping[str, Any], vendor: bool) -> str:
    ours = {"nodeModulesDir": "auto", **({"vendor": True} if vendor else {})}
    return json.dumps({**config, **ours}, indent=2, ensure_ascii=False) + "\n"


def configurations_above(tree: Tree, folder: str, *, vendor: bool = False) -> Iterator[tuple[str, str]]:
    """(path, text) of the configurations above a folder, in the place of the source's own.

    Deno takes one that names the folder in its workspace for the root of it, and lets run the scripts that it allows.
    Raises `BuildError` ManifestInvalid.
    """
    while folder != ".":
        folder = posixpath.dirname(folder) or "."
        for name in CONFIGS:
            path = name if folder == "." else posixpath.join(folder, name)
            if tree.has(path):
                yield path, _written(_kept(read_json(tree, path)), vendor)


def read_project(tree: Tree, folder: str) -> Project:
    """The project in a folder of the source. Raises `BuildError` ManifestInvalid."""
    own = tree if folder == "." else SubTree(tree, folder)
    name = next((name for name in CONFIGS if own.has(name)), "")
    config = read_json(own, name) if name else {}
    imports = table(config, "imports")
    if isinstance(path := config.get("importMap"), str):
        path = posixpath.normpath(path)
        if not own.has(path):
            message = f"importMap is {path[:80]}, which is no file of what was sent"
            raise BuildError("ManifestInvalid", message, where=line_of(own, name, "importMap"))
        found = read_json(own, path)
        imports = table(found, "imports")
        config = {**config, "scopes": table(found, "scopes")}
    package = read_json(own, PACKAGE, comments=False) if own.has(PACKAGE) else {}
    return Project(
        tree=own,
        config_name=name,
        config=config,
        imports={key: value for key, value in imports.items() if isinstance(value, str)},
        package=package,
        lock=_lock_of(own, name, config),
    )


def _lock_of(tree: Tree, name: str, config: Mapping[str, Any]) -> str:
    said = config.get("lock", True)
    said = said.get("path", True) if isinstance(said, dict) else said
    if said is False:
        return ""
    path = posixpath.normpath(said) if isinstance(said, str) else LOCK
    if isinstance(said, str) and not tree.has(path):
        message = f"lock is {said[:80]}, which is no file of what was sent"
        raise BuildError("ManifestInvalid", message, where=line_of(tree, name, '"lock"'))
    return path if tree.has(path) else ""


def entry_of(project: Project, asked: str) -> tuple[str, str]:
    """(file, why) of the program. Raises `BuildError` EntryPointMissing."""
    tree = project.tree
    if asked:
        path = posixpath.normpath(asked)
        if not tree.has(path) or not path.endswith(SCRIPTS):
            message = f"entry is {asked[:80]}, which is no script of what was sent"
            raise BuildError(
                "EntryPointMissing", message, where="buildArgs.entry", next=f"Name one of {_scripts(tree)}."
            )
        return path, "asked for"
    for name in MAINS:
        if tree.has(name):
            return name, f"{name} is there"
    for where, path in _declared(project):
        if tree.has(path) and path.endswith(SCRIPTS):
            return path, where
    for name in ENTRIES:
        if tree.has(name):
            return name, f"{name} is there"
    has = _scripts(tree)
    raise BuildError(
        "EntryPointMissing",
        f"there is neither main.ts nor main.js{f'; there is {has}' if has else ''}",
        next='Add main.ts with `import { start } from "ignite"`, or name the file: --build-arg entry=FILE',
    )


def _declared(project: Project) -> Iterator[tuple[str, str]]:
    """(why, file) of what the manifests name: the start task, exports, the start script, main."""
    for name, table_of in (
        (project.config_name, table(project.config, "tasks")),
        (PACKAGE, table(project.package, "scripts")),
    ):
        command = table_of.get("start")
        command = command.get("command") if isinstance(command, dict) else command
        if isinstance(command, str) and (path := _script_of(command)):
            yield f"the start task of {name}", path
    exports = project.config.get("exports")
    exports = exports.get(".") if isinstance(exports, dict) else exports
    if isinstance(exports, str):
        yield f"exports of {project.config_name}", posixpath.normpath(exports)
    if isinstance(main := project.package.get("main"), str):
        yield f"main of {PACKAGE}", posixpath.normpath(main)


def _script_of(command: str) -> str:
    """The first script of a command line, such as "deno run -A src/main.ts"."""
    try:
        words = shlex.split(command[:2000])
    except ValueError:
        return ""
    found = next((word for word in words[1:] if word.endswith(SCRIPTS) and not word.startswith("-")), "")
    return posixpath.normpath(found) if found else ""


def _scripts(tree: Tree) -> str:
    found = [path for path in tree.files() if path.endswith(SCRIPTS) and "node_modules/" not in path]
    found.sort(key=lambda path: (path.count("/"), path))
    return ", ".join(found[:4])


@dataclass(kw_only=True)
class Reached:
    """What an entry leads to: `files` of the source, and specifiers that lead outside, each with where it stands."""

    files: dict[str, Source] = field(default_factory=dict)
    outside: dict[str, str] = field(default_factory=dict)

    @property
    def uses_sdk(self) -> bool:
        return SDK_NAME in self.outside


def reach(project: Project, entry: str) -> Reached:
    """Follow the imports of the entry through the files of the source."""
    found, waiting = Reached(), [entry]
    prefixes = sorted((key for key in project.imports if key.endswith("/")), key=len, reverse=True)[:1000]
    while waiting and len(found.files) < FILES_MOST:
        path = waiting.pop()
        if path in found.files or not project.tree.has(path):
            continue
        found.files[path] = source = read_source(project.tree.read_text(path, FILE_LIMIT))
        for each in source.imports:
            specifier = _mapped(project, each.specifier, prefixes)
            if specifier.startswith(("./", "../")):
                base = "" if specifier != each.specifier else posixpath.dirname(path)
                waiting.append(posixpath.normpath(posixpath.join(base, specifier)))
            else:
                found.outside.setdefault(specifier, f"{path}:{each.line}")
    return found


def _mapped(project: Project, specifier: str, prefixes: list[str]) -> str:
    """What the import map makes of a specifier: an entry of its name, a prefix, or a package's subpath."""
    if specifier in project.imports:
        return project.imports[specifier]
    for prefix in prefixes:
        if specifier.startswith(prefix):
            return project.imports[prefix] + specifier[len(prefix) :]
    if specifier.startswith("."):
        return specifier
    for slash in reversed(list(islice(re.finditer("/", specifier), _NAME_PARTS_MOST))):
        target = project.imports.get(specifier[: slash.start()], "")
        if target.startswith(("npm:", "jsr:")):
            return target + specifier[slash.start() :]
    return specifier


def outside(project: Project, reached: Reached) -> dict[str, str]:
    """Specifier → where it stands, of all that leads outside: imports, and the module that JSX is compiled to."""
    found = dict(reached.outside)
    options = table(project.config, "compilerOptions")
    if isinstance(source := options.get("jsxImportSource"), str):
        where = line_of(project.tree, project.config_name, "jsxImportSource")
        found.setdefault(_mapped(project, source, []), where)
    return found


def npm_needs(project: Project, reached: Reached) -> tuple[Need, ...]:
    """The npm packages of the imports and of package.json, each once.

    Raises `BuildError` ManifestInvalid for what no registry has, and for packages of JSR in package.json.
    """
    found: dict[str, str] = {}
    for specifier, where in outside(project, reached).items():
        if specifier.startswith("npm:"):
            found.setdefault(_npm(specifier, where), where)
    for key in _DEPENDENCIES:
        for name, wanted in table(project.package, key).items():
            where = line_of(project.tree, PACKAGE, f'"{name[:200]}"')
            found.setdefault(_dependency(name, wanted, where), where)
    return tuple(Need(specifier=specifier, where=where) for specifier, where in found.items())


def _npm(specifier: str, where: str) -> str:
    match = _NPM.fullmatch(specifier[:1000])
    if not match or not _RANGE.fullmatch(match[2] or ""):
        raise BuildError("ManifestInvalid", f"{specifier[:100]} is no npm package", where=where)
    return f"npm:{match[1]}@{match[2]}" if match[2] else f"npm:{match[1]}"


def _dependency(name: str, wanted: object, where: str) -> str:
    text = wanted if isinstance(wanted, str) else "?"
    if text.startswith("npm:"):
        return _npm(text, where)
    if text.startswith("jsr:"):
        raise _no_jsr(f"{name}: {text}", where)
    if not _NAME.fullmatch(name) or not _RANGE.fullmatch(text):
        message = f"{name[:80]} is {str(wanted)[:80]}, which is no version of an npm registry"
        raise BuildError("ManifestInvalid", message, where=where, next="Take it by name and version from the registry.")
    return f"npm:{name}@{text}" if text not in ("", "*") else f"npm:{name}"


def _no_jsr(specifier: str, where: str) -> BuildError:
    message = f"{specifier[:120]}: packages of JSR are read of imports and of deno.json, not of {PACKAGE}"
    return BuildError("ManifestInvalid", message, where=where, next="Name it in the imports of deno.json.")
