"""Base images, made from Debian packages by a recipe, without a container engine.

recipe → packages → rootfs → bytecode → one reproducible layer → an OCI layout folder. The same recipe and package
versions give the same digest on every machine; it pins what artifacts are built on. Nothing of a package runs but the
interpreter that compiles its own library, apart from everything.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from builder.bases.bytecode import compile_bytecode
from builder.bases.debian import Run, control_of, fetch_packages, files_of, mirror_lines, read_sources, run_process
from builder.bases.recipe import Recipe, read_recipes
from builder.errors import BuildError, PlatformError
from builder.images.destination import REPOSITORY
from builder.images.image import BaseImage, Image, ImageConfig, Platform, build_image
from builder.images.layer import Layer, write_layer
from builder.images.layout import Layout
from builder.images.rootfs import unpack_image, unpack_tar

PREFIX = "bases/"
TAG = "current"
RECIPE_LABEL = "dev.dodil.ignite.base.recipe"
MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
CERTIFICATES = "usr/share/ca-certificates/mozilla"
STATUS = "var/lib/dpkg/status.d"


@dataclass(frozen=True)
class BaseStore:
    """Base images of this node below `root`. Several processes may use it at once.

    `apt` is where the machine's own apt sources are; `run` starts mmdebstrap, dpkg-deb and bwrap.
    """

    root: Path
    apt: Path = Path("/etc/apt")
    run: Run = run_process

    def build(self, name: str, recipe_dir: Path, *, refresh: bool = False) -> BaseImage:
        """Make the base `name` from `recipe_dir`/base.toml, unless it is there and was made from the same recipe.

        `refresh` makes it anew with the package versions of now; the same versions give the same digest. Raises
        `BuildError` InvalidRequest (recipe), ToolchainUnavailable (mmdebstrap is absent), `PlatformError`
        PackageIndexUnavailable.
        """
        recipes = read_recipes(recipe_dir)
        if name not in recipes:
            raise BuildError("InvalidRequest", f"{recipe_dir / 'base.toml'} has {', '.join(recipes)}, not {name}")
        recipe = recipes[name]
        with self._locked(name):
            known = self.get(name)
            if known is not None and not refresh and dict(known.labels).get(RECIPE_LABEL) == recipe.digest:
                return known
            with tempfile.TemporaryDirectory(dir=self.root, prefix=".build-") as work:
                self._make(recipe, Path(work))
        made = self.get(name)
        if made is None:
            raise PlatformError("Internal", f"base {name} was made and is not there")
        return made

    def get(self, name: str) -> BaseImage | None:
        """The base as it is stored, None when it was not made here."""
        if not REPOSITORY.fullmatch(name) or "/" in name:
            return None
        manifest = self._layout.get_manifest(PREFIX + name, TAG)
        if manifest is None:
            return None
        value = json.loads(manifest.body)
        config = json.loads(self._layout.blob_path(value["config"]["digest"]).read_bytes())
        layers = tuple(
            Layer(
                path=self._layout.blob_path(part["digest"]),
                digest=part["digest"],
                diff_id=diff_id,
                size=part["size"],
                media_type=part["mediaType"],
                created_by=history["created_by"],
                base=name,
            )
            for part, diff_id, history in zip(
                value["layers"], config["rootfs"]["diff_ids"], config["history"], strict=True
            )
        )
        return BaseImage(
            name=name,
            digest=manifest.digest,
            layers=layers,
            env=tuple((key, value) for key, _, value in (pair.partition("=") for pair in config["config"]["Env"])),
            labels=tuple(sorted(config["config"].get("Labels", {}).items())),
            platform=Platform(os=config["os"], architecture=config["architecture"]),
        )

    def image(self, name: str) -> Image | None:
        """The base as an image, to push it to where artifacts go; None when it was not made here."""
        base, manifest = self.get(name), self._layout.get_manifest(PREFIX + name, TAG)
        if base is None or manifest is None:
            return None
        config = self._layout.blob_path(json.loads(manifest.body)["config"]["digest"]).read_bytes()
        return Image(manifest=manifest.body, config=config, digest=manifest.digest, layers=base.layers)

    def rootfs(self, name: str) -> Path:
        """The base unpacked, for use as a sandbox root: read-only by custom, readable by any uid.

        Unpacked once for each digest; a rebuilt base gets a folder of its own. Raises `BuildError`
        ToolchainUnavailable when the base was not made.
        """
        base = self.get(name)
        if base is None:
            raise BuildError("ToolchainUnavailable", f"base image {name} is not on this node")
        folder = self.root / "rootfs"
        final = folder / f"{name}-{base.digest.removeprefix('sha256:')[:16]}"
        if final.is_dir():
            return final
        self._prepare(folder)
        partial = Path(tempfile.mkdtemp(dir=folder, prefix=".partial-"))
        try:
            unpack_image(base.layers, partial / "root")
            with suppress(FileExistsError, OSError):  # another process was first: its folder holds the same
                (partial / "root").rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        if not final.is_dir():
            raise PlatformError("Internal", f"base {name} could not be unpacked")
        return final

    def names(self) -> tuple[str, ...]:
        """The bases that are here, sorted."""
        suffix = f":{TAG}"
        found = (name for name in self._layout.names() if name.startswith(PREFIX) and name.endswith(suffix))
        return tuple(name.removeprefix(PREFIX).removesuffix(suffix) for name in found)

    @property
    def _layout(self) -> Layout:
        return Layout(self.root / "layout", name="bases")

    def _prepare(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for each in (self.root, folder):
            with suppress(PermissionError):  # somebody else's folder is as open as they made it
                each.chmod(0o755)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self._prepare(self.root)
        with (self.root / f".{name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self, recipe: Recipe, work: Path) -> None:
        debs = work / "debs"
        debs.mkdir()
        mirrors = mirror_lines(read_sources(self.apt), recipe.suite)
        packages = fetch_packages(recipe.suite, recipe.packages, mirrors, debs, self.run)
        rootfs = work / "rootfs"
        rootfs.mkdir()
        for name in MERGED:  # merged /usr first, so that every package lands in it
            (rootfs / "usr" / name).mkdir(parents=True)
            (rootfs / name).symlink_to(f"usr/{name}")
        for package in packages:
            if not recipe.wants(package.name):
                continue
            tar = work / "files.tar"
            files_of(package, tar, self.run)
            with tar.open("rb") as blob:
                unpack_tar(blob, rootfs, packed=False, keep_links=True)
            _write(rootfs, f"{STATUS}/{package.name}", control_of(package, self.run))
        furnish(rootfs, recipe)
        if recipe.bytecode:
            compile_bytecode(rootfs, recipe.bytecode, work / "bytecode", self.run)
        layer = write_layer(
            [(rootfs, "/")],
            work / "layer.tar.gz",
            folders={f"/{path}": mode for path, mode in recipe.folders},
            created_by=f"Debian {recipe.suite}: {' '.join(recipe.packages)}",
        )
        config = ImageConfig(entrypoint=(), env=recipe.env, labels=((RECIPE_LABEL, recipe.digest),), ports=())
        self._layout.push(build_image(None, (layer,), config), PREFIX + recipe.name, TAG)


def furnish(rootfs: Path, recipe: Recipe) -> None:
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


def _strip(rootfs: Path, recipe: Recipe, added: set[str]) -> None:
    """Leave out what the recipe strips, and folders that are empty after it."""
    for folder, folders, files in os.walk(rootfs, topdown=False):
        here = Path(folder)
        for name in (*files, *folders):
            path = here / name
            relative = path.relative_to(rootfs).as_posix()
            if path.is_dir() and not path.is_symlink():
                stripped = recipe.leaves_out(relative)
                if stripped or relative in {f"usr/{one}" for one in MERGED}:
                    with suppress(OSError):  # not empty: something in it is kept
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
