"""The catalog: which versions and targets of a runtime there are, with toolchain and base. Pure but for `read`."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder.errors import BuildError
from builder.plan import Toolchain

DEFAULT = "the catalog's default"
"""Why a version was taken that nobody asked for."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the catalog."""

    toolchain: Toolchain
    is_default: bool
    release: str = ""
    """The whole version that the base has ("3.11.2"), where the runtime is part of the base; else "", as for a base
    that nobody has made yet. A manifest's bounds are judged against it."""
    date: str = ""
    """When this version was released ("2026-02-10")."""
    ends: str = ""
    """The last day, or month ("2027-02"), in which its makers mend it; empty where they name none."""

    def has_ended(self, today: str) -> bool:
        """Whether it is past its end of life on a day ("2026-11-28")."""
        return bool(self.ends) and today[: len(self.ends)] > self.ends


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """All rows, in the file's order."""

    rows: tuple[Row, ...]

    def find(self, runtime: str, version: str = "", target: str = "") -> Toolchain:
        """The row asked for; an empty version or target takes the default's.

        Raises `BuildError` UnsupportedTarget or UnknownRuntimeVersion, with what there is.
        """
        own = [row for row in self.rows if row.toolchain.runtime == runtime]
        if not own:
            names = ", ".join(sorted({row.toolchain.runtime for row in self.rows}))
            raise BuildError("UnsupportedTarget", f'there is no runtime "{runtime}"; the catalog has {names}')
        if target:
            targets = sorted({row.toolchain.target for row in own if row.toolchain.target})
            own = [row for row in own if row.toolchain.target == target]
            if not own:
                raise BuildError(
                    "UnsupportedTarget", f"{runtime} has no target {target}; it has {', '.join(targets) or 'none'}"
                )
        if not version:
            return next((row for row in own if row.is_default), own[0]).toolchain
        for row in own:
            if row.toolchain.version == version:
                return row.toolchain
        versions = ", ".join(dict.fromkeys(row.toolchain.version for row in own))
        raise BuildError("UnknownRuntimeVersion", f"{runtime} {version} is not in the catalog; it has {versions}")

    def with_defaults(self, versions: Mapping[str, str]) -> Catalog:
        """The catalog with other default versions (runtime → version). Raises as `find` for one that is not there."""
        for runtime, version in versions.items():
            self.find(runtime, version)
        rows = (
            replace(row, is_default=row.toolchain.version == versions[row.toolchain.runtime])
            if row.toolchain.runtime in versions
            else row
            for row in self.rows
        )
        return Catalog(rows=tuple(rows))

    def row_of(self, toolchain: Toolchain) -> Row | None:
        """The row of a toolchain."""
        return next((row for row in self.rows if row.toolchain == toolchain), None)

    def toolchains(self) -> tuple[Toolchain, ...]:
        """Every row's toolchain."""
        return tuple(row.toolchain for row in self.rows)


@functools.lru_cache(maxsize=2)  # a build in one process reads the same file for each of its parts
def parse(text: str) -> Catalog:
    """Read the TOML text of a catalog."""
    rows = []
    for row in tomllib.loads(text)["row"]:
        toolchain = Toolchain(
            runtime=row["runtime"],
            version=row["version"],
            target=row.get("target", ""),
            name=row["toolchain"],
            base=row.get("base", ""),
        )
        rows.append(
            Row(
                toolchain=toolchain,
                is_default=row.get("default", False),
                release=row.get("release", ""),
                date=row.get("date", ""),
                ends=row.get("ends", ""),
            )
        )
    return Catalog(rows=tuple(rows))


def read(path: Path, default_versions: Mapping[str, str] | None = None) -> Catalog:
    """Read a catalog file; `default_versions` (runtime → version) stand over its own."""
    return parse(path.read_text(encoding="utf-8")).with_defaults(default_versions or {})
