"""The packages of the source that a project needs, and what those need in turn. Pure.

`tool.uv.sources` and a path in a requirements.txt lead to folders of what was sent. Everything else that they could
lead to, an index of their own, a repository, a URL, is no operator's, and is refused.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from builder.errors import BuildError, refused_source
from builder.globs import name_glob
from builder.pipelines.python.layout import read_local
from builder.pipelines.python.needs import MOST_FILES, Dependencies, Local, canonical, refuse_count, requirement
from builder.pipelines.python.project import (
    PYPROJECT,
    declared,
    line_of,
    manifest_of,
    no_requirement,
    of_extra,
    of_group,
    read_project,
    table,
    texts,
)
from builder.source.tree import Tree

Named = tuple[str, str, frozenset[str]]
"""A package of the source as something names it: (folder, file and line, extras)."""
_ELSEWHERE = ("git", "url", "index")
_KINDS = ("path", "workspace", "git", "url", "editable", "index")
_OF_POETRY = {"version", "extras", "optional", "markers", "python", "allow-prereleases"}


def read_project_needs(
    tree: Tree, whole: Mapping[str, Any], extras: Iterable[str] = (), groups: Iterable[str] = ()
) -> Dependencies:
    """What the project at the root needs, with extras and dependency groups of its own.

    Raises `BuildError` ManifestInvalid with file and line.
    """
    walk = _Walk(tree, whole)
    more = [need for group in groups for need in of_group(tree, whole, group)]
    return walk.run(walk.needs_of(".", whole, frozenset(extras), more), PYPROJECT)


def read_named(tree: Tree, whole: Mapping[str, Any], named: Iterable[Named], manifest: str) -> Dependencies:
    """What these packages of the source need, with themselves. Raises as `read_project_needs`."""
    return _Walk(tree, whole).run(named, manifest)


class _Walk:
    """One pass over packages that need each other. `whole` is the pyproject.toml of the root."""

    def __init__(self, tree: Tree, whole: Mapping[str, Any]) -> None:
        self._tree = tree
        self._whole = whole
        self._lines: dict[str, None] = {}
        self._members: dict[str, str] | None = None

    def run(self, named: Iterable[Named], manifest: str) -> Dependencies:
        waiting, seen, found = list(named), set[tuple[str, frozenset[str]]](), dict[str, Local]()
        while waiting:
            folder, where, extras = waiting.pop()
            if (folder, extras) in seen or (folder == "." and manifest == PYPROJECT and not extras):
                continue
            seen.add((folder, extras))
            if len(seen) > MOST_FILES:
                message = f"the source has more than {MOST_FILES} packages that need each other"
                raise BuildError("ManifestInvalid", message, where=where)
            if folder not in found:
                found[folder] = read_local(self._tree, folder, where)
            waiting += self.needs_of(folder, read_project(self._tree, folder), extras)
        return Dependencies(
            manifest=manifest,
            count=len(self._lines),
            requirements=tuple(self._lines),
            files=(manifest,),
            locals=tuple(found.values()),
        )

    def needs_of(
        self, folder: str, whole: Mapping[str, Any], extras: frozenset[str], more: Iterable[str] = ()
    ) -> list[Named]:
        """Collect what a package, and `more`, needs from an index; return what it needs of the source."""
        name = manifest_of(folder)
        needs = [*declared(self._tree, whole, name), *more]
        for extra in sorted(extras):
            needs += of_extra(self._tree, whole, extra, name)
        sources = {canonical(key): (key, value) for key, value in _sources(whole).items()}
        places: dict[str, tuple[str, str]] = {}
        found: dict[Named, None] = {}
        for need in needs:
            one = requirement(need)
            if one is None:
                raise no_requirement(self._tree, need, name)
            key, entry = sources.get(canonical(one.name), ("", None))
            if key and key not in places:
                place = self._place(folder, whole, key, entry)
                places[key] = (place, _line_of_source(self._tree, whole, key, name) if place else "")
                if len(places) > MOST_FILES:
                    message = f"{name} takes more than {MOST_FILES} packages from elsewhere"
                    raise BuildError("ManifestInvalid", message, where=name)
            if key and places[key][0]:
                found[(*places[key], frozenset(one.extras))] = None
            else:
                self._lines[str(one)] = None
                refuse_count(len(self._lines), name)
        return list(found)

    def _place(self, folder: str, whole: Mapping[str, Any], key: str, entry: object) -> str:
        """The folder of the source that a package comes from; "" for an index of the operator."""
        entries = [one for one in (entry if isinstance(entry, list) else [entry]) if isinstance(one, dict)]
        keys = {part for one in entries for part in one}
        own = key in table(whole, "tool", "uv", "sources")
        if not own and (isinstance(entry, str) or not keys - _OF_POETRY):
            return ""
        if not own and str(entries[0].get("source", "")).lower() == "pypi":
            return ""
        where = _line_of_source(self._tree, whole, key, manifest_of(folder))
        if len(entries) == 1 and keys & {"path", "workspace"} and not keys & set(_ELSEWHERE):
            if entries[0].get("workspace") is True:
                return self._member(key, where)
            path = entries[0].get("path")
            inside = posixpath.normpath(posixpath.join(folder, path)) if isinstance(path, str) else ".."
            if not inside.startswith(("..", "/")) and not inside.endswith((".whl", ".gz", ".zip")):
                return inside
            message = f"{key[:80]} comes from {str(path)[:80]}, which is no folder of what is sent"
            raise BuildError("ManifestInvalid", message, where=where, next=_from_an_index(key))
        kind = next((one for one in _KINDS if one in keys), "index" if "source" in keys else "no source that uv knows")
        what = "an index of its own" if kind == "index" else kind
        name = "tool.uv.sources" if own else "tool.poetry.dependencies"
        message = f"{name} takes {key[:80]} from {what}; only the operator's package indexes are used here"
        if keys & {*_ELSEWHERE, "source"}:
            raise refused_source(message, where=where, next=_from_an_index(key))
        raise BuildError("ManifestInvalid", message, where=where, next=_from_an_index(key))

    def _member(self, key: str, where: str) -> str:
        """The folder of the workspace's member of this name."""
        if self._members is None:
            self._members = dict(self._all_members())
        if canonical(key) not in self._members:
            message = f"no member of the workspace is {key[:80]}"
            hint = "Send the folder that has tool.uv.workspace and its members."
            raise BuildError("ManifestInvalid", message, where=where, next=hint)
        return self._members[canonical(key)]

    def _all_members(self) -> Iterator[tuple[str, str]]:
        """(name, folder) of each; the root is one."""
        yield canonical(table(self._whole, "project").get("name", "")), "."
        workspace = table(self._whole, "tool", "uv", "workspace")
        patterns = [pattern[:200].strip("/").split("/") for pattern in texts(workspace.get("members"))[:MOST_FILES]]
        left = [pattern[:200].strip("/").split("/") for pattern in texts(workspace.get("exclude"))[:MOST_FILES]]
        count = 0
        for path in self._tree.files():
            folder = posixpath.dirname(path)
            if not folder or posixpath.basename(path) != PYPROJECT:
                continue
            parts = folder.split("/")
            if any(_matches(parts, one) for one in patterns) and not any(_matches(parts, one) for one in left):
                count += 1
                if count > MOST_FILES:
                    where = line_of(self._tree, "members", after="workspace")
                    raise BuildError("ManifestInvalid", f"there are more than {MOST_FILES} members", where=where)
                yield canonical(table(read_project(self._tree, folder), "project").get("name", "")), folder


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """Whether a folder is one of a pattern; `**` ends it and is any number of folders."""
    if "**" in pattern:
        pattern = pattern[: pattern.index("**")]
        parts = parts[: len(pattern)]
    return len(parts) == len(pattern) and all(
        name_glob(one).matches(part) for part, one in zip(parts, pattern, strict=True)
    )


def _sources(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where packages come from instead of an index: uv's table, and Poetry's beside a `[project]`."""
    poetry = table(whole, "tool", "poetry", "dependencies")
    return {**{key: value for key, value in poetry.items() if key != "python"}, **table(whole, "tool", "uv", "sources")}


def _from_an_index(key: str) -> str:
    return f"Remove {key[:80]} from tool.uv.sources, or list what it needs in a requirements.txt beside it."


def _line_of_source(tree: Tree, whole: Mapping[str, Any], key: str, name: str) -> str:
    """The line of an entry, which stands behind the table's own line."""
    after = "sources" if key in table(whole, "tool", "uv", "sources") else "poetry"
    return line_of(tree, key, name, after=after)
