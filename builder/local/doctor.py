"""What is missing on this machine, what follows from it, and the command that mends it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from builder import pipelines, sandbox
from builder.config import Settings
from builder.data import catalog_file
from builder.errors import BuildError
from builder.images.layer import compressor_is_the_known_one
from builder.pipelines import catalog as catalogs
from builder.pipelines.catalog import Catalog
from builder.toolchains.host import Toolchains, find_program, toolchains_of

PROGRAMS = (
    ("redis-server", "the embedded mode does not start", "apt-get install -y redis-server"),
    ("mmdebstrap", "base images cannot be made here", "apt-get install -y mmdebstrap"),
    ("uv", "Python builds get no work here", "make setup"),
)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    name: str
    effect: str = ""
    mend: str = ""


def findings(settings: Settings) -> tuple[Finding, ...]:
    """Programs, sandbox, control groups, compressor, toolchains, disk."""
    found: list[Finding] = []
    for name, effect, mend in PROGRAMS:
        found.append(Finding(ok=bool(find_program(name)), name=name, effect=effect, mend=mend))
    for each in sandbox.check():
        if each.ok:
            found.append(Finding(ok=True, name=f"{each.name}: {each.said}"))
        else:
            found.append(Finding(ok=False, name=each.name, effect=each.said, mend=each.next))
    if not settings.use_cgroups:
        effect = "memory and processes are watched from outside, CPU is not limited"
        found.append(Finding(ok=False, name="use_cgroups is off", effect=effect, mend="set use_cgroups = true"))
    found.append(
        Finding(
            ok=compressor_is_the_known_one(),
            name="compressor",
            effect="artifacts get other digests here than on other nodes",
            mend="a CPU with SSE4.2, and the package isal as uv.lock pins it: make setup",
        )
    )
    catalog = catalogs.read(catalog_file(settings.catalog), settings.default_versions)
    toolchains = toolchains_of(settings)
    for name in pipelines.names(pipelines.load(settings.pipelines)):
        found.append(_toolchain(catalog, toolchains, name))
    folder = next(up for up in (Path(settings.node_dir), *Path(settings.node_dir).parents) if up.is_dir())
    free = shutil.disk_usage(folder).free
    gib = free / 1024**3
    found.append(
        Finding(
            ok=free > settings.disk_bytes,
            name=f"{gib:.0f} GiB free",
            effect="builds may fill the disk",
            mend="free some",
        )
    )
    return tuple(found)


def _toolchain(catalog: Catalog, toolchains: Toolchains, runtime: str) -> Finding:
    """Whether this machine builds a runtime in its default version."""
    try:
        row = catalog.find(runtime)
    except BuildError as error:
        mend = f"add a row for {runtime} to the catalog, or take its pipeline out of pipelines"
        return Finding(ok=False, name=runtime, effect=f"not built anywhere: {error.message}", mend=mend)
    try:
        toolchains.find(row)
    except BuildError as error:
        return Finding(ok=False, name=row.name, effect=error.message, mend=error.next)
    return Finding(ok=True, name=row.name)
