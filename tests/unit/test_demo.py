"""What `make demo` shows on a machine: only what it can build."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.settings import Settings
from examples.demo import DEMO, go_versions, shown_here


def go_of(folder: Path, version: str) -> None:
    (folder / "go" / "bin").mkdir(parents=True)
    (folder / "go" / "VERSION").write_text(f"go{version}\n")
    program = folder / "go" / "bin" / "go"
    program.touch(mode=0o755)


@pytest.mark.parametrize(("version", "all_of_it"), [("1.26.8", True), ("1.24.1", True), ("1.23.3", False)])
def test_a_go_that_the_catalog_lacks_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, all_of_it: bool
) -> None:
    go_of(tmp_path, version)
    monkeypatch.setattr("builder.toolchains.host.find_program", lambda name: str(tmp_path / "go" / "bin" / "go"))
    found = shown_here(Settings(node_dir=str(tmp_path)))
    assert found == [one for one in DEMO if all_of_it or one[0].startswith("python-")]


def test_without_any_go_the_python_half_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.toolchains.host.find_program", lambda name: None)
    assert [name for name, _ in shown_here(Settings(node_dir=str(tmp_path)))] == ["python-hello", "python-numpy"]


def test_the_versions_it_names_are_the_catalogs() -> None:
    assert go_versions(Settings()) == ["1.24", "1.25", "1.26", "1.27"]
