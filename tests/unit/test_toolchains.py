"""What toolchain.toml says is what a step gets: mounts, digests and folders of the PATH. No code names a runtime's."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder.data import runtimes_dir
from builder.plan import Toolchain
from builder.toolchains.host import Toolchains

RECIPE = """\
rootfs = ""
[[program]]
command = "zig"
marker = "VERSION"
version = "zig(\\\\d+)"
mount = "/opt/ignite/toolchain/zig"
digest = ["VERSION"]
"""


@pytest.mark.parametrize(
    ("line", "path"), [('path = "bin"\n', ("/opt/ignite/toolchain/zig/bin",)), ("", ())], ids=["on the PATH", "not"]
)
def test_a_program_may_join_the_path(tmp_path: Path, line: str, path: tuple[str, ...]) -> None:
    (tmp_path / "runtimes/zig").mkdir(parents=True)
    (tmp_path / "runtimes/zig/toolchain.toml").write_text(RECIPE + line)
    (tmp_path / "zig/bin").mkdir(parents=True)
    (tmp_path / "zig/bin/zig").write_text("")
    (tmp_path / "zig/VERSION").write_text("zig1")
    bases: Any = SimpleNamespace(get=lambda name: SimpleNamespace(digest="sha256:" + "0" * 64))
    here = Toolchains(
        folders=(tmp_path / "runtimes",),
        node_dir=tmp_path / "node",
        bases=cast("Any", bases),
        which=lambda name: str(tmp_path / "zig/bin/zig"),
    )
    found = here.find(Toolchain(runtime="zig", version="1", target="", name="zig-1", base="zig"))
    assert found.path == path
    assert [mount.dest for mount in found.root.mounts] == ["/opt/ignite/toolchain/zig"]
    assert set(found.digests) == {"base", "zig"}


def test_go_finds_its_own_tools_on_the_path() -> None:
    assert 'path = "bin"' in (runtimes_dir() / "go/toolchain.toml").read_text()
