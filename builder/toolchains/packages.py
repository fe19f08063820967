"""Toolchains out of package registries: one file of a package, fetched ahead of builds and verified by its digest.

A build fetches none. `fetch` is what prepares a node.
"""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builder.errors import BuildError, PlatformError
from builder.plan import Toolchain
from builder.toolchains.recipe import NpmPackage, read_recipe

if TYPE_CHECKING:
    from http.client import HTTPResponse

CHUNK = 1 << 20
PACKAGE_LIMIT = 512 * 1024 * 1024
SILENCE_S = 60.0


def file_of(store: Path, row: Toolchain, package: NpmPackage) -> Path:
    """Where the file of a row's package is, or will be. Its name holds the digest that it was verified by.

    Raises `BuildError` ToolchainUnavailable for a version that the recipe does not name.
    """
    if row.version not in package.releases:
        raise BuildError("ToolchainUnavailable", f"{row.name}: its toolchain.toml has no release of {row.version}")
    release, integrity = package.releases[row.version]
    mark = hashlib.sha256(f"{package.name} {package.file} {integrity}".encode()).hexdigest()[:16]
    return store / f"{row.runtime}-{release}-{mark}" / package.file.rpartition("/")[2]


def can_fetch(folders: tuple[Path, ...], row: Toolchain) -> bool:
    """Whether packages are all that a toolchain is made of, and a release of each is known for the row."""
    recipe = read_recipe(folders, row.runtime)
    return not recipe.programs and bool(recipe.packages) and all(row.version in one.releases for one in recipe.packages)


def fetch(
    folders: tuple[Path, ...],
    store: Path,
    row: Toolchain,
    settings: Mapping[str, str],
    ca_bundle: str,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Have the packages of a row in `store`. `settings` are the operator's index settings.

    Raises `BuildError` ToolchainUnavailable, `PlatformError` PackageIndexUnavailable.
    """
    for package in read_recipe(folders, row.runtime).packages:
        file = file_of(store, row, package)
        if not file.is_file():
            progress(f"fetching {package.name} {package.releases[row.version][0]}")
            _fetch(file, row, package, settings, ca_bundle)


def _fetch(file: Path, row: Toolchain, package: NpmPackage, settings: Mapping[str, str], ca_bundle: str) -> None:
    release, integrity = package.releases[row.version]
    base = (settings.get(package.setting) or package.registry).rstrip("/")
    url = f"{base}/{package.name}/-/{package.name.rpartition('/')[2]}-{release}.tgz"
    with placing(file) as (partial, made):
        archive = partial / "archive"
        _download(url, archive, integrity, ca_bundle)
        _extract(archive, package, made)


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


def _download(url: str, into: Path, integrity: str, ca_bundle: str) -> None:
    import http.client
    import ssl
    import urllib.request  # nothing else of a node needs them

    algorithm, _, wanted = integrity.partition("-")
    hasher, size = hashlib.new(algorithm), 0
    context = ssl.create_default_context(cafile=ca_bundle or None)
    request = urllib.request.Request(url, headers={"User-Agent": "ignite-builder"})
    try:
        answer: HTTPResponse
        with urllib.request.urlopen(request, timeout=SILENCE_S, context=context) as answer, into.open("wb") as out:
            while chunk := answer.read(CHUNK):
                size += len(chunk)
                if size > PACKAGE_LIMIT:
                    raise PlatformError("PackageIndexUnavailable", f"{url} is larger than {PACKAGE_LIMIT} bytes")
                hasher.update(chunk)
                out.write(chunk)
    except (OSError, http.client.HTTPException) as error:  # URLError, HTTPError and a connection that broke off
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError("NodeDiskFull", f"{url} cannot be stored: the disk of this node is full") from None
        raise PlatformError("PackageIndexUnavailable", f"{url} is not to be had: {error}") from None
    if hasher.digest() != _decoded(wanted):
        found = base64.b64encode(hasher.digest()).decode()
        message = f"{url} has the digest {algorithm}-{found}, not {integrity}"
        raise PlatformError("PackageIndexUnavailable", message)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _extract(archive: Path, package: NpmPackage, into: Path) -> None:
    """The one file of the archive that is wanted; nothing else of it is written."""
    with tarfile.open(archive, mode="r:gz") as tar:
        try:
            source = tar.extractfile(package.file)
        except KeyError:
            source = None
        if source is None:
            message = f"{package.name} has no file {package.file}"
            raise BuildError("ToolchainUnavailable", message)
        with source, into.open("wb") as out:
            while chunk := source.read(CHUNK):
                out.write(chunk)
    os.chmod(into, 0o755)
