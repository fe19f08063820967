"""Toolchains out of images: the unpacked root is the sandbox's root, so that nothing of them is installed on the node.

`runtimes/<runtime>/toolchain-image.toml` says which images there are: made of Debian packages, or public ones. The same
`toolchain.toml` that describes the host's programs says where plans expect them: what the host mounts there is mounted
there out of the image, so that a plan is the same whoever provides its toolchain.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.bases.recipe import TOOLCHAIN_FILE, ImageRecipe, read_recipes
from builder.errors import BuildError
from builder.images.image import BaseImage
from builder.images.store import ImageStore
from builder.plan import Toolchain
from builder.sandbox import Mount, Root
from builder.sandbox.compose import NEVER_FROM_IMAGE, resolve_inside
from builder.toolchains.copies import Copies, links
from builder.toolchains.elf import loader_of
from builder.toolchains.host import base_of, find_program, shared_parts, version_in
from builder.toolchains.provider import FoundToolchain, Part, Provided
from builder.toolchains.recipe import Program, read_recipe
from builder.toolchains.states import Kept

LENT_AT = "/opt/ignite/lent"
"""Below it is the root of an image whose programs run in the root of another."""
LIBRARIES = ("/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
"""Where a loader looks by itself."""
OURS = ("PATH", "HOME", "USER", "HOSTNAME", "TMPDIR", "LANG", "TZ")
"""Variables of an image that a step has of its own."""


@dataclass(frozen=True, kw_only=True)
class ImageProvider:
    """Toolchain images that this node has. It makes and fetches none: `runtimes fetch` does (`fetch.py`).

    `images` are the toolchain images, `bases` the base images. The rest is as of `HostProvider`.
    """

    folders: tuple[Path, ...]
    copies: Path
    images: ImageStore
    bases: ImageStore
    which: Callable[[str], str | None] = find_program

    def find(self, row: Toolchain) -> FoundToolchain:
        """See `Provider.find`."""
        recipe = read_recipe(self.folders, row.runtime)
        programs = recipe.programs_for(row.target)
        image = self._image(row)
        base = base_of(self.bases, row)
        return FoundToolchain(
            row=row,
            base=base,
            where=f"image {image.digest.removeprefix('sha256:')[:12]}",
            root=image.digest,
            has_c=_has_c(self.recipe(row)),
            parts=(*self._own(row, programs), *shared_parts(row, recipe)),
            path=(
                *(f"{program.mount}/{program.path}" for program in programs if program.path),
                *(folder for folder in _path(image) if folder.startswith("/")),
            ),
            indexes=recipe.indexes,
        )

    def has(self, row: Toolchain) -> bool:
        """See `Provider.has`."""
        try:
            self._image(row)
            self._own(row, read_recipe(self.folders, row.runtime).programs_for(row.target))
        except BuildError:
            return False
        return True

    def _own(self, row: Toolchain, programs: tuple[Program, ...]) -> tuple[Part, ...]:
        """The programs of one target, which are this machine's: no Debian release has them. Raises as `find`."""
        found = []
        for program in programs:
            if program.target:
                source = self.which(program.command)
                if source is None:
                    message = f"{row.name}: {program.command} is not on the PATH of this node"
                    raise BuildError("ToolchainUnavailable", message, where=program.command, next=program.install)
                at = Path(os.path.realpath(source))
                found.append(Part(name=program.command, source=at, dest=program.mount, files=None))
        return tuple(found)

    def provide(self, found: FoundToolchain) -> Provided:
        """See `Provider.provide`."""
        image = self._image(found.row)
        if image.digest != found.root:
            message = f"{found.row.name}: its toolchain image changed meanwhile"
            raise BuildError("ToolchainUnavailable", message, next="build again")
        digests = found.digests()
        shared = Copies(self.copies).mounts(found.row, found.parts, digests)
        rootfs = self.images.rootfs(found.root)
        return Provided(
            root=Root(rootfs=rootfs, mounts=(*self.programs(found.row, rootfs), *shared)),
            base=found.base,
            digests=digests,
            path=found.path,
            env=tuple((name, value) for name, value in image.env if name not in OURS),
            indexes=found.indexes,
        )

    def lends(self, row: Toolchain) -> str:
        """See `Lender.lends`."""
        return self._image(row).digest

    def lend(self, row: Toolchain, digest: str) -> tuple[Mount, ...]:
        """See `Lender.lend`. The other root has another C library: each program is started by the loader of its own
        image, with the libraries of that image, and what it starts itself knows nothing of them."""
        if self.lends(row) != digest:
            raise BuildError(
                "ToolchainUnavailable", f"{row.name}: its toolchain image changed meanwhile", next="build again"
            )
        rootfs = self.images.rootfs(digest).resolve()
        placed = {mount.dest: mount.source for mount in self.programs(row, rootfs)}
        mounts = [Mount(source=rootfs, dest=f"{LENT_AT}/{row.name}")]
        for program in read_recipe(self.folders, row.runtime).programs_for(""):
            if program.lent:
                files = {name: _started(row, rootfs, placed[program.mount] / name) for name in program.lent}
                mounts.append(Mount(source=self._written(row, files), dest=program.mount))
        return tuple(mounts)

    def _written(self, row: Toolchain, files: Mapping[str, str]) -> Path:
        """A folder with these programs; it is named by what they say, and appears whole."""
        text = "".join(f"{name}\n{files[name]}" for name in sorted(files))
        final = self.copies / f"{row.name}-lent-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        if not final.is_dir():
            self.copies.mkdir(parents=True, exist_ok=True)
            self.copies.chmod(0o755)
            with tempfile.TemporaryDirectory(dir=self.copies, prefix=".partial-") as partial:
                made = Path(partial, "made")
                for name, content in files.items():
                    path = made / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(content, encoding="utf-8")
                    path.chmod(0o755)
                for folder in (made, *(each for each in made.rglob("*") if each.is_dir())):
                    folder.chmod(0o755)  # whatever the umask: the build user passes
                try:
                    made.rename(final)
                except OSError:
                    if not final.is_dir():  # else another process was first
                        raise
        return final

    def programs(self, row: Toolchain, rootfs: Path) -> tuple[Mount, ...]:
        """The programs of a toolchain out of the root of its image, where plans expect them.

        Raises `BuildError` ToolchainUnavailable for one that is not in it, or in another version.
        """
        recipe, image = self.recipe(row), self._image(row)
        assert recipe is not None
        rootfs = rootfs.resolve()
        at = dict(recipe.at)
        mounts = [Mount(source=_only(row, rootfs, place), dest=dest) for dest, place in at.items()]
        known = tuple(each for each in read_recipe(self.folders, row.runtime).programs if not each.target)
        for program in known:
            if program.mount not in at:
                mounts.append(Mount(source=_located(row, rootfs, _path(image), program), dest=program.mount))
        sources = {mount.dest: mount.source for mount in mounts}
        for program in known:
            marker = _inside(row, rootfs, sources[program.mount] / program.marker)
            if program.version and marker.is_file() and (has := version_in(marker, program)) != row.version:
                what = f"its toolchain image has {program.command} {has or 'of an unknown version'}"
                raise _unavailable(row, f"{what}, {row.version} is needed")
        return tuple(mount for each in mounts for mount in (each, *_linked(rootfs, each)))

    def recipe(self, row: Toolchain) -> ImageRecipe | None:
        """The recipe of a row's toolchain image, None where there is none; an operator's own goes before a shipped one.

        Raises `BuildError` InvalidRequest."""
        for folder in self.folders:
            if (each := _recipes_of(folder, row.runtime).get(row.name)) is not None:
                return each
        return None

    def _image(self, row: Toolchain) -> BaseImage:
        recipe = self.recipe(row)
        if recipe is None:
            raise BuildError("ToolchainUnavailable", f"{row.name}: there is no recipe of a toolchain image")
        image = self.images.get(recipe.name)
        if image is None or not self.images.came_from(recipe.name, recipe.digest):
            raise _unavailable(row, f"toolchain image {recipe.name} is not on this node")
        return image


_read: Kept[Mapping[str, ImageRecipe]] = Kept()


def _recipes_of(folder: Path, runtime: str) -> Mapping[str, ImageRecipe]:
    """Name of a toolchain → its recipe, of a runtime's folder below `folder`."""

    def read() -> Mapping[str, ImageRecipe]:
        found = read_recipes(folder / runtime, TOOLCHAIN_FILE).values()
        return {name: each for each in reversed(found) for name in each.toolchains or (each.name,)}

    path = os.path.join(folder, runtime, TOOLCHAIN_FILE)
    if not os.path.isfile(path):  # beside a catalog, `runtime` may be a program, or another user's folder
        return {}
    found = _read.get(path, path, read)
    return read() if any(each.bytecode for each in found.values()) else found  # which is of a file beside it, too


def _started(row: Toolchain, rootfs: Path, program: Path) -> str:
    """What starts a program of an image in another root, whose own C library may be older."""
    file = _inside(row, rootfs, program)
    if not file.is_file():
        raise _unavailable(row, f"its toolchain image has no {program.name} where its recipe says")

    def there(path: str) -> str:
        return shlex.quote(f"{LENT_AT}/{row.name}{_place(row, rootfs, path)}")

    with file.open("rb") as opened:
        loader = loader_of(opened)
    folders = dict.fromkeys(there(folder) for folder in LIBRARIES if _inside(row, rootfs, rootfs / folder[1:]).is_dir())
    by = f"{there(loader)} --library-path {':'.join(folders)} " if loader else ""
    return f'#!/bin/sh\nexec {by}{there("/" + file.relative_to(rootfs).as_posix())} "$@"\n'


def _place(row: Toolchain, rootfs: Path, path: str) -> str:
    """Where a path of an image leads, from the image's root."""
    return "/" + _inside(row, rootfs, rootfs / path.lstrip("/")).relative_to(rootfs).as_posix()


def _has_c(recipe: ImageRecipe | None) -> bool:
    """Whether an image has a C compiler: Debian's by its package; the public ones of compilers bring one."""
    return recipe is not None and (bool(recipe.reference) or "gcc" in recipe.packages)


def _path(image: BaseImage) -> tuple[str, ...]:
    """The folders of an image's own PATH."""
    return tuple(folder for folder in dict(image.env).get("PATH", "").split(":") if folder)


def _only(row: Toolchain, rootfs: Path, place: str) -> Path:
    """The one folder or file of the image that a pattern of its recipe names."""
    found = [rootfs]
    for part in place.strip("/").split("/"):
        found = [each for folder in found for each in _matching(row, rootfs, folder, part)]
    if len(found) != 1:
        raise _unavailable(row, f"{len(found)} places of its toolchain image match {place}, not one")
    return found[0]


def _matching(row: Toolchain, rootfs: Path, folder: Path, pattern: str) -> list[Path]:
    """What of a folder of the image a part of a pattern names, its links followed inside."""
    if not folder.is_dir():
        return []
    names = fnmatch.filter(os.listdir(folder), pattern) if any(each in pattern for each in "*?[") else [pattern]
    places = (_inside(row, rootfs, folder / name) for name in sorted(names))
    return [place for place in places if place.exists()]


def _located(row: Toolchain, rootfs: Path, path: tuple[str, ...], program: Program) -> Path:
    """The program in the folders of the image's PATH, or the folder above it that holds its marker."""
    for folder in path:
        found = _inside(row, rootfs, rootfs / folder.lstrip("/") / program.command)
        if not found.is_file():
            continue
        if not program.marker:
            return found
        for above in found.parents:
            if above == rootfs:
                break
            if _inside(row, rootfs, above / program.marker).is_file():
                return above
        raise _unavailable(row, f"its toolchain image has no {program.marker} above {program.command}")
    raise _unavailable(row, f"its toolchain image has no {program.command} on its PATH")


def _inside(row: Toolchain, rootfs: Path, path: Path) -> Path:
    """As `_led`. Raises `BuildError` ToolchainUnavailable where the links lead nowhere."""
    try:
        return _led(rootfs, path)
    except OSError as error:
        place, said = path.relative_to(rootfs).as_posix(), os.strerror(error.errno or 0)
        raise _unavailable(row, f"the links of its toolchain image lead nowhere at /{place}: {said}") from None


def _led(rootfs: Path, path: Path) -> Path:
    """`path` with its links followed as a program inside the image would follow them. Raises `OSError`."""
    return rootfs / resolve_inside(rootfs, "/" + path.relative_to(rootfs).as_posix()).lstrip("/")


def _linked(rootfs: Path, mount: Mount) -> Iterator[Mount]:
    """Where relative links near the top of a mounted folder lead outside it, mounted where they lead from its place.

    As `copies.linked`, but inside the image: where a link of it leads on the host is nothing to us. One that begins
    with `/` leads to the same place wherever it is mounted.
    """
    if not mount.source.is_dir():
        return

    def enters(path: str) -> bool:
        try:
            return os.path.realpath(path) == str(_led(rootfs, Path(path))) and os.path.isdir(path)
        except OSError:
            return False

    for link in links(mount.source, enters):
        if (text := os.readlink(link)).startswith("/"):
            continue
        try:
            target = _led(rootfs, link)
        except OSError:  # whoever follows it there gets nowhere either
            continue
        if not target.is_relative_to(mount.source) and target.exists():
            place = os.path.normpath(Path(mount.dest) / link.relative_to(mount.source).parent / text)
            if place == "/" or f"/{place.split('/')[1]}" in NEVER_FROM_IMAGE:
                continue  # what is there is ours, whatever the image has
            yield Mount(source=target, dest=place)


def _unavailable(row: Toolchain, message: str) -> BuildError:
    step = f"ignite-builder runtimes fetch {row.name}"
    return BuildError("ToolchainUnavailable", f"{row.name}: {message}", next=step)
