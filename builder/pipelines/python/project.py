"""Looking into a pyproject.toml: its tables, whatever their values are, and the lines of its keys. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from builder.errors import BuildError
from builder.pipelines.limits import LINE_LIMIT, read_toml
from builder.pipelines.python.needs import refuse_count
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
    """Where a pyproject.toml keeps its dependencies, when not in `project.dependencies`; else "".

    Beside a `project.dependencies`, Poetry's own table only names where packages come from.
    """
    if "dependencies" in texts(table(whole, "project").get("dynamic")):
        return "project.dynamic"
    needs = table(whole, "tool", "poetry", "dependencies")
    return (
        "tool.poetry.dependencies" if set(needs) - {"python"} and "dependencies" not in table(whole, "project") else ""
    )


def declared(tree: Tree, whole: Mapping[str, Any], name: str = PYPROJECT) -> list[str]:
    """`project.dependencies`. Raises `BuildError` ManifestInvalid for what is no list of text, or is somewhere else."""
    if key := undeclared(whole):
        message = f"the dependencies are in {key}, which only its own tool can read"
        hint = "List them in project.dependencies, or add a requirements.txt beside it."
        raise BuildError("ManifestInvalid", message, where=line_of(tree, key, name), next=hint)
    needs = table(whole, "project").get("dependencies", [])
    if not isinstance(needs, list):
        where = line_of(tree, "dependencies", name)
        raise BuildError("ManifestInvalid", "project.dependencies is no list of requirements", where=where)
    refuse_count(len(needs), line_of(tree, "dependencies", name))
    for need in needs:
        if not isinstance(need, str):
            raise no_requirement(tree, need, name)
    return needs


def no_requirement(tree: Tree, need: object, name: str) -> BuildError:
    """The error for an entry that is no requirement by name."""
    where = line_of(tree, str(need)[:LINE_LIMIT], name)
    return BuildError("ManifestInvalid", f"this is no requirement by name: {str(need)[:80]}", where=where)
