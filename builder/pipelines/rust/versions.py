"""Which toolchain: the request, else what the source pins, else the catalog's default. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.catalog import Catalog
from builder.pipelines.limits import read_toml
from builder.pipelines.pins import pin_of
from builder.pipelines.rust.manifest import Project, below, table
from builder.source.tree import Tree

NAME = "rust"
_NUMBERS = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.\d{1,4})?(?:-x86_64-unknown-linux-gnu)?")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of the catalog, and why."""

    value: str
    why: str


def wanted_version(
    tree: Tree, project: Project | None, folder: str, catalog: Catalog, asked: str, target: str = "native"
) -> Version:
    """Request beats file beats default. Raises `BuildError` UnknownRuntimeVersion for a pin that cannot be met."""
    if asked:
        return Version(value=asked, why="asked for")
    rows = [row for row in catalog.toolchains() if row.runtime == NAME and row.target == target]
    known = list(dict.fromkeys(row.version for row in rows))
    default = catalog.find(NAME, target=target).version
    pin = _pin(tree, folder)
    if pin is not None:
        value, where = pin
        if value == "stable":
            return Version(value=default, why=f"{where} asks for stable; the catalog's default")
        found = _NUMBERS.fullmatch(value)
        minor = f"{found[1]}.{found[2]}" if found else ""
        if minor not in known:
            message = f"{where} asks for {value[:80]}; the catalog has {', '.join(known)}"
            hint = "Pin one of these, or take the file out."
            raise BuildError("UnknownRuntimeVersion", message, where=where, next=hint)
        return Version(value=minor, why=f"{where} asks for {value[:80]}")
    least, where = _least(project)
    if not least:
        return Version(value=default, why="the catalog's default")
    fitting = [one for one in known if _numbers(one) >= least]
    if not fitting:
        text = ".".join(map(str, least))
        message = f"{where} needs rust {text} or newer; the catalog has {', '.join(known)}"
        hint = "Lower rust-version, if the code allows it."
        raise BuildError("UnknownRuntimeVersion", message, where=where, next=hint)
    value = default if default in fitting else min(fitting, key=_numbers)
    return Version(value=value, why=f"{where} needs {'.'.join(map(str, least))} or newer; the catalog has it")


def _numbers(value: str) -> tuple[int, ...]:
    found = _NUMBERS.fullmatch(value)
    return (int(found[1]), int(found[2])) if found else ()


def _least(project: Project | None) -> tuple[tuple[int, ...], str]:
    """`rust-version` of the package, which may be the workspace's."""
    if project is None:
        return (), ""
    own = project.package.package.get("rust-version")
    where = f"{project.package.file}  package.rust-version"
    if isinstance(own, dict):
        own = table(table(project.top, "workspace"), "package").get("rust-version")
        where = f"{below(project.root, 'Cargo.toml')}  workspace.package.rust-version"
    return (_numbers(own), where) if isinstance(own, str) else ((), "")


def _pin(tree: Tree, folder: str) -> tuple[str, str] | None:
    """(channel, where) of the nearest `rust-toolchain(.toml)`, as rustup finds it, else what a version manager pins."""
    above = folder
    while True:
        for name in ("rust-toolchain", "rust-toolchain.toml"):
            path = below(above, name)
            if tree.has(path):
                return _channel(tree, path)
        if above == ".":
            break
        above = above.rpartition("/")[0] or "."
    pin = pin_of(tree, folder, (), ("rust",))
    return (pin.value, pin.where) if pin else None


def _channel(tree: Tree, path: str) -> tuple[str, str]:
    """rustup takes a file without tables for the name of a channel."""
    lines = [line.strip() for line in tree.read_text(path).splitlines() if line.strip()]
    if path.endswith("rust-toolchain") and len(lines) == 1 and "=" not in lines[0] and not lines[0].startswith("["):
        return lines[0], path
    toolchain = table(read_toml(tree, path), "toolchain")
    if "path" in toolchain:
        message = "toolchain.path names a folder of another machine; name a channel"
        raise BuildError("ManifestInvalid", message, where=f"{path}  toolchain.path", next='channel = "1.95"')
    channel = toolchain.get("channel")
    return (channel if isinstance(channel, str) else "stable"), f"{path}  toolchain.channel"
