"""The bytecode of a base image, compiled by its own interpreter: another's would not load.

The interpreter sees the image read-only and one empty folder; it has no network and no process of the host's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from builder.bases.debian import Run, must
from builder.bases.recipe import Bytecode
from builder.errors import PlatformError

OUT = "/out"
NOBODY = "65534"
# The order of what is hashed must not reach the bytes, nor may the machine's zone, language or search path.
ENVIRONMENT = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "TZ": "UTC"}


def compile_bytecode(rootfs: Path, bytecode: Bytecode, out: Path, run: Run) -> None:
    """Compile the recipe's folders and add what comes out to `rootfs`; `out` is made for it.

    Raises `BuildError` ToolchainUnavailable without bubblewrap, `PlatformError` Internal when the script fails.
    """
    out.mkdir()
    argv = [f"/{bytecode.program}", "-s", "-S", "-P", "-B", "-c", bytecode.script, OUT]
    must([*_bwrap(rootfs, out), *argv, *(f"/{folder}" for folder in bytecode.folders)], None, run)
    if not any(out.iterdir()):
        raise PlatformError("Internal", f"{bytecode.program} compiled nothing of {', '.join(bytecode.folders)}")
    shutil.copytree(out, rootfs, symlinks=True, dirs_exist_ok=True)


def _bwrap(rootfs: Path, out: Path) -> Iterator[str]:
    """The top of the root is mounted entry by entry: a read-only `/` would have no place for /out, /proc and /dev."""
    yield from ("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
    yield from ("--uid", NOBODY, "--gid", NOBODY, "--clearenv")
    for name, value in ENVIRONMENT.items():
        yield from ("--setenv", name, value)
    for entry in sorted(rootfs.iterdir()):
        if entry.is_symlink():
            yield from ("--symlink", os.readlink(entry), f"/{entry.name}")
        else:
            yield from ("--ro-bind", str(entry), f"/{entry.name}")
    yield from ("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--bind", str(out), OUT, "--")
