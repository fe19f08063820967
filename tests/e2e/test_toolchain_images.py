"""Versions that this machine has not: fetched once, built in the image's root, and the artifact reports its version.

What `runtimes fetch` makes lies beside the bases that sessions share, so that only the first run pays.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests import uids
from tests.kept import SHARED
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e

GO = """\
package main

import (
	"runtime"

	"ignite"
)

func main() {
	ignite.Start(func(payload []byte, ctx *ignite.Context) ([]byte, error) {
		return []byte(runtime.Version()), nil
	})
}
"""
PYTHON = """\
import platform

import idna


def handler(payload, ctx):
    return platform.python_version() + " " + idna.encode("straße").decode()
"""
ROWS = (
    ("go-1.24", "image", "go1.24."),
    ("go-1.25", "image", "go1.25."),
    ("go-1.27", "image", "go1.27."),
    ("python-3.13", "host", "3.13."),
    ("python-3.14", "host", "3.14."),
)


@pytest.fixture
def program(kept: Path) -> Iterator[Program]:
    """The program in a home of its own, over the images and caches that sessions share."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-images-", dir="/var/tmp") as folder:
        home, node = Path(folder) / "home", Path(folder) / "node"
        for each in (Path(folder), home, node):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        for name in SHARED:
            (node / name).symlink_to(kept / name)
        # A build's own uid comes after those of the slots: the shared caches belong to that of the tests' server.
        yield Program(home, {"node_dir": str(node), "build_uid": str(uids.SERVER - 1), "slots": "1"})


def source_of(name: str, folder: Path) -> Path:
    if name.startswith("go"):
        (folder / "main.go").write_text(GO)
    else:
        (folder / "handler.py").write_text(PYTHON)
        (folder / "requirements.txt").write_text("idna==3.10\n")
    return folder


@pytest.mark.parametrize(("name", "where", "version"), ROWS, ids=[row[0] for row in ROWS])
def test_an_artifact_of_a_fetched_toolchain_reports_its_version(
    program: Program, tmp_path: Path, name: str, where: str, version: str
) -> None:
    fetched = program.run("runtimes", "fetch", name, "--json")
    assert fetched.code == 0, fetched.err
    (got,) = json.loads(fetched.out)["fetched"]
    assert got["toolchain"] == name and got["from"].split()[0] == where
    wanted = name.partition("-")[2]
    built = program.run("build", str(source_of(name, tmp_path)), "--runtime-version", wanted, "--json")
    assert built.code == 0, built.err
    materials = program.run("logs", built.record.build_id, "--raw").out
    assert f"version {wanted}: asked for" in materials
    with program.started("run", built.record.build_id) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        answer = httpx.post(url, content=b"", timeout=30).text
        process.terminate()
        process.wait()
    assert version in answer
    if name.startswith("python"):
        assert "xn--strae-oqa" in answer or "strasse" in answer


def test_the_matrix_names_where_each_comes_from_and_the_command_that_gets_the_rest(tmp_path: Path) -> None:
    bare = Program(tmp_path, {"node_dir": str(tmp_path / "node")})
    rows = {row["name"]: row for row in json.loads(bare.run("runtimes", "--json").out)["runtimes"]}
    assert not rows["go-1.24"]["here"] and rows["go-1.24"]["next"] == "ignite-builder runtimes fetch go-1.24"
    refused = bare.run("build", str(source_of("go", tmp_path)), "--runtime-version", "1.24")
    assert refused.code == 75 and "next   ignite-builder runtimes fetch go-1.24" in refused.err
