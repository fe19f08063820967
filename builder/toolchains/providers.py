"""The providers of the machine this runs on, in the order in which a node asks them."""

from __future__ import annotations

from pathlib import Path

from builder.data import catalog_file, runtimes_dir
from builder.images.store import images_of
from builder.settings import Settings
from builder.toolchains import host
from builder.toolchains.provider import Toolchains


def toolchains_of(settings: Settings) -> Toolchains:
    """The toolchains of this machine. The runtimes of an operator's own catalog lie beside it."""
    folders = (catalog_file(settings.catalog).parent, runtimes_dir())
    here = host.HostProvider(
        folders=tuple(dict.fromkeys(folders)),
        copies=Path(settings.node_dir) / "toolchains",
        images=images_of(settings.node_dir),
        which=host.find_program,
    )
    return Toolchains(providers=(here,))
