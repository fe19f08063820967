"""Inline metadata of a script (PEP 723): the dependencies and the Python that a single file names. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from builder.errors import BuildError, refused_source
from builder.pipelines.limits import read_code, read_toml
from builder.pipelines.python.needs import Dependencies, by_name, refuse_count
from builder.pipelines.python.project import table
from builder.source.tree import DictTree, Tree

_OPEN, _CLOSE = "# /// script", "# ///"


def script_of(tree: Tree) -> tuple[str, int, Mapping[str, Any]] | None:
    """(file, line of the block, its tables) of the file that starts, where it has a block.

    Raises `BuildError` ManifestInvalid with file and line.
    """
    roots = tree.glob("*.py")
    names = ("handler.py", "main.py", "app.py", *(roots if len(roots) == 1 else ()))
    name = next((name for name in names if tree.has(name)), "")
    if not name:
        return None
    lines = read_code(tree, name).splitlines()
    start = next((at for at, line in enumerate(lines) if line.rstrip() == _OPEN), -1)
    if start < 0:
        return None
    block: list[str] = []
    for line in lines[start + 1 :]:
        if line != "#" and not line.startswith("# "):
            break
        block.append(line[2:])
    ends = [at for at, line in enumerate(block) if line.rstrip() == "///"]
    if not ends:
        message = "the block of the script's metadata has no end"
        where = f"{name}:{start + 1}"
        raise BuildError("ManifestInvalid", message, where=where, next=f"End it with a line `{_CLOSE}` (PEP 723).")
    try:
        whole = read_toml(DictTree({name: "\n".join(block[: ends[-1]])}), name)
    except BuildError as error:
        at = re.match(r".*:(\d+)", error.where)
        error.where = f"{name}:{start + 1 + int(at[1] if at else 0)}"
        raise
    return name, start + 1, whole


def read_script(tree: Tree) -> Dependencies | None:
    """What the script needs; None without a block that names something. Raises `BuildError` ManifestInvalid."""
    found = script_of(tree)
    if found is None:
        return None
    name, line, whole = found
    needs = whole.get("dependencies", [])
    if not isinstance(needs, list):
        raise BuildError("ManifestInvalid", "dependencies is no list of requirements", where=f"{name}:{line}")
    refuse_count(len(needs), f"{name}:{line}")
    if odd := sorted({"sources", "index"} & set(table(whole, "tool", "uv"))):
        message = f"tool.uv.{odd[0]} is not taken here; only the operator's package indexes are used"
        raise refused_source(message, where=f"{name}:{line}", next="Name packages of an index only.")
    lines = []
    for need in needs:
        if not (isinstance(need, str) and (text := by_name(need))):
            message = f"this is no requirement by name: {str(need)[:80]}"
            raise BuildError("ManifestInvalid", message, where=f"{name}:{line}")
        lines.append(text)
    return Dependencies(manifest=name, count=len(lines), requirements=tuple(lines), files=(name,)) if lines else None
