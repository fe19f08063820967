"""Looking into a pyproject.toml: its tables, whatever their values are, and the lines of its keys. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT, read_toml
from builder.pipelines.python.constraints import specifiers
from builder.pipelines.python.needs import canonical, refuse_count, requirement
from builder.source.tree import Tree

PYPROJECT = "pyproject.toml"


def read_project(tree: Tree, folder: str = ".") -> Mapping[str, Any]:
    """The pyproject.toml of a folder; empty where there is none. Raises `BuildError` ManifestInvalid."""
    name = manifest_of(folder)
    return read_toml(tree, name) if tree.has(name) else {}


def manifest_of(folder: str) -> str:
    """The path of a folder's pyproject.toml."""
    return PYPROJECT if folder == "." else f"{folder}/{PYPROJECT}"


def table(whole: object, *keys: str) -> Mapping[str, Any]:
    """The table at these keys; empty where there is none, or something else."""
    for key in keys:
        whole = whole.get(key) if isinstance(whole, dict) else None
    return whole if isinstance(whole, dict) else {}


def tables(value: object) -> list[dict[str, Any]]:
    """The tables of an array of tables."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def texts(value: object) -> list[str]:
    """The strings of an array."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def line_of(tree: Tree, text: str, name: str = PYPROJECT, after: str = "") -> str:
    """The file with the line that has this text, or the last part of this key, behind one that has `after`."""
    lines = tree.read_text(name).splitlines() if tree.has(name) else []
    for wanted in (text, text.rsplit(".", 1)[-1]):
        inside = not after
        for number, line in enumerate(lines, 1):
            inside = inside or after in line
            if inside and wanted in line:
                return f"{name}:{number}"
    return name if not after else line_of(tree, after, name)


def undeclared(whole: Mapping[str, Any]) -> str:
    """Where a pyproject.toml keeps its dependencies, when only code can tell them; else ""."""
    return "project.dynamic" if "dependencies" in texts(table(whole, "project").get("dynamic")) else ""


def of_poetry(whole: Mapping[str, Any]) -> Mapping[str, Any]:
    """Poetry's own table of dependencies. Beside a `project.dependencies` it only names where packages come from."""
    needs = table(whole, "tool", "poetry", "dependencies")
    return {} if "dependencies" in table(whole, "project") else needs


def declared(tree: Tree, whole: Mapping[str, Any], name: str = PYPROJECT) -> list[str]:
    """`project.dependencies`, or Poetry's own table. Raises `BuildError` ManifestInvalid for what is no list of text,
    or is somewhere else."""
    if key := undeclared(whole):
        message = f"the dependencies are in {key}, which only its own tool can read"
        hint = "List them in project.dependencies, or add a requirements.txt beside it."
        raise BuildError("ManifestInvalid", message, where=line_of(tree, key, name), next=hint)
    if needs := of_poetry(whole):
        return requirements_of(tree, needs, name)
    needs = table(whole, "project").get("dependencies", [])
    if not isinstance(needs, list):
        where = line_of(tree, "dependencies", name)
        raise BuildError("ManifestInvalid", "project.dependencies is no list of requirements", where=where)
    refuse_count(len(needs), line_of(tree, "dependencies", name))
    for need in needs:
        if not isinstance(need, str):
            raise no_requirement(tree, need, name)
    return needs


def of_extra(tree: Tree, whole: Mapping[str, Any], extra: str, name: str = PYPROJECT) -> list[str]:
    """What an extra adds to `declared`."""
    named = {canonical(one) for one in texts(table(whole, "tool", "poetry", "extras").get(extra))}
    needs = {key: value for key, value in of_poetry(whole).items() if canonical(key) in named}
    return [
        *texts(table(whole, "project", "optional-dependencies").get(extra)),
        *requirements_of(tree, needs, name, with_optional=True),
    ]


def of_group(tree: Tree, whole: Mapping[str, Any], group: str) -> list[str]:
    """The requirements of a dependency group (PEP 735), with the groups that it includes."""
    groups = {canonical(key): value for key, value in table(whole, "dependency-groups").items()}
    found: list[str] = []
    waiting, seen = [canonical(group)], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        where = line_of(tree, name, after="dependency-groups")
        if name not in groups:
            message = f"there is no dependency group {name[:80]}; there is {', '.join(list(groups)[:8]) or 'none'}"
            raise BuildError("ManifestInvalid", message, where=where)
        for one in groups[name] if isinstance(groups[name], list) else []:
            if isinstance(one, dict) and isinstance(one.get("include-group"), str):
                waiting.append(canonical(one["include-group"]))
            elif isinstance(one, str):
                found.append(one)
        refuse_count(len(found), where)
    return found


def requirements_of(
    tree: Tree, needs: Mapping[str, Any], name: str = PYPROJECT, *, with_optional: bool = False
) -> list[str]:
    """A table of Poetry's dependencies as requirements (PEP 508); what comes from elsewhere has its name alone.

    Raises `BuildError` ManifestInvalid with the line.
    """
    found = []
    for key, value in needs.items():
        if canonical(key) == "python":
            continue
        for entry in value if isinstance(value, list) else [value]:
            options = entry if isinstance(entry, dict) else {"version": entry}
            if options.get("optional") is True and not with_optional:
                continue
            found.append(_requirement(tree, key, options, name))
    refuse_count(len(found), name)
    return found


def _requirement(tree: Tree, key: str, options: Mapping[str, Any], name: str) -> str:
    extras = f"[{','.join(texts(options.get('extras')))}]" if options.get("extras") else ""
    specifier = specifiers(options.get("version", "*"))
    markers = [options["markers"]] if isinstance(options.get("markers"), str) else []
    if isinstance(options.get("python"), str):
        bounds = specifiers(options["python"]) or ""
        markers += [_of_python(bound) for bound in bounds.split(",") if bound]
    marker = " and ".join(f"({one})" for one in markers)
    line = f"{key}{extras}{specifier or ''}" + (f" ; {marker}" if marker else "")
    if specifier is None or requirement(line) is None:
        message = f"{key[:40]} = {str(options.get('version'))[:60]!r} is no constraint that can be resolved here"
        hint = "Write it as bounds (>=1.2,<2), or send the poetry.lock."
        raise BuildError("ManifestInvalid", message, where=line_of(tree, key, name, after="poetry"), next=hint)
    return line


def _of_python(bound: str) -> str:
    found = re.fullmatch(r"([<>=!~]=?)(.+)", bound)
    return f'python_full_version {found[1]} "{found[2]}"' if found else bound


def no_requirement(tree: Tree, need: object, name: str) -> BuildError:
    """The error for an entry that is no requirement by name."""
    where = line_of(tree, str(need)[:LINE_LIMIT], name)
    return BuildError("ManifestInvalid", f"this is no requirement by name: {str(need)[:80]}", where=where)
