"""What this machine can build with: base images, toolchains, default versions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from builder import pipelines
from builder.data import catalog_file
from builder.errors import BuildError
from builder.images.store import images_of
from builder.pipelines import catalog as catalogs
from builder.plan import Toolchain
from builder.sandbox import launch, rlimits
from builder.settings import Settings
from builder.toolchains import packages
from builder.toolchains.providers import fetching, folders_of, toolchains_of


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
    """Make the base image of a toolchain, where there is a recipe and no image of it yet. Raises as `build_base`."""
    from builder.toolchains.fetch import ensure_base as made  # with mmdebstrap's side of it, for few builds

    made(settings, row)


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
        rlimits.require_tasks(settings.build_uid)


def prepare(settings: Settings, row: Toolchain, making: Callable[[], None]) -> None:
    """Have what a toolchain needs, its base image made if it is lacking, and all of it fetched where the setting
    `fetch_toolchains` is on; `making` is called before. Raises `BuildError` as `require` does."""
    failed: BuildError | None = None
    if (lacks := why_unbuildable(settings, row)) is not None:
        fetch = fetching(settings)
        if fetch is None and not has_programs(settings, row):
            raise lacks  # a base image would not mend it
        making()
        try:
            if fetch is not None:
                fetch(row, lambda line: None)
            else:
                ensure_base(settings, row)
        except BuildError as error:
            failed = error
        require(settings, row, failed)


def has_programs(settings: Settings, row: Toolchain) -> bool:
    """Whether a toolchain's programs are here, or are packages that are fetched with its base image."""
    return toolchains_of(settings).has(row) or packages.can_fetch(folders_of(settings), row)


def why_unbuildable(settings: Settings, row: Toolchain) -> BuildError | None:
    """What keeps this machine from building with a toolchain, and the command that mends it; None: nothing does."""
    return here(settings, row)[1]


def here(settings: Settings, row: Toolchain) -> tuple[str, BuildError | None]:
    """Where this machine has a toolchain from, and None; or nothing, and what keeps it from building with it.

    Reads only: it makes, copies and unpacks nothing.
    """
    try:
        return toolchains_of(settings).find(row).where, None
    except BuildError as error:
        from builder.bases.recipe import FILE, read_recipes

        folders = [each / row.runtime for each in folders_of(settings) if (each / row.runtime / FILE).is_file()]
        recipes = read_recipes(folders[0]) if folders else {}
        if row.base and images_of(settings.node_dir).get(row.base) is None and row.base not in recipes:
            message = f"{row.name}: there is no recipe of its base image {row.base}"
            return "", BuildError("ToolchainUnavailable", message)
        return "", error


def versions_here(settings: Settings) -> dict[str, str]:
    """Runtime → default version: where this machine lacks the catalog's default, the newest version that it has.

    One machine is all there is: a build that names no version must not wait for another node.
    """
    catalog = catalogs.read(catalog_file(settings.catalog))
    toolchains = toolchains_of(settings)
    chosen = {}
    for name in pipelines.names(pipelines.load(settings.pipelines)):
        with suppress(BuildError):
            default = catalog.find(name)
            others = (row for row in reversed(catalog.toolchains()) if row.runtime == name)
            rows = [default, *(row for row in others if row.target == default.target)]
            row = next((row for row in rows if toolchains.has(row)), rows[0])
            if row != rows[0]:
                chosen[name] = row.version
    return chosen | settings.default_versions


def require_engine(settings: Settings) -> None:
    """Whether the Docker engine of `docker_host` answers. Raises `BuildError` ToolchainUnavailable."""
    from builder.engine.api import connect  # with the SDK, which no other build loads

    connect(settings.docker_host).close()
