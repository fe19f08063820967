"""The providers of the machine this runs on, in the order in which a node asks them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from builder.data import catalog_file, runtimes_dir
from builder.images.store import images_of, toolchain_images_of
from builder.plan import Toolchain
from builder.settings import Settings
from builder.toolchains import host, image
from builder.toolchains.provider import Toolchains


def toolchains_of(settings: Settings) -> Toolchains:
    """The toolchains of this machine: its own programs first, then toolchain images."""
    return Toolchains(providers=(host_provider(settings), image_provider(settings)))


def host_provider(settings: Settings) -> host.HostProvider:
    """The programs of this machine."""
    return host.HostProvider(
        folders=folders_of(settings),
        copies=Path(settings.node_dir) / "toolchains",
        images=images_of(settings.node_dir, settings.unpacked_image_bytes),
        which=host.find_program,
        lender=image_provider(settings),
    )


def image_provider(settings: Settings) -> image.ImageProvider:
    """The toolchain images of this machine."""
    return image.ImageProvider(
        folders=folders_of(settings),
        copies=Path(settings.node_dir) / "toolchains",
        images=toolchain_images_of(settings.node_dir, settings.unpacked_image_bytes),
        bases=images_of(settings.node_dir, settings.unpacked_image_bytes),
    )


def fetching(settings: Settings) -> Callable[[Toolchain, Callable[[str], None]], object] | None:
    """What gets a toolchain in the middle of a build, where the settings want it so."""
    if not settings.fetch_toolchains:
        return None

    def fetch(row: Toolchain, progress: Callable[[str], None]) -> object:
        from builder.toolchains import fetch as made

        return made.fetch(settings, row, progress=progress)

    return fetch


def folders_of(settings: Settings) -> tuple[Path, ...]:
    """Where the folders of runtimes are. Those of an operator's own catalog lie beside it."""
    return tuple(dict.fromkeys((catalog_file(settings.catalog).parent, runtimes_dir())))
