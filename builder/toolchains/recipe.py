"""Recipes of toolchains: `runtimes/<name>/toolchain.toml` as typed values, parsed once for each state of the file.

A recipe names which programs, files of packages and folders of a machine are mounted where, and which image is the
root: none, the base image of the artifact, or one of `base.toml` that is made for steps alone.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from builder import indexes
from builder.errors import BuildError
from builder.indexes import Indexes
from builder.toolchains.states import Kept

FILE = "toolchain.toml"


@dataclass(frozen=True, kw_only=True)
class Program:
    """A program of the machine, found by its `command` on the PATH and mounted at `mount`.

    With a `marker` the nearest folder above the program that holds this file is mounted, whole. `version` reads the
    marker and must give the row's version. `path` below the mount joins the PATH of every step. `digest` are the files
    below the mount whose bytes decide what comes out; `content`, where it is not empty, are the folders of it that a
    step needs, the only ones that are copied. `places` are patterns of folders (`~` is the home) where a version
    manager puts distributions; the first whose marker gives the row's version goes before the PATH.

    A program with a `target` is of that target's toolchains alone. Any version of it does, and where a toolchain image
    has none it is this machine's own. `needs` (target → path below the mount) is what a distribution must hold to build
    for a target. `env` are variables of every step: each pattern reads the marker. `install` is the step that gets the
    program onto a machine. `lent` are the programs below the mount that run in a root of another toolchain, too.
    """

    command: str
    mount: str
    marker: str = ""
    version: re.Pattern[str] | None = None
    path: str = ""
    digest: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    target: str = ""
    needs: tuple[tuple[str, str], ...] = ()
    install: str = ""
    lent: tuple[str, ...] = ()
    env: tuple[tuple[str, re.Pattern[str]], ...] = ()


@dataclass(frozen=True, kw_only=True)
class NpmPackage:
    """A file of an npm package, mounted at `mount`.

    `releases` maps a version of the catalog to what is fetched for it: (release, digest as Subresource Integrity).
    `setting` is the index setting by which an operator names another registry than `registry`.
    """

    registry: str
    setting: str
    name: str
    file: str
    mount: str
    releases: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder beside the recipe and where it is mounted."""

    path: str
    mount: str


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One `toolchain.toml` in the folder `folder`."""

    folder: Path
    base_is_root: bool
    root: str
    """The base image that is the root beside what is mounted; empty: none, or the artifact's own base."""
    apart: str
    """What the name of a base has behind it where it is the root of steps that see nothing (`Sees.APART`)."""
    apart_with: tuple[tuple[str, str], ...]
    """(runtime, version) of other toolchains. The programs of the first that the machine has itself join that root,
    else those of the first that it has an image of."""
    programs: tuple[Program, ...]
    packages: tuple[NpmPackage, ...]
    folders: tuple[Folder, ...]
    indexes: Indexes

    def programs_for(self, target: str) -> tuple[Program, ...]:
        """The programs of a toolchain for this target."""
        return tuple(program for program in self.programs if program.target in ("", target))


_parsed: Kept[Recipe] = Kept()


def read_recipe(folders: tuple[Path, ...], runtime: str) -> Recipe:
    """The recipe of `runtime` in the first of `folders` that has one. Raises `BuildError` ToolchainUnavailable."""
    for folder in folders:
        path = os.path.join(folder, runtime, FILE)
        with suppress(OSError):
            return _parsed.get(path, path, partial(_read, Path(path)))
    raise BuildError("ToolchainUnavailable", f"there is no runtimes/{runtime}/{FILE}")


def _read(path: Path) -> Recipe:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return Recipe(
            folder=path.parent,
            base_is_root=tables.get("rootfs") == "base",
            root="" if tables.get("rootfs") == "base" else tables.get("rootfs", ""),
            apart=str(tables.get("apart", "")),
            apart_with=tuple(_toolchain(name) for name in tables.get("apart_with", ())),
            programs=tuple(_program(table) for table in tables.get("program", ())),
            packages=tuple(_package(table) for table in tables.get("package", ())),
            folders=tuple(Folder(path=table["path"], mount=table["mount"]) for table in tables.get("folder", ())),
            indexes=indexes.read(tables),
        )
    except KeyError as error:
        raise _damaged(path, f"a table lacks the key {error}") from None
    except (OSError, ValueError, TypeError, AttributeError, re.error) as error:
        raise _damaged(path, str(error)) from None


def _toolchain(name: str) -> tuple[str, str]:
    runtime, _, version = name.rpartition("-")
    return runtime, version


def _program(table: Mapping[str, Any]) -> Program:
    return Program(
        command=table["command"],
        mount=table["mount"],
        marker=table.get("marker", ""),
        version=re.compile(table["version"]) if "version" in table else None,
        path=table.get("path", ""),
        digest=tuple(table.get("digest", ())),
        content=tuple(table.get("content", ())),
        places=tuple(table.get("places", ())),
        target=table.get("target", ""),
        needs=tuple(sorted(table.get("needs", {}).items())),
        install=table.get("install", ""),
        lent=tuple(table.get("lent", ())),
        env=tuple((name, re.compile(pattern)) for name, pattern in sorted(table.get("env", {}).items())),
    )


def _package(table: Mapping[str, Any]) -> NpmPackage:
    releases = {version: (str(release), str(digest)) for version, (release, digest) in table["releases"].items()}
    return NpmPackage(
        registry=table["registry"],
        setting=table["setting"],
        name=table["name"],
        file=table["file"],
        mount=table["mount"],
        releases=releases,
    )


def _damaged(path: Path, why: str) -> BuildError:
    return BuildError("ToolchainUnavailable", f"{path.parent.name}/{FILE}: {why}", where=str(path))
