"""Toolchains out of the host's own programs and of packages that were fetched to it.

`runtimes/<runtime>/toolchain.toml` describes them.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from builder.errors import BuildError
from builder.images.image import BaseImage
from builder.images.store import ImageStore
from builder.plan import Toolchain
from builder.sandbox import Root
from builder.toolchains.copies import Copies
from builder.toolchains.placing import file_of
from builder.toolchains.provider import FoundToolchain, Lender, Part, Provided
from builder.toolchains.recipe import Program, Recipe, read_recipe
from builder.toolchains.states import Kept

MOST_MARKER = 16 * 1024 * 1024
"""Bytes of a program's marker that are looked at: rustup's manifest has one MiB. An image's is whatever it holds."""


@dataclass(frozen=True, kw_only=True)
class HostProvider:
    """Looks programs up on this machine.

    `folders` are searched in order for `<runtime>/toolchain.toml`. A program below a folder that the build user cannot
    enter (a person's home) is copied once into `copies`, where fetched packages are, too.
    """

    folders: tuple[Path, ...]
    copies: Path
    images: ImageStore
    which: Callable[[str], str | None]
    lender: Lender | None = None
    """Where programs come from that join the root of steps apart, and that this machine has not itself."""

    def find(self, row: Toolchain) -> FoundToolchain:
        """See `Provider.find`."""
        recipe = read_recipe(self.folders, row.runtime)
        base = base_of(self.images, row)
        root = self.images.get(recipe.root) if recipe.root else base
        if recipe.root and root is None:
            step = f"ignite-builder runtimes fetch {row.name}"
            raise _unavailable(row, f"image {recipe.root}, the root of its steps, is not on this node", step)
        apart = self.images.get(f"{row.base}{recipe.apart}") if recipe.apart else None
        parts: list[Part] = []
        env: list[tuple[str, str]] = []
        programs = recipe.programs_for(row.target)
        for program in programs:
            source, name = self._locate(row, program), program.command
            files, content = program.digest, program.content
            parts.append(Part(name=name, source=source, dest=program.mount, files=files, content=content))
            env += _told(source, program)
        for package in recipe.packages:
            source = file_of(self.copies, row, package)
            if not source.is_file():
                message = f"{package.name} {package.releases[row.version][0]} is not on this node"
                raise _unavailable(row, message, f"ignite-builder runtimes fetch {row.name}")
            parts.append(Part(name=package.name, source=source, dest=package.mount, files=None))
        parts += shared_parts(row, recipe)
        beside = self._beside(recipe) if apart else ()
        lent, image = self._lent(recipe) if apart and not beside else (None, "")
        return FoundToolchain(
            row=row,
            base=base,
            where="host",
            root=root.digest if root is not None and (recipe.root or recipe.base_is_root) else "",
            apart=apart.digest if apart else "",
            apart_parts=beside,
            lent=lent,
            lent_image=image,
            parts=tuple(parts),
            path=tuple(f"{program.mount}/{program.path}" for program in programs if program.path),
            env=tuple(env),
            indexes=recipe.indexes,
        )

    def has(self, row: Toolchain) -> bool:
        """See `Provider.has`."""
        try:
            recipe = read_recipe(self.folders, row.runtime)
            for program in recipe.programs_for(row.target):
                self._locate(row, program)
            return all(file_of(self.copies, row, package).is_file() for package in recipe.packages)
        except BuildError:
            return False

    def provide(self, found: FoundToolchain) -> Provided:
        """See `Provider.provide`."""
        digests = found.digests()
        copies = Copies(self.copies)
        mounts = copies.mounts(found.row, found.parts, digests)
        beside = {part.name: digests[f"apart {part.name}"] for part in found.apart_parts}
        apart = (*mounts, *copies.mounts(found.row, found.apart_parts, beside))
        if self.lender is not None and found.lent is not None:
            apart += self.lender.lend(found.lent, found.lent_image)
        rootfs = self.images.rootfs(found.root) if found.root else None
        return Provided(
            root=Root(rootfs=rootfs, mounts=mounts),
            apart=Root(rootfs=self.images.rootfs(found.apart), mounts=apart) if found.apart else None,
            base=found.base,
            digests=digests,
            path=found.path,
            env=found.env,
            indexes=found.indexes,
            files={part.dest: digests[part.name] for part in found.parts if part.source.is_file()},
        )

    def _beside(self, recipe: Recipe) -> tuple[Part, ...]:
        """The programs of the first toolchain of `apart_with` that this machine has itself; none where it has none."""
        for row in _others(recipe):
            try:
                return tuple(
                    Part(
                        name=program.command,
                        source=self._locate(row, program),
                        dest=program.mount,
                        files=program.digest,
                        content=program.content,
                    )
                    for program in read_recipe(self.folders, row.runtime).programs_for(row.target)
                )
            except BuildError:
                continue
        return ()

    def _lent(self, recipe: Recipe) -> tuple[Toolchain | None, str]:
        """The first toolchain of `apart_with` that an image of this node has, and its digest; else (None, "")."""
        if self.lender is None:
            return None, ""
        for row in _others(recipe):
            with suppress(BuildError):
                return row, self.lender.lends(row)
        return None, ""

    def _locate(self, row: Toolchain, program: Program) -> Path:
        """The program, or the folder above it that holds its marker."""
        command = program.command
        if (place := _placed(row, program)) is not None:
            _require_needed(row, program, place)
            return place
        found = self.which(command)
        if not found:
            raise _unavailable(row, f"{command} is not on the PATH of this node", _install(program, row))
        path = _resolved(found)
        if not program.marker:
            return path
        root = above(path, program.marker)
        if root is None:
            raise _unavailable(row, _absent(row, program, path), _install(program, row))
        if program.version is not None:
            has = version_in(root / program.marker, program)
            if has != row.version:
                message = f"{command} on this node is {has or 'an unknown version'}, {row.version} is needed"
                raise _unavailable(row, message, _install(program, row))
        _require_needed(row, program, root)
        return root


def _others(recipe: Recipe) -> tuple[Toolchain, ...]:
    """The toolchains of `apart_with`; they make no artifact and have no base here."""
    return tuple(
        Toolchain(runtime=runtime, version=version, target="", name=f"{runtime}-{version}", base="")
        for runtime, version in recipe.apart_with
    )


def find_program(name: str) -> str | None:
    """A program beside this interpreter (the project's own environment), else on the PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    return beside if os.access(beside, os.X_OK) else shutil.which(name)


def shared_parts(row: Toolchain, recipe: Recipe) -> tuple[Part, ...]:
    """The folders beside a recipe: every provider mounts them. Raises `BuildError` ToolchainUnavailable."""
    parts = []
    for shared in recipe.folders:
        source = _resolved(os.path.join(recipe.folder, shared.path))
        if not source.is_dir():
            raise _unavailable(row, f"{source} is no folder", "install this package again, whole")
        parts.append(Part(name=f"sdk {shared.path}", source=source, dest=shared.mount, files=None))
    return tuple(parts)


def base_of(images: ImageStore, row: Toolchain) -> BaseImage | None:
    """The base image that artifacts are built on; None for a row whose artifacts have none.

    Raises `BuildError` ToolchainUnavailable where it is not there.
    """
    base = images.get(row.base) if row.base else None
    if row.base and base is None:
        raise base_lacks(row)
    return base


def base_lacks(row: Toolchain) -> BuildError:
    """The base image that artifacts are built on is not there."""
    return _unavailable(row, f"base image {row.base} is not on this node", f"ignite-builder runtimes fetch {row.name}")


def _require_needed(row: Toolchain, program: Program, root: Path) -> None:
    """Raise for a distribution that cannot build for the row's target."""
    needed = dict(program.needs).get(row.target, "")
    if needed and not (root / needed).exists():
        message = f"{program.command} {row.version} of this node has no {needed}, which target {row.target} needs"
        raise _unavailable(row, message, f"ignite-builder runtimes fetch {row.name}")


def _placed(row: Toolchain, program: Program) -> Path | None:
    """The first distribution of the row's version in the places that are looked at before the PATH."""
    for pattern in program.places:
        for folder in sorted(glob(os.path.expanduser(pattern))):
            marker = Path(folder, program.marker)
            if marker.is_file() and version_in(marker, program) == row.version:
                return _resolved(folder)
    return None


def _absent(row: Toolchain, program: Program, path: Path) -> str:
    """A program on the PATH that belongs to no distribution, such as the launcher of a version manager."""
    if not program.places:
        return f"{path} belongs to no distribution: no {program.marker} above it"
    return f"{row.runtime} {row.version} is neither in {' nor in '.join(program.places)} nor above {path}"


def _resolved(path: str) -> Path:
    return Path(os.path.realpath(path))


def version_in(marker: Path, program: Program) -> str:
    """The version that a program's marker names; empty when it names none."""
    return _first(marker, program.version) if program.version else ""


def _told(root: Path, program: Program) -> list[tuple[str, str]]:
    """The variables that a program's marker has values of."""
    found = [(name, _first(root / program.marker, pattern)) for name, pattern in program.env]
    return [(name, value) for name, value in found if value]


_found: Kept[str] = Kept()


def _first(file: Path, pattern: re.Pattern[str]) -> str:
    def read() -> str:
        with file.open("rb") as opened:
            text = opened.read(MOST_MARKER).decode("utf-8", "replace")
        found = pattern.search(text)
        return found[1] if found else ""

    path = os.fspath(file)
    return _found.get(path, (path, pattern), read)


def above(path: Path, marker: str) -> Path | None:
    """The nearest folder above `path` that has a file `marker`."""
    return next((up for up in path.parents if os.path.isfile(os.path.join(up, marker))), None)


def _unavailable(row: Toolchain, message: str, step: str) -> BuildError:
    return BuildError("ToolchainUnavailable", f"{row.name}: {message}", next=step)


def _install(program: Program, row: Toolchain) -> str:
    """Only a program with a version of its own must be the row's."""
    if program.install:
        return program.install
    wanted = f"{row.runtime} {row.version}, whole as its distribution unpacks it," if program.version else "it"
    return f"install {wanted} and put {program.command} on the PATH of this node"
