"""Getting a toolchain onto this node: its image where the node has no such toolchain of its own, and its base image.

Made of Debian packages, or fetched from a public registry or a package registry. Nothing here runs in the middle of a
build unless the setting `fetch_toolchains` is on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.bases.make import build_base, make_image
from builder.bases.recipe import FILE, read_recipes
from builder.errors import BuildError
from builder.images.destination import Destination
from builder.images.image import Image
from builder.images.public import fetch_public
from builder.images.store import images_of, toolchain_images_of
from builder.plan import Toolchain
from builder.sandbox.policy import bypasses
from builder.settings import Settings
from builder.toolchains import packages
from builder.toolchains.providers import folders_of, host_provider, image_provider, toolchains_of
from builder.toolchains.recipe import read_recipe

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What a toolchain is made of now: names and digests of images, the base last."""

    row: Toolchain
    images: tuple[tuple[str, str], ...]
    where: str


def fetch(
    settings: Settings, row: Toolchain, *, refresh: bool = False, progress: Progress = lambda line: None
) -> Fetched:
    """Have a toolchain: its base image, and where the machine has none of its own its toolchain image, unpacked and
    looked through. `refresh` makes both anew.

    Raises `BuildError` ToolchainUnavailable for what neither this machine nor a recipe has, and as `make_image`.
    """
    read_recipe(folders_of(settings), row.runtime)
    images = []
    found = image_provider(settings)
    if recipe := found.recipe(row):
        known = toolchain_images_of(settings.node_dir, settings.unpacked_image_bytes)
        if refresh or found.has(row) or not toolchains_of(settings).has(row):
            image = make_image(known, recipe, refresh=refresh, fetch=_fetch(settings), progress=progress)
            progress(f"unpacking {recipe.name}")
            found.programs(row, known.rootfs(image.digest))
            images.append((recipe.name, image.digest))
    if base := ensure_base(settings, row, refresh=refresh, progress=progress):
        images.append((row.base, base))
    return Fetched(row=row, images=tuple(images), where=toolchains_of(settings).find(row).where)


def can_fetch(settings: Settings, row: Toolchain) -> bool:
    """Whether there are recipes of all that this machine lacks of a toolchain. Reads only."""
    try:
        known = toolchains_of(settings).has(row) or image_provider(settings).recipe(row) is not None
        known = known or packages.can_fetch(folders_of(settings), row)
        folder = _base_folder(settings, row)
        base = images_of(settings.node_dir).get(row.base) is not None
        return known and (base or (folder is not None and row.base in read_recipes(folder)))
    except BuildError:
        return False


def ensure_base(
    settings: Settings, row: Toolchain, *, refresh: bool = False, progress: Progress = lambda line: None
) -> str:
    """Make the base image of a toolchain, where there is a recipe and no image of it yet, and have what it takes from a
    package registry. Where the machine has the toolchain itself, also the image that is the root of its steps. Returns
    the base's digest, empty without a recipe. Raises as both do."""
    digest, folder = "", _base_folder(settings, row)
    if folder is not None:
        store = images_of(settings.node_dir, settings.unpacked_image_bytes)
        root = read_recipe(folders_of(settings), row.runtime).root
        if root and host_provider(settings).has(row):
            build_base(store, root, folder, refresh=refresh, fetch=_fetch(settings), progress=progress)
        if row.base:
            made = build_base(store, row.base, folder, refresh=refresh, fetch=_fetch(settings), progress=progress)
            digest = made.digest
    packages.fetch(folders_of(settings), _store(settings), row, settings, progress)
    return digest


def _store(settings: Settings) -> Path:
    return Path(settings.node_dir) / "toolchains"


def _base_folder(settings: Settings, row: Toolchain) -> Path | None:
    return next((each / row.runtime for each in folders_of(settings) if (each / row.runtime / FILE).is_file()), None)


def _fetch(settings: Settings) -> Callable[[str, Path, Progress], Image]:
    """`fetch_public` by the settings: the bundle and the proxy of fetch steps, the login where it is for this host."""

    def connect(host: str) -> Destination:
        from builder.images import registry  # with the HTTP client

        ours = host == settings.registry
        name, _, port = host.partition(":")
        through = "" if bypasses(name, int(port or 443), settings.no_proxy) else settings.upstream_proxy
        return registry.connect(
            host,
            username=settings.registry_username if ours else "",
            password=settings.registry_password if ours else "",
            insecure=settings.registry_insecure and ours,
            ca_bundle=settings.ca_bundle,
            proxy=through,
            access="pull",
        )

    return lambda reference, work, progress: fetch_public(reference, work, progress, connect)
