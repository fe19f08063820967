"""Which Deno a source is built for: the request, else a pin of the source, else the default. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.catalog import DEFAULT, Row
from builder.pipelines.pins import pin_of
from builder.source.tree import Tree

_SPELLING = re.compile(r"v?(\d{1,4})(?:\.(\d{1,4}|x|\*))?(?:\.(\d{1,4}|x|\*))?")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The version, why, and what about it is worth a warning."""

    version: str
    why: str
    warnings: tuple[str, ...] = ()


def wanted_version(tree: Tree, folder: str, rows: Sequence[Row], default: str, asked: str = "") -> Wanted:
    """What the request asks for; else a pin of the folder or above it; else the default.

    Raises `BuildError` UnknownRuntimeVersion for a pin that the catalog cannot meet.
    """
    if asked:
        return Wanted(version=asked, why="asked for")
    pin = pin_of(tree, folder, (".deno-version", ".dvmrc"), ("deno",))
    if pin is None:
        return Wanted(version=default, why=DEFAULT)
    match = _SPELLING.fullmatch(pin.value)
    if match:
        minor = match[2] if match[2] and match[2].isdigit() else ""
        wanted = f"{match[1]}.{minor}" if minor else match[1]
        fitting = [row for row in rows if row.toolchain.version in (wanted, *_of_major(row, wanted))]
        fitting.sort(key=lambda row: row.toolchain.version != default)
        if fitting:
            row = fitting[0]
            other = match[3] and match[3].isdigit() and row.release and row.release != pin.value.removeprefix("v")
            warnings = (f"{pin.where} names Deno {pin.value}; this builder has {row.release}",) if other else ()
            return Wanted(version=row.toolchain.version, why=pin.where, warnings=warnings)
    has = ", ".join(dict.fromkeys(row.toolchain.version for row in rows))
    message = f"deno {pin.value[:80]} is not in the catalog; it has {has}"
    raise BuildError("UnknownRuntimeVersion", message, where=pin.where, next="Write one of these, or remove the pin.")


def _of_major(row: Row, wanted: str) -> tuple[str, ...]:
    """The row's own version, where only a major version is wanted and it is of it."""
    return (row.toolchain.version,) if row.toolchain.version.split(".")[0] == wanted else ()
