"""The toolchains of this node: what it can build, where the sandbox finds it, and the digests that join the build key.

Data, not code: `runtimes/<runtime>/toolchain.toml` says which programs and folders are mounted where and whether the
base image is the root. A program in a folder that the build user cannot enter (somebody's home) is copied once into
the node's own folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder import indexes
from builder.bases.base import BaseStore
from builder.config import Settings
from builder.data import catalog_file, runtimes_dir
from builder.errors import BuildError
from builder.images.image import BaseImage
from builder.indexes import Indexes
from builder.plan import Toolchain
from builder.sandbox import Mount, Root


@dataclass(frozen=True, kw_only=True)
class Provided:
    """A toolchain as this node has it: the composed root, the digests of everything that compiles, and its base."""

    base: BaseImage
    """The image that the output is put on."""
    root: Root
    digests: Mapping[str, str]
    path: tuple[str, ...] = ()
    """Folders of the sandbox that join the PATH of its steps."""
    indexes: Indexes = field(default_factory=Indexes)
    """The package indexes that its fetch steps reach."""


@dataclass(frozen=True, kw_only=True)
class Toolchains:
    """Looks toolchains up on this node. `folders` are searched in order for `<runtime>/toolchain.toml`."""

    folders: tuple[Path, ...]
    node_dir: Path
    bases: BaseStore
    which: Callable[[str], str | None]

    def find(self, row: Toolchain) -> Provided:
        """Raises `BuildError` ToolchainUnavailable that names what is missing."""
        recipe, folder = self._recipe(row.runtime)
        base = self.bases.get(row.base)
        if base is None:
            step = f"ignite-builder bases build {row.base}"
            raise _unavailable(row, f"base image {row.base} is not on this node", step)
        mounts: list[Mount] = []
        path: list[str] = []
        digests = {"base": base.digest}
        for program in recipe.get("program", ()):
            source, digest = self._program(row, program)
            mounts.append(Mount(source=source, dest=program["mount"]))
            mounts += _linked(source, program["mount"])
            digests[program["command"]] = digest
            if "path" in program:
                path.append(f"{program['mount']}/{program['path']}")
        for shared in recipe.get("folder", ()):
            source = self._reachable((folder / shared["path"]).resolve(), "sdk-" + row.runtime)
            mounts.append(Mount(source=source, dest=shared["mount"]))
            digests["sdk " + shared["path"]] = _digest_of_files(source, tuple(_files_below(source)))
        rootfs = self.bases.rootfs(row.base) if recipe.get("rootfs") == "base" else None
        return Provided(
            base=base,
            root=Root(rootfs=rootfs, mounts=tuple(mounts)),
            digests=digests,
            path=tuple(path),
            indexes=indexes.read(recipe),
        )

    def has(self, row: Toolchain) -> bool:
        """Whether every program of this toolchain is here, in its version. Cheaper than `find`."""
        try:
            for program in self._recipe(row.runtime)[0].get("program", ()):
                self._locate(row, program)
        except BuildError:
            return False
        return True

    def available(self, rows: tuple[Toolchain, ...]) -> dict[str, str]:
        """Toolchain name → one digest over everything, for the rows this node can build."""
        found = {}
        for row in rows:
            try:
                parts = self.find(row).digests
            except BuildError:
                continue
            lines = "".join(f"{name}={digest}\n" for name, digest in sorted(parts.items()))
            found[row.name] = "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
        return found

    def _recipe(self, runtime: str) -> tuple[dict[str, Any], Path]:
        for folder in self.folders:
            path = folder / runtime / "toolchain.toml"
            if path.is_file():
                return tomllib.loads(path.read_text(encoding="utf-8")), path.parent
        raise BuildError("ToolchainUnavailable", f"there is no runtimes/{runtime}/toolchain.toml")

    def _program(self, row: Toolchain, program: Mapping[str, Any]) -> tuple[Path, str]:
        """(what to mount, digest of what compiles)."""
        path = self._locate(row, program)
        digest = _digest_of_files(*((path, tuple(program["digest"])) if path.is_dir() else (path.parent, (path.name,))))
        return self._reachable(path, program["command"]), digest

    def _locate(self, row: Toolchain, program: Mapping[str, Any]) -> Path:
        """The program, or the folder above it that holds its marker."""
        command = program["command"]
        found = self.which(command)
        if not found:
            raise _unavailable(row, f"{command} is not on the PATH of this node", _install(program, row))
        path = Path(found).resolve()
        if "marker" not in program:
            return path
        root = next((up for up in path.parents if (up / program["marker"]).is_file()), None)
        if root is None:
            raise _unavailable(row, f"no {program['marker']} above {path}", _install(program, row))
        version = re.search(program["version"], (root / program["marker"]).read_text(encoding="utf-8"))
        if not version or version[1] != row.version:
            has = version[1] if version else "an unknown version"
            message = f"{command} on this node is {has}, {row.version} is needed"
            raise _unavailable(row, message, _install(program, row))
        return root

    def _reachable(self, path: Path, name: str) -> Path:
        """`path`, or a copy that the build user can enter; copies are named by size and time of the original."""
        if os.geteuid() != 0 or all(_others_may_enter(up) for up in path.parents):
            return path
        info = path.stat()
        copy = self.node_dir / "toolchains" / f"{name}-{info.st_size}-{info.st_mtime_ns}-{_tree_stamp(path)}"
        if not copy.exists():
            partial = copy.with_name(f"{copy.name}.{os.getpid()}.partial")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.parent.chmod(0o755)
            if path.is_dir():
                shutil.copytree(path, partial, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(path, partial)
            try:
                partial.rename(copy)
            except OSError:  # another process was first
                shutil.rmtree(partial, ignore_errors=True)
        return copy


def toolchains_of(settings: Settings) -> Toolchains:
    """The toolchains of the machine this runs on. A catalog of one's own has its runtimes beside it."""
    folder = Path(settings.node_dir)
    return Toolchains(
        folders=(catalog_file(settings.catalog).parent, runtimes_dir()),
        node_dir=folder,
        bases=BaseStore(folder / "bases"),
        which=find_program,
    )


def find_program(name: str) -> str | None:
    """A program beside this interpreter (the project's own environment), else on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def _linked(source: Path, dest: str) -> Iterator[Mount]:
    """What links near the top of a distribution lead to outside it, mounted where they lead from `dest`.

    Debian keeps a distribution's data apart: /usr/lib/go-1.24/src is a link to ../../share/go-1.24/src.
    """
    if not source.is_dir():
        return
    for link in sorted((*source.glob("*"), *source.glob("*/*"))):
        if link.is_symlink() and not link.resolve().is_relative_to(source) and link.exists():
            place = os.path.normpath(Path(dest) / link.relative_to(source).parent / os.readlink(link))
            yield Mount(source=link.resolve(), dest=place)


def _unavailable(row: Toolchain, message: str, step: str) -> BuildError:
    return BuildError("ToolchainUnavailable", f"{row.name}: {message}", next=step)


def _install(program: Mapping[str, Any], row: Toolchain) -> str:
    """Only a program with a version of its own has to be the row's."""
    wanted = f"{row.runtime} {row.version}, whole as its distribution unpacks it," if "version" in program else "it"
    return f"install {wanted} and put {program['command']} on the PATH of this node"


def _others_may_enter(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)


def _files_below(root: Path) -> list[str]:
    files = (path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sorted(path.relative_to(root).as_posix() for path in files)


def _tree_stamp(path: Path) -> str:
    """Names a copy by its content for small trees (an SDK changes while it is developed), else by nothing more."""
    if path.is_file():
        return "file"
    files = _files_below(path)
    return _digest_of_files(path, tuple(files))[7:19] if len(files) < 500 else "tree"


_digests: dict[tuple[str, tuple[str, ...], int], str] = {}


def _digest_of_files(root: Path, names: tuple[str, ...]) -> str:
    """sha256 over names and contents; remembered while sizes and times stay, since a compiler is 20 MB."""
    present = [(name, root / name) for name in names if (root / name).is_file()]
    stamp = hash(tuple((name, path.stat().st_mtime_ns, path.stat().st_size) for name, path in present))
    key = (str(root), names, stamp)
    if key not in _digests:
        hasher = hashlib.sha256()
        for name, path in present:
            data = path.read_bytes()
            hasher.update(f"{len(name)}:{name}:{len(data)}:".encode() + data)
        _digests[key] = "sha256:" + hasher.hexdigest()
    return _digests[key]
