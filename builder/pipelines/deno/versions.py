"""Which Deno a source is built for: the request, else a pin of the source, else the default. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.catalog import Row
from builder.pipelines.limits import read_toml
from builder.source.tree import Tree

_SPELLING = re.compile(r"v?(\d{1,4})(?:\.(\d{1,4}|x|\*))?(?:\.(\d{1,4}|x|\*))?")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The version, why, and what about it is worth a warning."""

    version: str
    why: str
    warnings: tuple[str, ...] = ()


def wanted_version(tree: Tree, rows: Sequence[Row], default: str, asked: str = "") -> Wanted:
    """What the request asks for; else .deno-version, .tool-versions or mise.toml; else the default.

    Raises `BuildError` UnknownRuntimeVersion for a pin that the catalog cannot meet.
    """
    if asked:
        return Wanted(version=asked, why="asked for")
    found = _pin(tree)
    if found is None:
        return Wanted(version=default, why="the catalog's default")
    where, text = found
    match = _SPELLING.fullmatch(text)
    known = [row for row in rows]
    if match:
        minor = match[2] if match[2] and match[2].isdigit() else ""
        if minor:
            fitting = [row for row in known if row.toolchain.version == f"{match[1]}.{minor}"]
        else:
            fitting = [row for row in known if row.toolchain.version.split(".")[0] == match[1]]
        fitting.sort(key=lambda row: row.toolchain.version != default)
        if fitting:
            row = fitting[0]
            exact = match[3] and match[3].isdigit() and row.release and row.release != text.removeprefix("v")
            warnings = (f"{where} names Deno {text}; this builder has {row.release}",) if exact else ()
            return Wanted(version=row.toolchain.version, why=where, warnings=warnings)
    has = ", ".join(dict.fromkeys(row.toolchain.version for row in known))
    message = f"deno {text[:80]} is not in the catalog; it has {has}"
    raise BuildError("UnknownRuntimeVersion", message, where=where, next="Write one of these, or remove the pin.")


def _pin(tree: Tree) -> tuple[str, str] | None:
    """(where, text) of the first pin."""
    if tree.has(".deno-version"):
        for number, line in enumerate(tree.read_text(".deno-version").splitlines(), 1):
            if words := line.split("#", 1)[0].split():
                return f".deno-version:{number}", words[0][:80]
    if tree.has(".tool-versions"):
        for number, line in enumerate(tree.read_text(".tool-versions").splitlines(), 1):
            words = line.split("#", 1)[0].split()
            if len(words) > 1 and words[0] == "deno":
                return f".tool-versions:{number}", words[1][:80]
    for name in ("mise.toml", ".mise.toml"):
        if tree.has(name):
            tools = read_toml(tree, name).get("tools")
            pin = tools.get("deno") if isinstance(tools, dict) else None
            pin = pin.get("version") if isinstance(pin, dict) else pin
            pin = pin[0] if isinstance(pin, list) and pin else pin
            if isinstance(pin, str) and pin not in ("latest", "lts"):
                return name, pin[:80]
    return None
