"""Where the files of fetched packages are on this machine, and how one comes there whole."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from builder.errors import BuildError
from builder.plan import Toolchain
from builder.toolchains.recipe import NpmPackage


def file_of(store: Path, row: Toolchain, package: NpmPackage) -> Path:
    """Where the file of a row's package is, or will be. Its name holds the digest that it was verified by.

    Raises `BuildError` ToolchainUnavailable for a version that the recipe does not name.
    """
    if row.version not in package.releases:
        raise BuildError("ToolchainUnavailable", f"{row.name}: its toolchain.toml has no release of {row.version}")
    release, integrity = package.releases[row.version]
    mark = hashlib.sha256(f"{package.name} {package.file} {integrity}".encode()).hexdigest()[:16]
    return store / f"{row.runtime}-{release}-{mark}" / package.file.rpartition("/")[2]


@contextmanager
def placing(file: Path) -> Iterator[tuple[Path, Path]]:
    """(a folder to work in, where the file is to be made): when the block ends, the file's folder is there at once, for
    every user. Another process may be first."""
    store = file.parent.parent
    store.mkdir(parents=True, exist_ok=True)
    store.chmod(0o755)  # whatever the umask: the build user passes
    with tempfile.TemporaryDirectory(dir=store, prefix=".partial-") as partial:
        made = Path(partial, "files")
        made.mkdir()
        yield Path(partial), made / file.name
        made.chmod(0o755)
        try:
            made.rename(file.parent)
        except OSError:
            if not file.is_file():
                raise
