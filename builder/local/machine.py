"""What this machine can build with: base images, toolchains, default versions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from builder import pipelines
from builder.config import Settings
from builder.data import catalog_file, runtimes_dir
from builder.errors import BuildError
from builder.images.store import images_of
from builder.pipelines import catalog as catalogs
from builder.plan import Toolchain
from builder.sandbox import launch
from builder.toolchains.providers import toolchains_of
from builder.toolchains.recipe import read_recipe


def ensure_bases(settings: Settings) -> dict[str, BuildError]:
    """Make the base images of the default toolchains, once each. Returns runtime → why its base could not be made: the
    machine can still build the other runtimes."""
    catalog = catalogs.read(catalog_file(settings.catalog))
    failed = {}
    for name in pipelines.names(pipelines.load(settings.pipelines)):
        try:
            ensure_base(settings, catalog.find(name))
        except BuildError as error:
            failed[name] = error
    return failed


def ensure_base(settings: Settings, row: Toolchain) -> None:
    """Make the base image of a toolchain and the root of its steps, where there is a recipe and no image of it yet.
    Raises as `build_base`."""
    recipe = runtimes_dir() / row.runtime
    if (recipe / "base.toml").is_file():
        from builder.bases.make import build_base  # with mmdebstrap's side of it, which most builds do without

        root = read_recipe((runtimes_dir(),), row.runtime).root
        for name in (row.base, *((root,) if root else ())):
            build_base(images_of(settings.node_dir), name, recipe)


def require(settings: Settings, row: Toolchain, base: BuildError | None = None) -> None:
    """One machine is all there is: what it cannot build would wait for another node. `base`: why its base image could
    not be made. Raises `BuildError`."""
    error = why_unbuildable(settings, row)
    if error is not None and base is not None:
        message = f"{error.message}; its base image could not be made: {base.message}"
        raise BuildError(error.reason, message, said=base.said)
    if error is not None:
        raise error


def require_sandbox(settings: Settings) -> None:
    """Whether build steps can be sandboxed here, as far as that shows without trying. Raises `BuildError`
    SandboxUnavailable. One that the kernel refuses ends the build."""
    if not settings.unsandboxed:
        launch.program("bwrap")


def prepare(settings: Settings, row: Toolchain, making: Callable[[], None]) -> None:
    """Have what a toolchain needs, its base image made if it is lacking; `making` is called before. Raises `BuildError`
    as `require` does."""
    failed: BuildError | None = None
    if why_unbuildable(settings, row) is not None:
        making()
        try:
            ensure_base(settings, row)
        except BuildError as error:
            failed = error
        require(settings, row, failed)


def why_unbuildable(settings: Settings, row: Toolchain) -> BuildError | None:
    """What keeps this machine from building with a toolchain, and the command that mends it; None: nothing does.

    Reads only: it makes, copies and unpacks nothing.
    """
    try:
        toolchains_of(settings).find(row)
    except BuildError as error:
        from builder.bases.recipe import read_recipes

        folder = runtimes_dir() / row.runtime
        recipes = read_recipes(folder) if (folder / "base.toml").is_file() else {}
        if images_of(settings.node_dir).get(row.base) is None and row.base not in recipes:
            return BuildError("ToolchainUnavailable", f"{row.name}: there is no recipe of its base image {row.base}")
        return error
    return None


def versions_here(settings: Settings) -> dict[str, str]:
    """Runtime → default version: where this machine lacks the catalog's default, the newest version that it has.

    One machine is all there is: a build that names no version must not wait for another node.
    """
    catalog = catalogs.read(catalog_file(settings.catalog))
    toolchains = toolchains_of(settings)
    chosen = {}
    for name in pipelines.names(pipelines.load(settings.pipelines)):
        with suppress(BuildError):
            rows = [catalog.find(name), *(row for row in reversed(catalog.toolchains()) if row.runtime == name)]
            row = next((row for row in rows if toolchains.has(row)), rows[0])
            if row != rows[0]:
                chosen[name] = row.version
    return chosen | settings.default_versions
