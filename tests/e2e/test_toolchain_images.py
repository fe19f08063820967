"""Versions that this machine has not: fetched once, built in the image's root, and the artifact reports its version.

What `runtimes fetch` makes lies beside the bases that sessions share, so that only the first run pays.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from builder.bases.recipe import TOOLCHAIN_FILE
from builder.data import runtimes_dir
from builder.images.image import Image, ImageConfig, build_image
from builder.images.registry import connect
from builder.images.store import toolchain_images_of
from tests.oci_fixtures import make_image
from tests.program_fixtures import Program, over

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
GO_WITH_C = """\
package main

// #include <string.h>
// static int length(const char *text) { return strlen(text); }
import "C"

func main() {
	if C.length(C.CString("three")) != 5 {
		panic("C is missing")
	}
}
"""
PYTHON = """\
import platform

import idna


def handler(payload, ctx):
    return platform.python_version() + " " + idna.encode("straße").decode()
"""
RUST = {
    "Cargo.toml": '[package]\nname = "app"\nversion = "0.1.0"\nedition = "2021"\n',
    "build.rs": """\
fn main() {
    let done = std::process::Command::new(std::env::var("RUSTC").unwrap()).arg("--version").output().unwrap();
    println!("cargo:rustc-env=COMPILER={}", String::from_utf8(done.stdout).unwrap().trim());
}
""",
    "src/main.rs": """\
use std::io::{Read, Write};

fn main() {
    let port = std::env::var("PORT").unwrap().parse().unwrap();
    for connection in std::net::TcpListener::bind(("0.0.0.0", port)).unwrap().incoming() {
        let mut connection = connection.unwrap();
        let _ = connection.read(&mut [0; 4096]);
        let text = env!("COMPILER");
        let head = format!("HTTP/1.1 200 OK\\r\\ncontent-length: {}\\r\\nconnection: close\\r\\n\\r\\n", text.len());
        let _ = connection.write_all((head + text).as_bytes());
    }
}
""",
}
ROWS = (
    ("go-1.24", "image", "go1.24."),
    ("go-1.25", "image", "go1.25."),
    ("go-1.27", "image", "go1.27."),
    ("python-3.13", "host", "3.13."),
    ("python-3.14", "host", "3.14."),
    ("rust-1.85", "image", "rustc 1.85."),
    ("rust-1.97", "image", "rustc 1.97."),
)


@pytest.fixture
def program(kept: Path) -> Iterator[Program]:
    with over(kept) as found:
        yield found


def source_of(name: str, folder: Path) -> Path:
    if name.startswith("go"):
        (folder / "main.go").write_text(GO)
    elif name.startswith("rust"):
        (folder / "src").mkdir()
        for path, text in RUST.items():
            (folder / path).write_text(text)
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
    assert built.record.runtime_version == wanted
    assert [each for each in built.record.warnings if "end of life" in each] or name not in ("go-1.24", "go-1.25")
    with program.started("run", built.record.build_id) as process:
        assert process.stdout is not None
        url = process.stdout.readline().decode().strip()
        answer = httpx.post(url, content=b"", timeout=120, trust_env=False).text
        process.terminate()
        process.wait()
    assert version in answer
    again = program.run("build", str(tmp_path), "--json")
    assert again.code == 0, again.err
    assert again.record.runtime_version == wanted and again.record.from_cache_of == built.record.build_id
    # Of Rust a home of its own has no other version, so that the newest that was fetched is the default here.
    why = ("as its last success has it", *(("the catalog's default",) if name.startswith("rust") else ()))
    log = program.run("logs", again.record.build_id, "--raw").out
    assert any(f"version {wanted}: {one}" in log for one in why), log


def push(registry: str, image: Image, repository: str, tag: str) -> None:
    with closing(connect(registry)) as to:
        to.push(image, repository, tag)


def test_an_image_of_a_public_registry_builds_as_a_made_one_does(
    program: Program, kept: Path, registry: str, tmp_path: Path
) -> None:
    """The reference of a recipe, in Docker's own format, pushed by a tool that is not ours; Go is found by the PATH of
    the image. The tag then moves, and the node's build does not."""
    assert program.run("runtimes", "fetch", "go-1.24").code == 0
    made = toolchain_images_of(kept).get("go-1.24")
    assert made is not None
    path = (("PATH", "/usr/lib/go-1.24/bin:/usr/bin"), ("GOTOOLCHAIN", "local"))
    image = build_image(None, made.layers, ImageConfig(entrypoint=(), env=path))
    push(registry, image, "library/oci-golang", "1.24")
    copy = ["skopeo", "copy", "-q", "--format", "v2s2", "--src-tls-verify=false", "--dest-tls-verify=false"]
    reference = f"{registry}/library/golang:1.24"
    subprocess.run([*copy, f"docker://{registry}/library/oci-golang:1.24", f"docker://{reference}"], check=True)
    (tmp_path / "go").mkdir()
    (tmp_path / "go" / TOOLCHAIN_FILE).write_text(f'[[image]]\nname = "go-1.24"\nreference = "{reference}"\n')
    shutil.copy(runtimes_dir() / "catalog.toml", tmp_path)
    node = program.home.parent / "public"
    node.mkdir()
    node.chmod(0o755)
    (node / "caches").symlink_to(kept / "caches")
    own = Program(program.home, {**program.settings, "catalog": f"{tmp_path}/catalog.toml", "node_dir": str(node)})
    fetched = own.run("runtimes", "fetch", "go-1.24", "--json")
    assert fetched.code == 0, fetched.err
    (got,) = json.loads(fetched.out)["fetched"]
    pinned = got["images"][0]["digest"]
    assert f"docker.io/{reference}" not in fetched.err and f"{reference} is {pinned}" in fetched.err
    push(registry, make_image(tmp_path / "other"), "library/golang", "1.24")
    (tmp_path / "source").mkdir()
    built = own.run("build", str(source_of("go", tmp_path / "source")), "--runtime-version", "1.24", "--json")
    assert built.code == 0, built.err
    again = json.loads(own.run("runtimes", "--json").out)["runtimes"]
    (row,) = (row for row in again if row["name"] == "go-1.24")
    assert row["from"] == f"image {pinned[7:19]}"


def test_a_toolchain_image_builds_c_code_of_go_into_a_static_binary(program: Program, tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module example.com/app\n\ngo 1.24\n")
    (tmp_path / "main.go").write_text(GO_WITH_C)
    assert program.run("runtimes", "fetch", "go-1.24").code == 0
    asked = ("build", str(tmp_path), "--build-arg", "cgo=1", "--json")
    built = program.run(*asked, "--runtime-version", "1.24")
    assert built.code == 0, built.err
    assert built.record.start_check.message == "the program exited 0 before it listened on $PORT"
    lacking = program.run(*asked, "--runtime-version", "1.26")
    assert (lacking.code, lacking.record.failure.reason) == (1, "CgoRefused"), lacking.err


def test_the_matrix_names_where_each_comes_from_and_the_command_that_gets_the_rest(tmp_path: Path) -> None:
    bare = Program(tmp_path, {"node_dir": str(tmp_path / "node")})
    rows = {row["name"]: row for row in json.loads(bare.run("runtimes", "--json").out)["runtimes"]}
    assert not rows["go-1.24"]["here"] and rows["go-1.24"]["next"] == "ignite-builder runtimes fetch go-1.24"
    refused = bare.run("build", str(source_of("go", tmp_path)), "--runtime-version", "1.24")
    assert refused.code == 75 and "next   ignite-builder runtimes fetch go-1.24" in refused.err
