"""Parts of a toolchain as mounts of a sandbox: from where they are, or from a copy that the build user can enter."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError
from builder.plan import Toolchain
from builder.sandbox import Mount
from builder.toolchains.provider import Part


@dataclass(frozen=True)
class Copies:
    """The folder of a node with copies of what lies below a folder that the build user cannot enter (a person's home).

    A copy is named by the digest that joins the build key.
    """

    folder: Path

    def mounts(self, row: Toolchain, parts: tuple[Part, ...], digests: Mapping[str, str]) -> tuple[Mount, ...]:
        """Every part where a step finds it. Raises `BuildError` ToolchainUnavailable for one that changes meanwhile."""
        mounts: list[Mount] = []
        for part in parts:
            source = self._reachable(row, part, digests[part.name])
            mounts.append(Mount(source=source, dest=part.dest))
            mounts += linked(source, part.dest)
        return tuple(mounts)

    def _reachable(self, row: Toolchain, part: Part, digest: str) -> Path:
        if os.geteuid() != 0 or all(_others_may_enter(up) for up in part.source.parents):
            return part.source
        copy = self.folder / f"{row.runtime}-{digest.removeprefix('sha256:')[:32]}"
        if copy.exists():
            return copy
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=".partial-") as folder:
            partial = Path(folder) / part.source.name
            if part.source.is_dir():
                shutil.copytree(part.source, partial, symlinks=True, ignore=_other_than(part))
            else:
                shutil.copy2(part.source, partial)
            if Part(name=part.name, source=partial, dest=part.dest, files=part.files).digest != digest:
                message = f"{row.name}: {part.source} changed while it was copied"
                step = "build again, when nothing writes to it any more"
                raise BuildError("ToolchainUnavailable", message, next=step)
            try:
                partial.rename(copy)
            except OSError:
                if not copy.exists():  # else another process was first
                    raise
        return copy


def _other_than(part: Part) -> Callable[[str, list[str]], list[str]]:
    """What of the top of a distribution no step needs: documentation is most of some."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        top = bool(part.content) and folder == str(part.source)
        return [name for name in names if top and name not in part.content]

    return ignored


def linked(source: Path, dest: str) -> Iterator[Mount]:
    """Where links near the top of a distribution lead outside it, mounted where they lead from `dest`.

    Debian separates a distribution's data: /usr/lib/go-1.24/src is a link to ../../share/go-1.24/src.
    """
    if not source.is_dir():
        return
    for link in links(source):
        if not link.resolve().is_relative_to(source) and link.exists():
            place = os.path.normpath(Path(dest) / link.relative_to(source).parent / os.readlink(link))
            yield Mount(source=link.resolve(), dest=place)


def links(folder: Path, enters: Callable[[str], bool] = os.path.isdir) -> list[Path]:
    """The links in a folder and in the folders right in it, sorted. A distribution has hundreds of other files there,
    and each build asks: no path is made of those, and none is looked at by itself.

    `enters`: whether what a link leads to is such a folder.
    """
    return sorted(Path(each) for each in _links(str(folder), enters))


def _links(folder: str, enters: Callable[[str], bool] | None) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except PermissionError:
        return
    for entry in entries:
        is_link = entry.is_symlink()
        if is_link:
            yield entry.path
        if enters and (enters(entry.path) if is_link else entry.is_dir()):  # a link may lead to itself
            yield from _links(entry.path, None)


def _others_may_enter(folder: Path) -> bool:
    return bool(folder.stat().st_mode & stat.S_IXOTH)
