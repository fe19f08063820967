"""A packed source as a folder: what a node would unpack of it, for the time that it is looked at."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from builder import pipelines
from builder.cli.folder import FoundFolder
from builder.cli.pack import Packed
from builder.cli.safe import shown
from builder.errors import BuildError
from builder.plan import Detection
from builder.source.tree import DirTree
from builder.source.unpack import ArchiveLimits, unpack, write_single


@dataclass(frozen=True, kw_only=True)
class PlanSource:
    """What would be sent, unpacked: exactly the files that the build would see."""

    root: Path
    files: int
    size: int
    single_file: bool = False

    def detect(self, runtime: str, sub_path: str = "") -> Detection:
        """Which runtime. Raises `BuildError`."""
        return pipelines.detect(DirTree(self.root), runtime or None, sub_path=sub_path)


@contextlib.contextmanager
def opened(packed: Packed, runtime: str = "") -> Iterator[PlanSource]:
    """A packed source as a folder that is removed afterwards, as a node would unpack it. Raises `BuildError` for what
    cannot be a source."""
    with tempfile.TemporaryDirectory(prefix="ignite-plan-") as folder:
        root = Path(folder) / "src"
        if packed.folder is not None:
            _mirror(packed.folder, root)
            root = root / packed.folder.lifted
        elif packed.kind == "archive":
            archive = Path(folder) / "archive"
            with archive.open("wb") as file:
                file.writelines(packed.chunks())
            unpack(archive, root, ArchiveLimits())
        else:
            data = b"".join(packed.chunks())
            write_single(pipelines.single_file_name(packed.runtime(runtime) or None, data), data, root)
        files, size = _counted(root)
        yield PlanSource(root=root, files=files, size=size, single_file=packed.kind == "file")


def _counted(root: Path) -> tuple[int, int]:
    """(files and links, bytes of the files)."""
    files = size = 0
    for folder, folders, names in os.walk(root):
        for name in (*folders, *names):
            info = os.lstat(os.path.join(folder, name))
            files += not stat.S_ISDIR(info.st_mode)
            size += info.st_size if stat.S_ISREG(info.st_mode) else 0
    return files, size


def _mirror(found: FoundFolder, root: Path) -> None:
    """The entries that `build` would send. Files are linked where that is possible, else copied."""
    root.mkdir()
    for entry in found.entries:
        there = root / entry.path
        if entry.is_dir:
            there.mkdir()
        elif entry.link is not None:
            os.symlink(entry.link, there)
        else:
            try:
                os.link(found.root / entry.path, there)
            except OSError:
                _copy(found.root / entry.path, entry.path, there)


def _copy(source: Path, name: str, there: Path) -> None:
    """Raises `BuildError` InvalidRequest for a file that is gone since the folder was read, or became unreadable."""
    try:
        shutil.copy(source, there)
    except OSError as error:
        if os.access(source, os.R_OK):
            raise
        message = f"{shown(name)} cannot be read: {error.strerror}"
        raise BuildError(
            "InvalidRequest", message, where=shown(name), next="Build again once nothing changes the folder"
        ) from None
