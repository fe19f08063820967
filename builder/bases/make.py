"""Base and toolchain images, made from Debian packages by a recipe, without a container engine.

recipe → packages → rootfs → bytecode → one reproducible layer → the node's image store. The same recipe and package
versions give the same digest on every machine, and the digest pins what artifacts are built on. No code of a package
runs except a base's interpreter, sandboxed, to compile its standard library.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from builder.bases.bytecode import compile_bytecode
from builder.bases.debian import (
    DebianPackage,
    Run,
    control_of,
    fetch_packages,
    files_of,
    full_is_ours,
    mirror_lines,
    read_sources,
    run_process,
)
from builder.bases.recipe import ImageRecipe, read_recipes
from builder.errors import BuildError
from builder.images.image import BaseImage, Image, ImageConfig, build_image
from builder.images.layer import write_layer
from builder.images.public import Fetch, fetch_public
from builder.images.store import ImageStore
from builder.images.unpack import unpack_tar

RECIPE_LABEL = "dev.dodil.ignite.base.recipe"
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
CERTIFICATES = "usr/share/ca-certificates/mozilla"
STATUS = "var/lib/dpkg/status.d"


Progress = Callable[[str], None]
"""Takes a line for people about what is under way."""


def build_base(
    images: ImageStore,
    name: str,
    recipe_dir: Path,
    *,
    refresh: bool = False,
    apt: Path = Path("/etc/apt"),
    run: Run = run_process,
    fetch: Fetch = fetch_public,
    progress: Progress = lambda line: None,
) -> BaseImage:
    """Make the base `name` from `recipe_dir`/base.toml, unless `images` has one made from the same recipe.

    Raises `BuildError` InvalidRequest (recipe) and as `make_image`.
    """
    recipes = read_recipes(recipe_dir)
    if name not in recipes:
        raise BuildError("InvalidRequest", f"{recipe_dir / 'base.toml'} has {', '.join(recipes)}, not {name}")
    return make_image(images, recipes[name], refresh=refresh, apt=apt, run=run, fetch=fetch, progress=progress)


def make_image(
    images: ImageStore,
    recipe: ImageRecipe,
    *,
    refresh: bool = False,
    apt: Path = Path("/etc/apt"),
    run: Run = run_process,
    fetch: Fetch = fetch_public,
    progress: Progress = lambda line: None,
) -> BaseImage:
    """Make the image of a recipe, or fetch the public one that it names, unless `images` has one of the same recipe.

    `refresh` makes it anew with the package versions of now; the same versions give the same digest. `apt` is where the
    machine's own apt sources are; `run` starts mmdebstrap, dpkg-deb and bwrap; `fetch` reads a registry. Raises
    `BuildError` ToolchainUnavailable (a program is absent, the suite or registry has not what the recipe names),
    `PlatformError` PackageIndexUnavailable, RegistryUnavailable, NodeDiskFull.
    """
    with full_is_ours(images.root), _exclusive(images, recipe.name) as stem:
        known = None if refresh else made_from(images, recipe)
        if known is not None:
            return known
        for left in images.root.glob(f"{stem}.build-*"):  # of a process that was killed: this one has the lock
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=images.root, prefix=f"{stem}.build-") as work:
            if recipe.reference:
                image = _over(images, recipe, fetch(recipe.reference, Path(work), progress), Path(work))
            else:
                image = _make(recipe, Path(work), apt, run, progress)
            return images.put(image, recipe.name, recipe.digest)


def made_from(images: ImageStore, recipe: ImageRecipe) -> BaseImage | None:
    """The image of this name where it was made from this very recipe."""
    known = images.get(recipe.name)
    if known is None:
        return None
    if dict(known.labels).get(RECIPE_LABEL) == recipe.digest or images.came_from(recipe.name, recipe.digest):
        return known
    return None


@contextmanager
def _exclusive(images: ImageStore, name: str) -> Iterator[str]:
    """One process at a time makes an image; the next one finds it made. How names of files for this begin."""
    images.prepare()
    stem = f".{images.prefix.replace('/', '-')}{name}"
    with (images.root / f"{stem}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield stem


def _make(recipe: ImageRecipe, work: Path, apt: Path, run: Run, progress: Progress) -> Image:
    debs = work / "debs"
    debs.mkdir()
    mirrors = mirror_lines(read_sources(apt), recipe.suite)
    progress(f"fetching {', '.join(recipe.packages)} of {recipe.suite}")
    packages = fetch_packages(recipe.suite, recipe.packages, mirrors, debs, run)
    _check_versions(recipe, packages)
    progress(f"unpacking {len(packages)} packages")
    rootfs = work / "rootfs"
    rootfs.mkdir()
    for name in MERGED:  # merged /usr first, so that every package lands in it
        (rootfs / "usr" / name).mkdir(parents=True)
        (rootfs / name).symlink_to(f"usr/{name}")
    for package in packages:
        if not recipe.wants(package.name):
            continue
        tar = work / "files.tar"
        files_of(package, tar, run)
        with tar.open("rb") as blob:
            unpack_tar(blob, rootfs, packed=False, keep_links=True)
        _write(rootfs, f"{STATUS}/{package.name}", control_of(package, run))
        for used in (tar, package.path):  # a toolchain has a gigabyte and more
            used.unlink(missing_ok=True)
    furnish(rootfs, recipe)
    if recipe.bytecode:
        progress(f"compiling {', '.join(recipe.bytecode.folders)}")
        compile_bytecode(rootfs, recipe.bytecode, work / "bytecode", run)
    progress("packing")
    layer = write_layer(
        [(rootfs, "/")],
        work / "layer.tar.gz",
        folders={f"/{path}": mode for path, mode in recipe.folders},
        created_by=f"Debian {recipe.suite}: {' '.join(recipe.packages)}",
    )
    config = ImageConfig(entrypoint=(), env=recipe.env, labels=((RECIPE_LABEL, recipe.digest),), ports=())
    return build_image(None, (layer,), config)


def _over(images: ImageStore, recipe: ImageRecipe, image: Image, work: Path) -> Image:
    """A public image with what its recipe puts over it; the image itself where that is nothing."""
    if not (recipe.files or recipe.links or recipe.folders):
        return image
    tree = work / "over"
    tree.mkdir()
    furnish(tree, recipe)
    layer = write_layer(
        [(tree, "/")],
        work / "over.tar.gz",
        folders={f"/{path}": mode for path, mode in recipe.folders},
        created_by=f"over {recipe.reference}",
    )
    base = images.put(image, recipe.name)
    return build_image(base, (layer,), ImageConfig(entrypoint=(), env=base.env, ports=()))


def _check_versions(recipe: ImageRecipe, packages: Sequence[DebianPackage]) -> None:
    """A suite moves on: what came must be what the recipe is named after."""
    found = {package.name: package.version for package in packages}
    for name, wanted in recipe.versions:
        has = found.get(name, "")
        if not has.startswith(wanted):
            message = f"{recipe.name}: {recipe.suite} has {name} {has or 'no more'}, the recipe is for {wanted}"
            raise BuildError("ToolchainUnavailable", message, next="Name the suite that has it in the recipe.")


def furnish(rootfs: Path, recipe: ImageRecipe) -> None:
    """What maintainer scripts would have done, then the recipe's own files, then what it leaves out."""
    if recipe.ca_bundle:
        certificates = sorted((rootfs / CERTIFICATES).glob("*.crt"))
        if not certificates:
            raise BuildError("InvalidRequest", f"{recipe.name}: ca_bundle needs the package ca-certificates")
        texts = [path.read_bytes().rstrip(b"\n") + b"\n" for path in certificates]
        _write(rootfs, recipe.ca_bundle, b"".join(texts))
    for path, text in recipe.files:
        _write(rootfs, path, text.encode())
    for path, target in recipe.links:
        link = rootfs / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    added = {path for path, _ in (*recipe.files, *recipe.links)} | {recipe.ca_bundle}
    _strip(rootfs, recipe, added)


def _strip(rootfs: Path, recipe: ImageRecipe, added: set[str]) -> None:
    """Leave out what the recipe strips, and folders that are empty after it."""
    for folder, folders, files in os.walk(rootfs, topdown=False):
        here = Path(folder)
        for name in (*files, *folders):
            path = here / name
            relative = path.relative_to(rootfs).as_posix()
            if path.is_dir() and not path.is_symlink():
                stripped = recipe.leaves_out(relative)
                if stripped or relative in {f"usr/{one}" for one in MERGED}:
                    with suppress(OSError):  # not empty: something in it stays
                        path.rmdir()
            elif relative not in added and recipe.leaves_out(relative):
                path.unlink()
    for name in MERGED:
        if (rootfs / name).is_symlink() and not (rootfs / name).is_dir():
            (rootfs / name).unlink()


def _write(rootfs: Path, path: str, data: bytes) -> None:
    target = rootfs / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_symlink():
        target.unlink()
    target.write_bytes(data)
