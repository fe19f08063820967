"""`deploy/setup` on machines with one Go or another. What it would install is programs that do nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    *("redis-server", "bwrap", "mmdebstrap", "newuidmap", "docker-registry", "dockerd", "skopeo", "umoci", "prlimit"),
    *("xz", "git", "zsh", "fish", "initdb", "uv", "python3"),
)


def program(path: Path, script: str = "exit 0") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)


def setup_with_go(root: Path, version: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of it, as a user who cannot install, with this Go first on the PATH."""
    (root / "deploy").mkdir()
    (root / "runtimes").mkdir()
    shutil.copy(ROOT / "deploy" / "setup", root / "deploy")
    shutil.copy(ROOT / "runtimes" / "catalog.toml", root / "runtimes")
    for name in NEEDED:
        program(root / "bin" / name)
    program(root / "bin" / "id", "echo 1000")
    program(root / "bin" / "ldconfig", "echo libmagic.so.1")
    program(root / "bin" / "go", f"echo go{version}")
    program(root / ".venv" / "bin" / "python", f'echo "$@" >> {root}/compiled')
    env = {"PATH": f"{root / 'bin'}:{os.defpath}:/usr/bin:/bin"}
    return subprocess.run(
        [root / "deploy" / "setup"], env=env, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.parametrize("version", ["1.26.8", "1.24", "1.24.9", "1.27.0"])
def test_a_go_of_the_catalog_is_taken_as_it_is(tmp_path: Path, version: str) -> None:
    done = setup_with_go(tmp_path, version)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / ".venv" / "bin" / "go").exists()
    assert "compileall -q builder" in (tmp_path / "compiled").read_text()


@pytest.mark.parametrize("version", ["1.23.3", "1.28.0", "1.2", "1.19.8"])
def test_any_other_go_is_said_or_gives_way_to_debians(tmp_path: Path, version: str) -> None:
    done = setup_with_go(tmp_path, version)
    assert done.returncode == 0
    link = tmp_path / ".venv" / "bin" / "go"
    if link.is_symlink():  # this machine has Debian's in a version of the catalog
        assert str(link.readlink()) == "/usr/bin/go" and done.stderr == ""
    else:
        assert "no Go 1.24 or 1.25" in done.stderr and "runtimes fetch go" in done.stderr
