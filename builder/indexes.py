"""Package indexes of a runtime's client, as `runtimes/<name>/toolchain.toml` lists them under `[index]`.

The client of a fetch step reaches the indexes of its own runtime and no others. An operator's settings
(`index_env`, by default those of the machine's own clients) move them.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from types import MappingProxyType
from typing import Any

from builder.data import runtimes_dir


@dataclass(frozen=True, kw_only=True)
class Host:
    """An index that the client uses by itself over HTTPS, unless one of the variables moves it."""

    host: str
    unless: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Indexes:
    """What a client reads and reaches.

    `variables` configure it. `instead` maps another client's variable to the ones of this client that mean the same.
    `named` are variables that name a host without a scheme. `files` maps an index to the host its pages lead to.
    `others` are further kinds of index by name, which a step reaches only while it lacks a file of that kind.
    `listed`: the hosts of the setting `import_hosts`, too.
    """

    variables: tuple[str, ...] = ()
    instead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    named: tuple[str, ...] = ()
    hosts: tuple[Host, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, Indexes] = field(default_factory=dict)
    listed: bool = False

    def with_others(self, names: Collection[str]) -> Indexes:
        """These, and of `others` the ones of these names, as one."""
        joined = [self.others[name] for name in sorted(names) if name in self.others]
        return replace(
            self,
            variables=tuple(chain(self.variables, *(one.variables for one in joined))),
            hosts=tuple(chain(self.hosts, *(one.hosts for one in joined))),
            listed=self.listed or any(one.listed for one in joined),
        )

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """The operator's index settings that are not another runtime's."""
        mine = {*self.variables, *self.instead}
        return {name: text for name, text in settings.items() if name in mine or name not in claimed()}

    def from_machine(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The settings of the machine's own clients, those of another client also by a name that this client reads."""
        names = (*self.with_others(self.others).variables, *self.instead)
        found = {name: environ[name] for name in names if environ.get(name)}
        for other, own in self.instead.items():
            if other in found and not any(name in found for name in own):
                found[own[0]] = " ".join(found[other].split())
        return found


def read(recipe: Mapping[str, Any]) -> Indexes:
    """The indexes of a parsed `toolchain.toml`; a runtime that fetches nothing has none."""
    return _indexes(recipe.get("index", {}))


def _indexes(table: Mapping[str, Any]) -> Indexes:
    return Indexes(
        variables=tuple(table.get("variables", ())),
        instead={name: tuple(own) for name, own in table.get("instead", {}).items()},
        named=tuple(table.get("named", ())),
        hosts=tuple(Host(host=row["host"], unless=tuple(row.get("unless", ()))) for row in table.get("host", ())),
        files=dict(table.get("files", {})),
        others={name: _indexes(other) for name, other in table.get("other", {}).items()},
        listed=bool(table.get("listed", False)),
    )


@functools.cache
def claimed() -> frozenset[str]:
    """The variables that any shipped runtime's client reads."""
    every = [each for one in shipped().values() for each in (one, *one.others.values())]
    return frozenset(name for one in every for name in (*one.variables, *one.instead))


@functools.cache
def shipped() -> Mapping[str, Indexes]:
    """Runtime → its indexes, for every runtime of this installation. Read once: its files stay as they are."""
    recipes = sorted(runtimes_dir().glob("*/toolchain.toml"))
    found = {path.parent.name: read(tomllib.loads(path.read_text(encoding="utf-8"))) for path in recipes}
    return MappingProxyType(found)
