"""Toolchains out of the host's own programs, as `runtimes/<runtime>/toolchain.toml` describes them."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError
from builder.images.store import ImageStore
from builder.plan import Toolchain
from builder.sandbox import Mount, Root
from builder.toolchains.provider import Found, Part, Provided
from builder.toolchains.recipe import Program, read_recipe

ASK_S = 20


@dataclass(frozen=True, kw_only=True)
class HostProvider:
    """Looks programs up on this machine.

    `folders` are searched in order for `<runtime>/toolchain.toml`. A program below a folder that the build user cannot
    enter (a person's home) is copied once into `copies`.
    """

    folders: tuple[Path, ...]
    copies: Path
    images: ImageStore
    which: Callable[[str], str | None]

    def find(self, row: Toolchain) -> Found:
        """See `Provider.find`."""
        recipe = read_recipe(self.folders, row.runtime)
        base = self.images.get(row.base)
        if base is None:
            step = f"ignite-builder bases build {row.base}"
            raise _unavailable(row, f"base image {row.base} is not on this node", step)
        root = self.images.get(recipe.root) if recipe.root else base
        if root is None:
            step = f"ignite-builder bases build {recipe.root}"
            raise _unavailable(row, f"image {recipe.root} is not on this node", step)
        parts = []
        for program in recipe.programs:
            source, name = self._locate(row, program), program.command
            files, content = program.digest, program.content
            parts.append(Part(name=name, source=source, dest=program.mount, files=files, content=content))
        for shared in recipe.folders:
            source = _resolved(os.path.join(recipe.folder, shared.path))
            if not source.is_dir():
                raise _unavailable(row, f"{source} is no folder", "install this package again, whole")
            parts.append(Part(name=f"sdk {shared.path}", source=source, dest=shared.mount, files=None))
        return Found(
            row=row,
            base=base,
            root=root.digest if recipe.root or recipe.base_is_root else "",
            parts=tuple(parts),
            path=tuple(f"{program.mount}/{program.path}" for program in recipe.programs if program.path),
            indexes=recipe.indexes,
        )

    def has(self, row: Toolchain) -> bool:
        """See `Provider.has`."""
        try:
            for program in read_recipe(self.folders, row.runtime).programs:
                self._locate(row, program)
        except BuildError:
            return False
        return True

    def provide(self, found: Found) -> Provided:
        """See `Provider.provide`."""
        digests = found.digests()
        mounts: list[Mount] = []
        for part in found.parts:
            source = self._reachable(found.row, part, digests[part.name])
            mounts.append(Mount(source=source, dest=part.dest))
            mounts += _linked(source, part.dest)
        rootfs = self.images.rootfs(found.root) if found.root else None
        return Provided(
            root=Root(rootfs=rootfs, mounts=tuple(mounts)),
            base=found.base,
            digests=digests,
            path=found.path,
            indexes=found.indexes,
        )

    def _locate(self, row: Toolchain, program: Program) -> Path:
        """The program, or the folder above it that holds its marker."""
        command = program.command
        found = self.which(command)
        if not found:
            raise _unavailable(row, f"{command} is not on the PATH of this node", _install(program, row))
        path = Path(_asked(found, program.ask), "bin", command) if program.ask else _resolved(found)
        if not program.marker:
            return path
        root = _above(path, program.marker)
        if root is None:
            raise _unavailable(row, f"no {program.marker} above {path}", _install(program, row))
        if program.version is not None:
            text = (root / program.marker).read_text(encoding="utf-8", errors="replace")
            version = program.version.search(text)
            if not version or version[1] != row.version:
                has = version[1] if version else "an unknown version"
                message = f"{command} on this node is {has}, {row.version} is needed"
                raise _unavailable(row, message, _install(program, row))
        return root

    def _reachable(self, row: Toolchain, part: Part, digest: str) -> Path:
        """The part, or a copy that the build user can enter. A copy is named by the digest that joins the build key."""
        if os.geteuid() != 0 or all(_others_may_enter(up) for up in part.source.parents):
            return part.source
        copy = self.copies / f"{row.runtime}-{digest.removeprefix('sha256:')[:32]}"
        if copy.exists():
            return copy
        self.copies.mkdir(parents=True, exist_ok=True)
        self.copies.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=self.copies, prefix=".partial-") as folder:
            partial = Path(folder) / part.source.name
            if part.source.is_dir():
                shutil.copytree(part.source, partial, symlinks=True, ignore=_other_than(part))
            else:
                shutil.copy2(part.source, partial)
            if Part(name=part.name, source=partial, dest=part.dest, files=part.files).digest != digest:
                step = "build again, when nothing writes to it any more"
                raise _unavailable(row, f"{part.source} changed while it was copied", step)
            try:
                partial.rename(copy)
            except OSError:
                if not copy.exists():  # else another process was first
                    raise
        return copy


@functools.cache
def _asked(command: str, arguments: tuple[str, ...]) -> str:
    """The folder that a shim prints; the shim's own folder where it prints none. Once for each process."""
    try:
        done = subprocess.run((command, *arguments), cwd="/", capture_output=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return os.path.dirname(command)
    return done.stdout.decode("utf-8", "replace").strip() or os.path.dirname(command)


def _other_than(part: Part) -> Callable[[str, list[str]], list[str]]:
    """What of the top of a distribution no step needs: documentation is most of some."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        top = bool(part.content) and folder == str(part.source)
        return [name for name in names if top and name not in part.content]

    return ignored


def find_program(name: str) -> str | None:
    """A program beside this interpreter (the project's own environment), else on the PATH."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    return beside if os.access(beside, os.X_OK) else shutil.which(name)


def _linked(source: Path, dest: str) -> Iterator[Mount]:
    """Where links near the top of a distribution lead outside it, mounted where they lead from `dest`.

    Debian separates a distribution's data: /usr/lib/go-1.24/src is a link to ../../share/go-1.24/src.
    """
    if not source.is_dir():
        return
    for link in sorted((*source.glob("*"), *source.glob("*/*"))):
        if link.is_symlink() and not link.resolve().is_relative_to(source) and link.exists():
            place = os.path.normpath(Path(dest) / link.relative_to(source).parent / os.readlink(link))
            yield Mount(source=link.resolve(), dest=place)


def _resolved(path: str) -> Path:
    return Path(os.path.realpath(path))


def _above(path: Path, marker: str) -> Path | None:
    """The nearest folder above `path` that has a file `marker`."""
    return next((up for up in path.parents if os.path.isfile(os.path.join(up, marker))), None)


def _unavailable(row: Toolchain, message: str, step: str) -> BuildError:
    return BuildError("ToolchainUnavailable", f"{row.name}: {message}", next=step)


def _install(program: Program, row: Toolchain) -> str:
    """Only a program with a version of its own must be the row's."""
    wanted = f"{row.runtime} {row.version}, whole as its distribution unpacks it," if program.version else "it"
    return f"install {wanted} and put {program.command} on the PATH of this node"


def _others_may_enter(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)
