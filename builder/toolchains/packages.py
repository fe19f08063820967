"""Toolchains out of package registries: one file of a package, fetched ahead of builds and verified by its digest.

A build fetches none. `fetch` is what prepares a node.
"""

from __future__ import annotations

import base64
import binascii
import errno
import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

from builder.errors import BuildError, PlatformError
from builder.plan import Toolchain
from builder.sandbox.policy import DEFAULT_PORTS, bypasses
from builder.settings import Settings, without_credentials
from builder.toolchains.placing import file_of, placing
from builder.toolchains.recipe import NpmPackage, read_recipe

CHUNK = 1 << 20
PACKAGE_LIMIT = 512 * 1024 * 1024
FILE_LIMIT = 1024 * 1024 * 1024
"""The one file that is wanted has no more, unpacked; deno has 130 MiB."""
SILENCE_S = 60.0


def can_fetch(folders: tuple[Path, ...], row: Toolchain) -> bool:
    """Whether packages are all that a toolchain is made of, and a release of each is known for the row."""
    recipe = read_recipe(folders, row.runtime)
    return not recipe.programs and bool(recipe.packages) and all(row.version in one.releases for one in recipe.packages)


def fetch(
    folders: tuple[Path, ...],
    store: Path,
    row: Toolchain,
    settings: Settings,
    progress: Callable[[str], None] = lambda line: None,
) -> None:
    """Have the packages of a row in `store`, by the bundle, the proxy and the registries of the settings.

    Raises `BuildError` ToolchainUnavailable, InvalidRequest for a bundle that is none; `PlatformError`
    PackageIndexUnavailable, NodeDiskFull.
    """
    for package in read_recipe(folders, row.runtime).packages:
        file = file_of(store, row, package)
        if not file.is_file():
            progress(f"fetching {package.name} {package.releases[row.version][0]}")
            _fetch(file, row, package, settings)


def _fetch(file: Path, row: Toolchain, package: NpmPackage, settings: Settings) -> None:
    release, integrity = package.releases[row.version]
    base = (settings.index_env.get(package.setting) or package.registry).rstrip("/")
    path = f"{package.name}/-/{package.name.rpartition('/')[2]}-{release}.tgz"
    with placing(file) as (partial, made):
        archive = partial / "archive"
        _download(base, path, archive, integrity, settings)
        _extract(archive, package, made)


def _download(base: str, path: str, into: Path, integrity: str, settings: Settings) -> None:
    import httpx

    from builder.tls import new_client  # nothing else of a process that only builds needs them

    shown = f"{without_credentials(base)}/{path}"
    algorithm, _, wanted = integrity.partition("-")
    hasher, size = hashlib.new(algorithm), 0
    headers = {"user-agent": "ignite-builder", "accept-encoding": "identity"}
    try:
        asked = httpx.URL(f"{base}/{path}")
        bypassed = bypasses(asked.host, asked.port or DEFAULT_PORTS.get(asked.scheme, 0), settings.no_proxy)
        proxy = "" if bypassed else settings.upstream_proxy
        with (
            new_client(ca_bundle=settings.ca_bundle, proxy=proxy, timeout=httpx.Timeout(SILENCE_S)) as client,
            client.stream("GET", asked, headers=headers, follow_redirects=True) as answer,
            into.open("wb") as out,
        ):
            if answer.status_code != httpx.codes.OK:
                raise PlatformError("PackageIndexUnavailable", f"{shown} is answered with {answer.status_code}")
            for chunk in answer.iter_raw(CHUNK):
                size += len(chunk)
                if size > PACKAGE_LIMIT:
                    raise PlatformError("PackageIndexUnavailable", f"{shown} is larger than {PACKAGE_LIMIT} bytes")
                hasher.update(chunk)
                out.write(chunk)
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError("NodeDiskFull", f"{shown} cannot be stored: the disk of this node is full") from None
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise PlatformError("PackageIndexUnavailable", f"{shown} is not to be had: {said}") from None
    if hasher.digest() != _decoded(wanted):
        found = base64.b64encode(hasher.digest()).decode()
        message = f"{shown} has the digest {algorithm}-{found}, not {integrity}"
        raise PlatformError("PackageIndexUnavailable", message)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""


def _extract(archive: Path, package: NpmPackage, into: Path) -> None:
    """The one file of the archive that is wanted; nothing else of it is written. Raises `BuildError`
    ToolchainUnavailable, `PlatformError` NodeDiskFull."""
    try:
        with tarfile.open(archive, mode="r:gz") as tar:
            try:
                source = tar.extractfile(package.file)
            except KeyError:
                source = None
            if source is None:
                message = f"{package.name} has no file {package.file}"
                raise BuildError("ToolchainUnavailable", message)
            with source, into.open("wb") as out:
                left = FILE_LIMIT
                while chunk := source.read(CHUNK):
                    left -= len(chunk)
                    if left < 0:
                        message = f"{package.file} of {package.name} is larger than {FILE_LIMIT} bytes"
                        raise BuildError("ToolchainUnavailable", message)
                    out.write(chunk)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError) as error:
        said = str(error)[:200]
        raise BuildError("ToolchainUnavailable", f"{package.name} is no package of npm: {said}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        message = f"{package.name} cannot be stored: the disk of this node is full"
        raise PlatformError("NodeDiskFull", message) from None
    os.chmod(into, 0o755)
