"""Which Go: what the request asks for, a pin, the go and toolchain lines, the default. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from builder.errors import BuildError
from builder.pipelines.base import PlanRequest
from builder.pipelines.catalog import DEFAULT, Catalog
from builder.pipelines.go.project import Project, below, go_version
from builder.pipelines.pins import Pin, pin_of
from builder.source.tree import Tree

RUNTIME = "go"
OWN_FILES = (".go-version",)
TOOLS = ("go", "golang")


def wanted_version(
    tree: Tree, project: Project, request: PlanRequest, catalog: Catalog, warnings: list[str]
) -> tuple[str, str]:
    """The version and why. A go line is a need, the toolchain line a wish (Go toolchains, "go and toolchain lines").

    The default is chosen where it is enough: both lines name a minimum. A pin names one version.
    """
    if request.version:
        return request.version, "asked for"
    lines = [(one.mod.go, one.file) for one in project.modules]
    wishes = [(one.mod.toolchain, one.file) for one in project.modules]
    if project.work:
        file = below(project.home, "go.work")
        lines.append((project.work.go, file))
        wishes.append((project.work.toolchain, file))
    need, wish = _newest(lines), _newest([*lines, *wishes])
    known = [row.version for row in catalog.toolchains() if row.runtime == RUNTIME]
    if pin := pin_of(tree, project.base, OWN_FILES, TOOLS):
        return _pinned(pin, need, catalog, warnings)
    if not wish:
        return "", DEFAULT
    fitting = [one for one in known if not need or (go_version(one) or ()) >= need.minor]
    if need and not fitting:
        message = f"{need.file} asks for go {need.value}; the catalog has {', '.join(known)}"
        hint = "Set the go line to one of these, if the code allows it."
        raise BuildError("UnknownRuntimeVersion", message, where=need.where, next=hint)
    default = catalog.find(RUNTIME).version
    wished = [one for one in fitting if (go_version(one) or ()) >= wish.minor]
    # A node may lack what is not the default: a need is worth that, a wish is not.
    chosen = default if default in fitting else (wished or fitting)[-1]
    if chosen in wished:
        return chosen, f"{wish.where} asks for {wish.minor_text} or newer; the catalog has it"
    other = f"ask for it: --runtime-version {wished[0]}" if wished else "the catalog has none"
    warnings.append(f"{wish.where} wishes toolchain {wish.value}: took go {chosen}; {other}")
    return chosen, f"{need.where} asks for {need.minor_text} or newer; the catalog has it" if need else "the default"


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A go or toolchain line."""

    value: str
    minor: tuple[int, ...]
    file: str
    where: str

    @property
    def minor_text(self) -> str:
        return ".".join(str(part) for part in self.minor)


def _newest(lines: Sequence[tuple[tuple[str, int], str]]) -> _Line | None:
    """The line of the newest version; of equal ones the last, which is a toolchain line."""
    found: _Line | None = None
    for (value, line), file in lines:
        version = go_version(value)
        if version and (not found or version[:2] >= found.minor):
            found = _Line(value=value.removeprefix("go"), minor=version[:2], file=file, where=f"{file}:{line}")
    return found


def _pinned(pin: Pin, need: _Line | None, catalog: Catalog, warnings: list[str]) -> tuple[str, str]:
    """The catalog's row of a pinned version. Raises `BuildError` UnknownRuntimeVersion, ManifestInvalid."""
    rows = [row for row in catalog.rows if row.toolchain.runtime == RUNTIME]
    known = ", ".join(dict.fromkeys(row.toolchain.version for row in rows))
    value, version = pin.value.removeprefix("go"), go_version(pin.value)
    row = next((one for one in rows if version and go_version(one.toolchain.version) == version[:2]), None)
    if row is None:
        message = f"{pin.where} pins go {value[:80]}; the catalog has {known}"
        raise BuildError("UnknownRuntimeVersion", message, where=pin.where,
                         next="Pin one of these, or ask for one: --runtime-version.")  # fmt: skip
    if need and version and version[:2] < need.minor:
        message = f"{pin.where} pins go {value}, and {need.where} needs {need.value}"
        raise BuildError("ManifestInvalid", message, where=pin.where, next="Pin a version that the go line allows.")
    chosen = row.toolchain.version
    if len(version or ()) > 2 and row.release != value:
        has = f"go {row.release}" if row.release else f"a release of go {chosen}"
        warnings.append(f"{pin.where} pins go {value}: took {has}, which the catalog has")
    return chosen, f"{pin.where} pins {value}"
