"""uv.lock and pylock.toml (PEP 751): what of them is installed, and whether they are those of their manifest. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT, LOCK_LIMIT, read_toml
from builder.pipelines.python.layout import read_local
from builder.pipelines.python.needs import (
    DIGEST,
    MOST_FILES,
    NAME,
    SPECIFIER,
    Dependencies,
    Local,
    by_name,
    canonical,
    pinned,
    refuse_count,
    requirement,
)
from builder.pipelines.python.project import (
    PYPROJECT,
    declared,
    line_of,
    manifest_of,
    read_project,
    table,
    tables,
    texts,
    undeclared,
)
from builder.source.tree import Tree

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

    _Need = tuple[str, frozenset[str], SpecifierSet | None]

_NAMED = re.compile(r"[A-Za-z0-9._-]{1,200}")
_LOCK_AGAIN = "Run: uv lock — and send the uv.lock that it writes."
_EXPORT_AGAIN = "Write pylock.toml again: uv export --format pylock.toml --output-file pylock.toml"
_IN_SOURCE = ("virtual", "editable", "directory")
_MOST_FORKS = 20
"""Versions of one package in a lock, each for other environments."""
_OLDEST, _NEWEST, _PATCHES = 6, 30, 40
"""Minor versions and patches of Python 3 over which two specifiers are compared."""


def read_uv_lock(
    tree: Tree, whole: Mapping[str, Any], extras: tuple[str, ...] = (), more: tuple[str, ...] = ()
) -> Dependencies:
    """A lock beside its manifest, with these extras of the project and groups beside the default ones.

    Raises `BuildError` LockOutdated for one that is not of it, ManifestInvalid.
    """
    lock = read_toml(tree, "uv.lock", LOCK_LIMIT)
    packages = tables(lock.get("package"))
    root = next((one for one in packages if _place(one) == "."), {})
    if packages and not root:
        message = "the root of this workspace is no project, so nothing says what its entry needs"
        hint = "Give the pyproject.toml at the root a [project] with dependencies, and run: uv lock"
        raise BuildError("ManifestInvalid", message, where=PYPROJECT, next=hint)
    name, wanted = str(root.get("name")), str(lock.get("requires-python", ">=3"))
    if packages and not (NAME.fullmatch(name) and len(wanted) <= 200 and SPECIFIER.fullmatch(wanted)):
        message = "uv.lock has no name of the project at the root, or no specifier as its requires-python"
        raise BuildError("ManifestInvalid", message, where="uv.lock", next=_LOCK_AGAIN)
    groups = tuple(dict.fromkeys((*default_groups(tree, whole), *more)))
    reached = _reached(packages, root, groups, extras)
    locals_ = tuple(_locals(tree, reached))
    for folder, package in ((".", root), *((one.folder, package) for one, package in locals_)):
        _refuse_stale(tree, folder, package, wanted, alone=folder == "." and not locals_ and "requires-python" in lock)
    count = sum(_place(package) == "" for package in reached)
    return Dependencies(
        manifest="uv.lock",
        count=count,
        complete=True,
        project=_project_stub(name, wanted, groups, extras) if count else "",
        groups=groups,
        extras=extras,
        text=_in_utf8(tree) if count else "",
        files=("uv.lock",),
        locked=frozenset(canonical(package.get("name")) for package in reached),
        locals=tuple(one for one, _ in locals_),
    )


def _in_utf8(tree: Tree) -> str:
    """The text of a uv.lock that begins with a byte order mark; "" for one that uv reads as it is."""
    text = tree.read_text("uv.lock", LOCK_LIMIT)
    return text if tree.has_mark("uv.lock") else ""


def _place(package: Mapping[str, Any]) -> str:
    """The folder of a package of the source; "" for one of an index, or of elsewhere."""
    source = table(package, "source")
    place = next((source[kind] for kind in _IN_SOURCE if isinstance(source.get(kind), str)), "")
    return posixpath.normpath(place) if place else ""


def _reached(
    packages: list[dict[str, Any]], root: Mapping[str, Any], groups: tuple[str, ...], own: tuple[str, ...]
) -> list[dict[str, Any]]:
    """What the root leads to: its dependencies, these groups and extras of its own, the extras asked of others."""
    named: dict[str, list[dict[str, Any]]] = {}
    leads: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for package in packages:
        name = str(package.get("name"))
        extras = table(package, "optional-dependencies")
        for extra in extras:
            leads.setdefault((name, extra), []).extend(tables(extras[extra]))
        if package is not root:
            named.setdefault(name, []).append(package)
            leads.setdefault((name, ""), []).extend(tables(package.get("dependencies")))
    edges = [*tables(root.get("dependencies"))]
    for group in groups:
        edges += tables(table(root, "dev-dependencies").get(group))
    for extra in own:
        edges += tables(table(root, "optional-dependencies").get(extra))
    seen: set[tuple[str, str]] = set()
    found: dict[str, list[dict[str, Any]]] = {}
    while edges:
        edge = edges.pop()
        name = str(edge.get("name"))
        found[name] = named.get(name, [])
        for extra in ("", *texts(edge.get("extra"))):
            if (name, extra) not in seen:
                seen.add((name, extra))
                edges += leads.get((name, extra), ())
    return [package for packages in found.values() for package in packages]


def _locals(tree: Tree, reached: list[dict[str, Any]]) -> Iterator[tuple[Local, dict[str, Any]]]:
    """The packages of the source among them; raise for what comes from neither the source nor an index."""
    count = 0
    for package in reached:
        name, source = str(package.get("name"))[:80], table(package, "source")
        if place := _place(package):
            where = line_of(tree, f'"{name}"', "uv.lock") if "virtual" not in source else ""
            count += bool(where)
            if count > MOST_FILES:
                message = f"the source has more than {MOST_FILES} packages"
                raise BuildError("ManifestInvalid", message, where=where)
            if where:
                yield read_local(tree, place, where), package
        elif set(source) != {"registry"}:
            message = f"{name} comes from {', '.join(sorted(source)) or 'nowhere'}, not from an index"
            where = line_of(tree, f'"{name}"', "uv.lock")
            raise BuildError("ManifestInvalid", message, where=where, next="Take a release of it from an index.")


def _refuse_stale(tree: Tree, folder: str, package: Mapping[str, Any], wanted: str, *, alone: bool) -> None:
    """Raise LockOutdated unless the lock has this project's dependencies as its manifest declares them."""
    whole, name = read_project(tree, folder), manifest_of(folder)
    project = table(whole, "project")
    if canonical(project.get("name", "")) != canonical(package.get("name")):
        message = (
            f"uv.lock is of {str(package.get('name'))[:80]}, and {name} of {str(project.get('name', 'no name'))[:80]}"
        )
        raise BuildError("LockOutdated", message, where=line_of(tree, "name", name), next=_LOCK_AGAIN)
    ours = project.get("requires-python")
    if alone and isinstance(ours, str) and not _same_pythons(ours, wanted):
        message = f"requires-python is {ours[:80]!r}, and uv.lock was made for {wanted[:80]!r}"
        raise BuildError("LockOutdated", message, where=line_of(tree, "requires-python", name), next=_LOCK_AGAIN)
    if undeclared(whole):
        return  # its own tool knows them, and uv asked it
    shown: dict[str, str] = {}
    locked: set[_Need] = set()
    for entry in tables(table(package, "metadata").get("requires-dist")):
        if "extra ==" not in str(entry.get("marker", ""))[:LINE_LIMIT]:
            shown.setdefault(canonical(entry.get("name")), _shown(entry))
            locked.add(_locked(entry))
    needs = declared(tree, whole, name)
    for need in (found for text in needs if (found := requirement(text))):
        key = (canonical(need.name), frozenset(canonical(one) for one in need.extras))
        if locked.isdisjoint(((*key, need.specifier), (*key, None))):
            what = f"uv.lock has it as {shown[key[0]]}" if key[0] in shown else "uv.lock does not have it"
            where = line_of(tree, need.name, name, after="dependencies")
            raise BuildError("LockOutdated", f"{name} needs {str(need)[:80]}; {what}", where=where, next=_LOCK_AGAIN)
    if gone := sorted(set(shown) - {canonical(match[0]) for need in needs if (match := _NAMED.match(need.strip()))}):
        message = f"uv.lock has {gone[0][:80]} as a dependency, and {name} has not"
        raise BuildError("LockOutdated", message, where=line_of(tree, "dependencies", name), next=_LOCK_AGAIN)


def _locked(entry: Mapping[str, Any]) -> _Need:
    """An entry of the lock as a requirement. uv rewrites markers, so they are no part; None: whatever is at a place."""
    elsewhere = set(entry) & {*_IN_SOURCE, "git", "url", "path"}
    extras = frozenset(canonical(one) for one in texts(entry.get("extras")))
    return canonical(entry.get("name")), extras, None if elsewhere else _specifiers(str(entry.get("specifier", "")))


def _shown(entry: Mapping[str, Any]) -> str:
    extras = f"[{','.join(texts(entry.get('extras')))}]" if entry.get("extras") else ""
    return f"{entry.get('name')}{extras}{entry.get('specifier', '')}"[:80]


def _specifiers(text: str) -> SpecifierSet | None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(text) if len(text) <= LINE_LIMIT else None
    except InvalidSpecifier:
        return None


def _same_pythons(ours: str, locked: str) -> bool:
    """Whether two specifiers let the same Pythons in. uv rewrites them: `~=3.11` becomes `>=3.11, <4`."""
    one, other = _specifiers(ours[:200]), _specifiers(locked[:200])
    if one is None or other is None or one == other:
        return one is not None or other is None
    return all(
        one.contains(version) == other.contains(version)
        for minor in range(_OLDEST, _NEWEST)
        for version in (f"3.{minor}", *(f"3.{minor}.{patch}" for patch in range(_PATCHES)))
    )


def _project_stub(name: str, wanted: str, groups: tuple[str, ...], extras: tuple[str, ...]) -> str:
    """What uv needs beside a lock: the name that its root has there, which groups and extras exist. The lock has the
    rest."""
    lines = ["[project]", f'name = "{name}"', 'version = "0"', f'requires-python = "{wanted}"']
    lines += ["", "[dependency-groups]", *(f'"{group}" = []' for group in groups)] if groups else []
    lines += ["", "[project.optional-dependencies]", *(f'"{extra}" = []' for extra in extras)] if extras else []
    return "\n".join(lines) + "\n"


def default_groups(tree: Tree, whole: Mapping[str, Any]) -> tuple[str, ...]:
    """The groups of `tool.uv.default-groups` but for `dev`, which is never installed."""
    groups = table(whole, "tool", "uv").get("default-groups", [])
    if groups == "all":
        groups = list(table(whole, "dependency-groups"))
    if not isinstance(groups, list) or not all(isinstance(one, str) and NAME.fullmatch(one) for one in groups):
        where = line_of(tree, "default-groups")
        raise BuildError("ManifestInvalid", "tool.uv.default-groups is no list of groups", where=where)
    return tuple(one for one in dict.fromkeys(groups) if one != "dev")


def read_pylock(tree: Tree, whole: Mapping[str, Any]) -> Dependencies:
    """The packages of a pylock.toml, by name, version and hash: the hosts that it names do not decide. Raises as
    `read_uv_lock`."""
    lines, versions = [], dict[str, list[str]]()
    packages = tables(read_toml(tree, "pylock.toml", LOCK_LIMIT).get("packages"))
    refuse_count(len(packages), "pylock.toml")
    for package in packages:
        name = str(package.get("name"))[:LINE_LIMIT]
        if odd := sorted({"vcs", "directory", "archive"} & set(package)):
            raise BuildError("ManifestInvalid", f"{name} comes from {odd[0]}, not from an index", where="pylock.toml")
        marker = package.get("marker")
        need = f"{name}=={package.get('version')}" + (f" ; {marker}" if marker else "")
        if not (line := by_name(need)):
            message = f"this is no package by name, version and marker: {need[:80]}"
            hint = "Export the lock anew, without extras and groups."
            raise BuildError("ManifestInvalid", message, where="pylock.toml", next=hint)
        hashes = [wheel.get("hashes") for wheel in tables(package.get("wheels"))]
        values = [str(each.get("sha256", "")) for each in hashes if isinstance(each, dict)]
        lines.append(pinned(line, [value for value in values if DIGEST.fullmatch(value)]))
        same = versions.setdefault(canonical(name), [])
        same += [str(package.get("version"))] if len(same) < _MOST_FORKS else []
    for need in () if undeclared(whole) else declared(tree, whole):
        wanted = requirement(need)
        if wanted is None or wanted.marker is not None:  # a lock for one platform lacks what is for others
            continue
        locked = versions.get(canonical(wanted.name), [])
        if not any(wanted.specifier.contains(version, prereleases=True) for version in locked):
            what = f"pylock.toml has {locked[0][:40]}" if locked else "pylock.toml does not have it"
            where = line_of(tree, wanted.name, after="dependencies")
            message = f"pyproject.toml needs {str(wanted)[:80]}; {what}"
            raise BuildError("LockOutdated", message, where=where, next=_EXPORT_AGAIN)
    return Dependencies(
        manifest="pylock.toml",
        count=len(lines),
        requirements=tuple(lines),
        complete=True,
        files=("pylock.toml",),
    )
