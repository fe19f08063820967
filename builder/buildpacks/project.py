"""`project.toml` (project descriptor, schema 0.1 and 0.2): what a source asks of its buildpacks. Pure.

The lifecycle reads none; a platform does. It is a stranger's file, so it is bounded, and what would let it choose code
that the operator did not (a builder, a buildpack by URL or as a script) is not followed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from builder.errors import BuildError
from builder.globs import GitPattern, git_patterns, name_glob
from builder.pipelines.limits import read_toml
from builder.source.tree import Tree
from builder.text import visible

FILE = "project.toml"
READ_LIMIT = 64 * 1024
MOST_ROWS = 100
MOST_BYTES = 64 * 1024
"""All arguments, names and values, in bytes: they travel in the pod's annotations, of which the API takes 256 KiB."""

ALLOWED = ("BP_*",)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]{0,127}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class WantedBuildpack:
    """One buildpack of the builder image; without a version the one that it has."""

    id: str
    version: str = ""
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class ProjectDescriptor:
    """What `project.toml` asks. `group` takes the place of the builder's own order; empty for that order."""

    arguments: tuple[tuple[str, str], ...] = ()
    group: tuple[WantedBuildpack, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def filter(self) -> Callable[[str], bool]:
        """Whether a file, by its path from the root, is part of the app."""
        if self.include:
            wanted = _matcher(self.include)
            return wanted
        if self.exclude:
            unwanted = _matcher(self.exclude)
            return lambda path: not unwanted(path)
        return lambda path: True


def read_project(tree: Tree, allowed: Sequence[str] = ALLOWED) -> ProjectDescriptor:
    """What the source's `project.toml` asks, nothing where there is none.

    Raises `BuildError` ManifestInvalid for what it may not ask, or what no version of the schema has there.
    """
    if not tree.has(FILE):
        return ProjectDescriptor()
    value = read_toml(tree, FILE, READ_LIMIT)
    head = _table(value, "_")
    if "schema-version" in head or "io" in value:
        if (schema := head.get("schema-version", "0.2")) != "0.2":
            _refuse(f"schema-version {_shown(schema)} is not known", "Write it by schema 0.1 or 0.2.")
        return _schema_2(_table(_table(value, "io"), "buildpacks"), allowed)
    return _schema_1(_table(value, "build"), allowed)


def check_arguments(
    arguments: Iterable[tuple[str, str]],
    allowed: Sequence[str] = ALLOWED,
    refuse: Callable[[str, str], NoReturn] | None = None,
) -> tuple[tuple[str, str], ...]:
    """The arguments as a build takes them, sorted; of two of a name the last counts.

    Raises `BuildError` BuildArgUnknown for one that is not allowed, or what `refuse` raises.
    """
    refuse = refuse or _refuse_argument
    found = dict(arguments)
    if len(found) > MOST_ROWS or sum(len(f"{name}{value}".encode()) for name, value in found.items()) > MOST_BYTES:
        refuse(f"more than {MOST_ROWS} arguments, or more than {MOST_BYTES} bytes of them", "Take fewer.")
    for name, value in found.items():
        if not _NAME.fullmatch(name) or not any(name_glob(pattern).matches(name) for pattern in allowed):
            refuse(f"the variable {_shown(name)} is not allowed", f"Allowed are {', '.join(allowed)}.")
        if "\0" in value:
            refuse(f"the value of {name} has a NUL", "Take a value of text.")
    return tuple(sorted(found.items()))


def _schema_2(table: Mapping[str, Any], allowed: Sequence[str]) -> ProjectDescriptor:
    # Both places are in use: the schema has moved the table.
    rows = [*_rows(_table(table, "env"), "build"), *_rows(_table(table, "build"), "env")]
    for name in ("pre", "post"):
        if name in table:
            _refuse(f"io.buildpacks.{name} is not supported", "Name all buildpacks in io.buildpacks.group.")
    return _project(table, rows, _rows(table, "group"), allowed)


def _schema_1(table: Mapping[str, Any], allowed: Sequence[str]) -> ProjectDescriptor:
    return _project(table, _rows(table, "env"), _rows(table, "buildpacks"), allowed)


def _project(
    table: Mapping[str, Any],
    env: Sequence[Mapping[str, Any]],
    group: Sequence[Mapping[str, Any]],
    allowed: Sequence[str],
) -> ProjectDescriptor:
    include, exclude = _patterns(table, "include"), _patterns(table, "exclude")
    if include and exclude:
        _refuse("include and exclude stand in it together", "Take one of them.")
    pairs = [(_text(row, "name"), _text(row, "value")) for row in env]
    warnings = []
    if builder := table.get("builder"):
        warnings.append(f"{FILE}: builder {_shown(builder)} is not used: the operator chooses it")
    return ProjectDescriptor(
        arguments=check_arguments(pairs, allowed, _refuse),
        group=tuple(_wanted(row) for row in group),
        include=include,
        exclude=exclude,
        warnings=tuple(warnings),
    )


def _wanted(row: Mapping[str, Any]) -> WantedBuildpack:
    for name in ("uri", "script"):
        if name in row:
            _refuse(f"a buildpack by {name} is not supported", "Name buildpacks of the builder by id and version.")
    found = WantedBuildpack(
        id=_text(row, "id"),
        version=_text(row, "version") if "version" in row else "",
        optional=bool(row.get("optional")),
    )
    if not _ID.fullmatch(found.id) or (found.version and not _VERSION.fullmatch(found.version)):
        _refuse(f"{_shown(found.id)}@{_shown(found.version)} is no buildpack", "Name it by id and version.")
    return found


def _patterns(table: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = table.get(name, [])
    if not isinstance(value, list) or len(value) > MOST_ROWS or not all(isinstance(one, str) for one in value):
        _refuse(f"{name} is no list of at most {MOST_ROWS} patterns", "Write patterns as a .gitignore has them.")
    return tuple(value)


def _matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """By git's rules: the last pattern that matches a path or a folder above it decides."""
    rows = [(one, re.compile(one.regex, re.DOTALL)) for one in git_patterns("\n".join(patterns).encode())]
    rows.reverse()

    def matches(path: str) -> bool:
        parts = path.encode().split(b"/")
        for count in range(1, len(parts) + 1):
            verdict = _verdict(rows, b"/".join(parts[:count]), is_folder=count < len(parts))
            if verdict is not None and (verdict or count == len(parts)):
                return verdict
        return False

    return matches


def _verdict(rows: Sequence[tuple[GitPattern, re.Pattern[bytes]]], path: bytes, *, is_folder: bool) -> bool | None:
    for pattern, regex in rows:
        if pattern.only_folders and not is_folder:
            continue
        if regex.fullmatch(path if pattern.anchored else path.rpartition(b"/")[2]):
            return not pattern.negated
    return None


def _table(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = value.get(name, {})
    if not isinstance(found, dict):
        _refuse(f"{name} is no table", "See the schema of the project descriptor.")
    return found


def _rows(value: Mapping[str, Any], name: str) -> Sequence[Mapping[str, Any]]:
    found = value.get(name, [])
    if not isinstance(found, list) or len(found) > MOST_ROWS or not all(isinstance(one, dict) for one in found):
        _refuse(f"{name} is no list of at most {MOST_ROWS} tables", "See the schema of the project descriptor.")
    return found


def _text(row: Mapping[str, Any], name: str) -> str:
    found = row.get(name)
    if not isinstance(found, str):
        _refuse(f"{name} is absent or no text", "See the schema of the project descriptor.")
    return found


def _shown(value: object) -> str:
    return visible(str(value)[:80])


def _refuse(message: str, what_next: str) -> NoReturn:
    raise BuildError("ManifestInvalid", f"{FILE}: {message}", where=FILE, next=what_next)


def _refuse_argument(message: str, what_next: str) -> NoReturn:
    raise BuildError("BuildArgUnknown", message, next=what_next)
