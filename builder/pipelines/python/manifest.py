"""Which file of a Python source decides its dependencies, and which are not used. Pure; runs nothing, resolves nothing.

The first that names something decides: requirements.txt (the platform's own contract), pylock.toml (PEP 751), uv.lock,
pyproject.toml (PEP 621).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from builder.errors import BuildError
from builder.pipelines.python.layout import read_local, read_root
from builder.pipelines.python.locks import read_pylock, read_uv_lock
from builder.pipelines.python.needs import MOST_FILES, Dependencies, Local, canonical, refuse_count, requirement
from builder.pipelines.python.project import (
    PYPROJECT,
    declared,
    line_of,
    manifest_of,
    no_requirement,
    read_project,
    table,
    texts,
    undeclared,
)
from builder.pipelines.python.requirements import read_requirements
from builder.source.tree import Tree, match

MANIFESTS = ("requirements.txt", "pylock.toml", "uv.lock", PYPROJECT)
_SOURCES = ("git", "url", "index")
# What other tools and habits call a list of dependencies. Only its own tool, or running it, would tell what is in it.
_OTHERS = (
    "poetry.lock",
    "pdm.lock",
    "Pipfile.lock",
    "Pipfile",
    "setup.py",
    "setup.cfg",
    "environment.yml",
)
_LIKE_REQUIREMENTS = re.compile(
    r"(?:.{0,100}[-_.])?requirements?(?:[-_.].{0,100})?\.(?:txt|in)|requirements/.{1,100}\.(?:txt|in)", re.IGNORECASE
)
_MOST_NAMED = 5


def read_dependencies(tree: Tree) -> Dependencies:
    """What decides the dependencies. Raises `BuildError` ManifestInvalid or LockOutdated with file and line."""
    whole = read_project(tree)
    found, empty = _deciding(tree, whole)
    root = read_root(tree, whole)
    if root and not any(one.folder == "." for one in found.locals):
        found = replace(found, locals=(root, *found.locals))
    warnings = [*found.warnings, *(warning for one in found.locals for warning in one.warnings)]
    warnings += _unused(tree, whole, found, empty)
    return replace(found, manifest=found.manifest if found.count else "", warnings=tuple(warnings))


def _deciding(tree: Tree, whole: Mapping[str, Any]) -> tuple[Dependencies, bool]:
    """The first manifest that names something, and whether a requirements.txt before it names nothing."""
    empty = False
    if tree.has("requirements.txt"):
        found = _with_locals(tree, read_requirements(tree))
        if found.count or found.locals:
            return found, False
        empty = True
    if tree.has("pylock.toml"):
        return read_pylock(tree, whole), empty
    if tree.has("uv.lock"):
        if not tree.has(PYPROJECT):
            raise BuildError("ManifestInvalid", "uv.lock needs its pyproject.toml beside it", where="uv.lock")
        return read_uv_lock(tree, whole), empty
    if table(whole, "project").get("dependencies") or undeclared(whole):
        return _pyproject(tree, whole), empty
    return Dependencies(manifest="", count=0), empty


def _with_locals(tree: Tree, found: Dependencies) -> Dependencies:
    """A requirements.txt whose paths to packages of the source are followed to what those need."""
    if not found.folders:
        return found
    walked = _walk(tree, [(folder, where, extras) for folder, where, extras in found.folders])
    lines = tuple(dict.fromkeys((*found.requirements, *walked.requirements)))
    return replace(found, requirements=lines, count=len(lines), locals=walked.locals)


def _pyproject(tree: Tree, whole: Mapping[str, Any]) -> Dependencies:
    return _walk(tree, [], whole)


def _walk(
    tree: Tree, waiting: list[tuple[str, str, frozenset[str]]], whole: Mapping[str, Any] | None = None
) -> Dependencies:
    """The requirements of the project, and of the packages of the source that it needs, and of theirs.

    `waiting` has (folder, where it is named, extras) of packages; `whole` is the project's own pyproject.toml.
    """
    lines: dict[str, None] = {}
    locals_: dict[str, Local] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    if whole is not None:
        waiting += _needs_of(tree, ".", whole, frozenset(), lines)
    while waiting:
        folder, where, extras = waiting.pop()
        if (folder, extras) in seen or (folder == "." and whole is not None and not extras):
            continue
        seen.add((folder, extras))
        if len(seen) > MOST_FILES:
            message = f"the source has more than {MOST_FILES} packages that need each other"
            raise BuildError("ManifestInvalid", message, where=where)
        if folder not in locals_:
            locals_[folder] = read_local(tree, folder, where)
        waiting += _needs_of(tree, folder, read_project(tree, folder), extras, lines)
    return Dependencies(
        manifest=PYPROJECT,
        count=len(lines),
        requirements=tuple(lines),
        files=(PYPROJECT,) if tree.has(PYPROJECT) else (),
        locals=tuple(locals_.values()),
    )


def _needs_of(
    tree: Tree, folder: str, whole: Mapping[str, Any], extras: frozenset[str], lines: dict[str, None]
) -> list[tuple[str, str, frozenset[str]]]:
    """Add what a package needs from an index to `lines`; return what it needs of the source."""
    name = manifest_of(folder)
    needs = list(declared(tree, whole, name))
    for extra in sorted(extras):
        needs += texts(table(whole, "project", "optional-dependencies").get(extra))
    sources = {canonical(key): (key, value) for key, value in _sources(whole).items()}
    found = []
    for need in needs:
        one = requirement(need)
        if one is None:
            raise no_requirement(tree, need, name)
        if canonical(one.name) in sources:
            key, entry = sources[canonical(one.name)]
            if key not in places:
                places[key] = _place(tree, folder, name, key, entry)
                lines_of[key] = _source_line(tree, key, name) if places[key] else ""
                if len(lines_of) > MOST_FILES and places[key]:
                    message = f"{name} takes more than {MOST_FILES} packages from the source"
                    raise BuildError("ManifestInvalid", message, where=lines_of[key])
            if places[key]:
                found.append((places[key], lines_of[key], frozenset(one.extras)))
                continue
        lines[str(one)] = None
        refuse_count(len(lines), name)
    return found


def _sources(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where packages come from instead of an index: uv's table, and what Poetry says beside a `[project]`."""
    poetry = table(whole, "tool", "poetry", "dependencies")
    return {**{key: value for key, value in poetry.items() if key != "python"}, **table(whole, "tool", "uv", "sources")}


def _place(tree: Tree, folder: str, name: str, key: str, entry: object) -> str:
    """The folder of the source that a package comes from; "" for an index. Raises `BuildError` ManifestInvalid.

    Other indexes, repositories and URLs are no operator's, and fetching from them may run their code.
    """
    entries = [one for one in (entry if isinstance(entry, list) else [entry]) if isinstance(one, dict)]
    keys = {part for one in entries for part in one}
    if isinstance(entry, str) or (entries and not keys - {"version", "extras", "optional", "markers", "python"}):
        return ""  # Poetry's own spelling of a version
    if keys & {"source"} and str(entries[0].get("source")).lower() == "pypi":
        return ""
    if len(entries) == 1 and keys & {"path", "workspace"} and not keys & set(_SOURCES):
        if entries[0].get("workspace") is True:
            return _member(tree, key, name)
        path = entries[0].get("path")
        inside = posixpath.normpath(posixpath.join(folder, path)) if isinstance(path, str) else ".."
        if not inside.startswith(("..", "/")) and not inside.endswith((".whl", ".gz", ".zip")):
            return inside
        message = f"{key[:80]} comes from {str(path)[:80]}, which is no folder of what is sent"
        raise BuildError("ManifestInvalid", message, where=_source_line(tree, key, name), next=_take_from_index(key))
    kinds = ("path", "workspace", "git", "url", "editable", "index")
    kind = next((one for one in kinds if one in keys), "source" if "source" in keys else "no source that uv knows")
    what = "an index of its own" if kind in ("index", "source") else kind
    where_from = "tool.uv.sources" if key in _uv_sources(tree, name) else "tool.poetry.dependencies"
    message = f"{where_from} takes {key[:80]} from {what}; only the operator's package indexes are used here"
    raise BuildError("ManifestInvalid", message, where=_source_line(tree, key, name), next=_take_from_index(key))


def _take_from_index(key: str) -> str:
    return f"Remove {key[:80]} from tool.uv.sources, or list what it needs in a requirements.txt beside it."


def _uv_sources(tree: Tree, name: str) -> Mapping[str, Any]:
    return table(read_project(tree, posixpath.dirname(name) or "."), "tool", "uv", "sources")


def _member(tree: Tree, key: str, name: str) -> str:
    """The folder of the workspace's member of this name."""
    workspace = table(read_project(tree), "tool", "uv", "workspace")
    manifests = [path for path in tree.files() if path.endswith(f"/{PYPROJECT}")]
    for pattern in texts(workspace.get("members"))[:MOST_FILES]:
        for manifest in match(tuple(manifests), f"{pattern.rstrip('/')[:200]}/{PYPROJECT}")[:MOST_FILES]:
            folder = posixpath.dirname(manifest)
            if canonical(table(read_project(tree, folder), "project").get("name", "")) == canonical(key):
                return folder
    message = f"no member of the workspace is {key[:80]}"
    hint = "Send the folder that has tool.uv.workspace and its members."
    raise BuildError("ManifestInvalid", message, where=_source_line(tree, key, name), next=hint)


def _source_line(tree: Tree, key: str, name: str) -> str:
    """The line of an entry, which stands behind the table's own line."""
    after = "sources" if _uv_sources(tree, name) else "poetry"
    return line_of(tree, key, name, after=after)


def _unused(tree: Tree, whole: Mapping[str, Any], found: Dependencies, empty: bool) -> Iterator[str]:
    """A warning for each file that looks like a list of dependencies and does not decide."""
    decides = f"{found.manifest} decides the dependencies" if found.manifest else "nothing is installed"
    if empty and (found.count or found.locals):
        yield f"requirements.txt names nothing: {decides}"
    for name in MANIFESTS[1:]:
        mute = name == PYPROJECT and (found.manifest == "uv.lock" or not table(whole, "project").get("dependencies"))
        if tree.has(name) and name != found.manifest and not mute and found.manifest:
            yield f"{name} is not used: {decides}"
    others = [name for name in _OTHERS if tree.has(name)]
    if tree.has(PYPROJECT):  # pip reads what is left of them from there, too
        others = [name for name in others if name not in ("setup.py", "setup.cfg")]
    for name in others:
        yield f"{name} is not used: {decides}; {_way_out(name)}"
    if not found.manifest:
        like = [path for path in tree.files() if path != "requirements.txt" and _LIKE_REQUIREMENTS.fullmatch(path)]
        for path in like[:_MOST_NAMED]:
            yield f"{path} is not used: only requirements.txt at the root is read; {_way_out(path)}"


def _way_out(name: str) -> str:
    ways = {
        "poetry.lock": "write pylock.toml or requirements.txt: poetry export --output requirements.txt",
        "pdm.lock": "write requirements.txt: pdm export --output requirements.txt",
        "Pipfile.lock": "write requirements.txt: pipenv requirements --hash > requirements.txt",
        "Pipfile": "write requirements.txt: pipenv requirements --hash > requirements.txt",
        "setup.py": "list what it needs in requirements.txt",
        "setup.cfg": "list what it needs in requirements.txt",
    }
    if name in ways:
        return ways[name]
    if name.lower() == "requirements.txt":
        return "rename it"
    return f"write `-r {name}` into it" if name.endswith(".txt") else "list what it needs in requirements.txt"
