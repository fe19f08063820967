"""Every hostile archive is refused for its reason, in words that help, and nothing appears outside of `dest`."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.source.unpack import unpack
from builder.text import visible
from tests.source_archives import HOSTILE, NAMED, Hostile


@pytest.fixture
def fence(tmp_path: Path) -> Path:
    """`dest` three folders down, with bystanders that must not change."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "bystander").write_text("untouched")
    (tmp_path / "a" / "evil").write_text("untouched")
    return tmp_path


def outside(root: Path) -> dict[str, tuple[int, bytes]]:
    """All that is not below `dest`: path to (mode, content)."""
    found = {}
    for path in sorted(root.rglob("*")):
        if not path.is_relative_to(root / "a" / "b" / "dest"):
            found[str(path)] = (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
    return found


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    names = [(row.name, row.data[:2]) for row in HOSTILE]
    assert len(set(names)) == len(names) >= 150


@pytest.mark.parametrize("row", HOSTILE, ids=[f"{row.name}-{index}" for index, row in enumerate(HOSTILE)])
def test_a_hostile_archive_is_refused(row: Hostile, fence: Path) -> None:
    archive = fence / "archive"
    archive.write_bytes(row.data)
    before = outside(fence)
    with pytest.raises(BuildError) as caught:
        unpack(archive, fence / "a" / "b" / "dest", row.limits)
    error = caught.value
    assert (error.reason, row.says in error.message) == (row.reason, True), error
    assert outside(fence) == before
    assert (visible(error.message), visible(error.where)) == (error.message, error.where)
    for path in (fence / "a" / "b" / "dest").rglob("*"):  # which follows no link: only a link can lead out
        assert not path.is_symlink() or path.resolve().is_relative_to(fence / "a" / "b" / "dest")


@pytest.mark.parametrize("kind", ["name above", "name escape"])
def test_the_refusal_names_the_entry(kind: str, tmp_path: Path) -> None:
    names = {f"{kind}, {how}" for how in NAMED}
    rows = [row for row in HOSTILE if row.name in names]
    assert len(rows) == 7
    for index, row in enumerate(rows):
        archive = tmp_path / f"archive{index}"
        archive.write_bytes(row.data)
        with pytest.raises(BuildError) as caught:
            unpack(archive, tmp_path / f"dest{index}", row.limits)
        wanted = 'entry 2: "../evil"' if "above" in kind else 'entry 2: "a\\x1b[2Jb"'
        assert caught.value.where == wanted
