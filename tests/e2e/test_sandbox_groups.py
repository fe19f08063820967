"""Control groups v2 of the real kernel: who may hand down, where processes may live, how a group ends."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.sandbox import cgroups
from tests.sandbox_fixtures import limits, until

pytestmark = pytest.mark.e2e

TOPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
DOMAIN = ("memory", "hugetlb")  # controllers that keep to the rule against processes in inner folders


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder as a container or a delegated service is given it: not the real top, one controller handed down."""
    top = next((top for top in TOPS if (top / "cgroup.controllers").is_file() and os.access(top, os.W_OK)), None)
    listed = cgroups._words(top / "cgroup.controllers") if top else []
    name = next((name for name in DOMAIN if name in listed), None)
    if top is None or name is None:
        pytest.skip("no writable v2 hierarchy with a domain controller that v1 does not hold")
    before = cgroups._words(top / "cgroup.subtree_control")
    cgroups._write(top / "cgroup.subtree_control", f"+{name}")
    folder = top / f"ignite-test-{secrets.token_hex(4)}"
    folder.mkdir()
    monkeypatch.setattr(cgroups, "CONTROLLERS", (name,))
    monkeypatch.setattr(cgroups, "REQUIRED", (name,))
    monkeypatch.setattr(cgroups, "_limit_files", lambda version, limits: ())
    try:
        yield folder, name
    finally:
        cgroups._remove(folder / cgroups.LEAF)
        cgroups._remove(folder)
        if name not in before:
            cgroups._write(top / "cgroup.subtree_control", f"-{name}")


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["/bin/sleep", "600"])
    yield process.pid
    process.kill()
    process.wait()


def group_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines()
    return next(line[3:] for line in lines if line.startswith("0::"))


def test_the_kernel_refuses_a_folder_with_processes_and_takes_it_once_they_are_in_a_leaf(
    box: tuple[Path, str], sleeper: int
) -> None:
    folder, name = box
    cgroups._write(folder / "cgroup.procs", str(sleeper))
    with pytest.raises(OSError, match="busy"):
        cgroups._write(folder / "cgroup.subtree_control", f"+{name}")
    found = cgroups.find("0::/\n", folder, lambda *_: True)
    assert found is not None
    assert (found.version, dict(found.parents)) == (2, {name: folder})
    assert group_of(sleeper).endswith(f"/{folder.name}/{cgroups.LEAF}")
    assert (folder / "cgroup.type").read_text().strip() == "domain"
    assert cgroups._words(folder / "cgroup.subtree_control") == [name]


@pytest.mark.parametrize("at_once", [True, False], ids=["cgroup.kill", "one by one"])
def test_a_group_ends_with_everything_in_it(
    box: tuple[Path, str], sleeper: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, name = box
    found = cgroups.find("0::/\n", folder, lambda *_: True)
    assert found is not None
    parents = {"memory": folder, "pids": folder, name: folder}
    group = cgroups.Group(cgroups.Hierarchy(version=2, parents=parents), limits(), "ignite-one")
    assert (folder / "ignite-one" / f"{name}.events").exists() or list((folder / "ignite-one").glob(f"{name}.*"))
    group.add(sleeper)
    assert group.pids() == (sleeper,)
    if not at_once:
        real = cgroups._write

        def without_kill(file: Path, value: str) -> None:
            if file.name == "cgroup.kill":
                raise FileNotFoundError(file)
            real(file, value)

        monkeypatch.setattr(cgroups, "_write", without_kill)
    group.close()
    assert not (folder / "ignite-one").exists()
    assert until(lambda: Path(f"/proc/{sleeper}/stat").read_text(encoding="utf-8").split()[2] == "Z")
