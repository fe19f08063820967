"""Rust to components, built in a fetched toolchain image: the same bytes on two nodes, served by us and by others."""

from __future__ import annotations

import json
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from builder.images.component import read_component, require_servable
from builder.local.ports import free_port
from tests import component_programs, uids
from tests.build_fixtures import until
from tests.e2e.test_toolchain_images import RUST
from tests.golden.update import EXAMPLES
from tests.kept import SHARED
from tests.oci_fixtures import make_tree
from tests.program_fixtures import Program

pytestmark = pytest.mark.e2e
TOOLCHAIN, VERSION = "rust-1.85-wasm", "1.85"
NEWEST = "1.97"
COMPILER = {name: text for name, text in RUST.items() if name != "src/main.rs"}
REPORTS = """\
use ignite::{Context, IntoResponse, Request, Result};

#[ignite::main]
fn handler(_: Request, _: Context) -> Result<impl IntoResponse> {
    Ok(env!("COMPILER"))
}
"""
ASKED = ("--target", "wasm", "--runtime-version", VERSION)
NATIVE_TOO = """\
use ignite::{Context, IntoResponse, Json, Request, Result};

#[ignite::main]
async fn handler(req: Request, ctx: Context) -> Result<impl IntoResponse> {
    let store = ctx.temp_store()?;
    match req.path() {
        "/panic" => panic!("on purpose"),
        "/error" => return Err("broken".into()),
        "/pieces" => {
            for number in 0..3 {
                ctx.stream().send(format!("{number},")).await?;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        }
        "/size" => store.put("size", req.raw().len().to_string())?,
        _ => store.put("size", req.header("x-test").unwrap_or("none"))?,
    }
    let found = String::from_utf8(store.get("size")?.unwrap_or_default())?;
    Ok(Json((req.method().to_owned(), req.query_param("q"), ctx.function_id().to_owned(), found)))
}
"""


@pytest.fixture(scope="module")
def machine(kept: Path) -> Iterator[Program]:
    """The program with wasmtime and the linker on its PATH, over the images and caches that sessions share."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-components-", dir="/var/tmp") as folder:
        home, node = Path(folder) / "home", Path(folder) / "node"
        for each in (Path(folder), home, node):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        for name in SHARED:
            (node / name).symlink_to(kept / name)
        path = component_programs.on_path(component_programs.linker(), component_programs.wasmtime())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", path)
            program = Program(home, {"node_dir": str(node), "build_uid": str(uids.SERVER), "slots": "4"})
            fetched = program.run("runtimes", "fetch", TOOLCHAIN, "--json")
            assert fetched.code == 0, fetched.err
            yield program


@contextmanager
def serving(program: Program, build_id: str) -> Iterator[str]:
    with program.started("run", build_id) as process:
        assert process.stdout is not None
        yield process.stdout.readline().decode().strip()
        process.terminate()
        process.wait()


def component_of(program: Program, digest: str, folder: Path) -> Path:
    """The component out of the OCI layout of a build without a registry, found as any reader of a layout finds it."""
    blobs = program.home / ".local/share/ignite-builder/artifacts/blobs/sha256"
    manifest = json.loads((blobs / digest.removeprefix("sha256:")).read_bytes())
    assert manifest["config"]["mediaType"] == "application/vnd.wasm.config.v0+json"
    (layer,) = manifest["layers"]
    path = folder / "component.wasm"
    path.write_bytes((blobs / layer["digest"].removeprefix("sha256:")).read_bytes())
    return path


def test_a_component_is_the_same_on_two_nodes_and_any_host_serves_it(machine: Program, tmp_path: Path) -> None:
    folder = EXAMPLES / "rust-wasm-hello"
    expect = tomllib.loads((folder / "expect.toml").read_text())
    built = machine.run("build", str(folder), *ASKED, "--json")
    assert built.code == 0, built.err
    record = built.record
    with tempfile.TemporaryDirectory(prefix="another-node-with-a-longer-name-", dir="/var/tmp") as other:
        for name in ("bases", "toolchains"):
            Path(other, name).symlink_to(Path(machine.settings["node_dir"], name))
        Path(other).chmod(0o755)
        elsewhere = Program(tmp_path / "home", {"node_dir": other, "build_uid": str(uids.SERVER + 7), "cpus": "1"})
        elsewhere.home.mkdir()
        again = elsewhere.run("build", str(folder), *ASKED, "--json", TZ="Asia/Tokyo")
        assert again.code == 0, again.err
        assert again.record.image_digest == record.image_digest
    with serving(machine, record.build_id) as url:
        answer = httpx.post(
            url, content=expect["send"], headers={"x-ignite-execution-id": "demo-1"}, timeout=120, trust_env=False
        )
        assert (answer.status_code, answer.text) == (200, expect["answer"])
    path = component_of(machine, record.image_digest, tmp_path)
    with path.open("rb") as file:
        require_servable(read_component(file), str(path))
    port = free_port()
    argv = ("node", str(component_programs.jco()), "serve", str(path), "--port", str(port))
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        try:
            assert until(lambda: answers(port) or process.poll() is not None)
            answer = httpx.post(f"http://localhost:{port}/", content=expect["send"], trust_env=False, timeout=120)
            assert (answer.status_code, json.loads(answer.text)) == (200, {"execution": "", "hello": "Grace"})
        finally:
            process.kill()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://localhost:{port}/healthz", trust_env=False, verify=False, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("version", [VERSION, NEWEST])
def test_a_component_reports_the_compiler_that_made_it(machine: Program, tmp_path: Path, version: str) -> None:
    """Each toolchain image with the target; the default of `wasm` is one of them."""
    fetched = machine.run("runtimes", "fetch", f"rust-{version}-wasm", "--json")
    assert fetched.code == 0, fetched.err
    make_tree(tmp_path, {**COMPILER, "src/lib.rs": REPORTS})
    built = machine.run("build", str(tmp_path), "--target", "wasm", "--runtime-version", version, "--json")
    assert built.code == 0, built.err
    assert built.record.runtime_version == version
    with serving(machine, built.record.build_id) as url:
        answer = httpx.post(url, content=b"", timeout=120, trust_env=False)
    assert answer.status_code == 200 and f"rustc {version}." in answer.text


def test_an_example_with_a_dependency_answers_as_it_says(machine: Program) -> None:
    folder = EXAMPLES / "rust-wasm-deps"
    expect = tomllib.loads((folder / "expect.toml").read_text())
    built = machine.run("build", str(folder), *ASKED, "--json")
    assert built.code == 0, built.err
    with serving(machine, built.record.build_id) as url:
        answer = httpx.post(url, content=expect["send"], timeout=120, trust_env=False)
    assert (answer.status_code, answer.text) == (200, expect["answer"])


def test_the_front_of_a_component_behaves_as_a_native_one(machine: Program, tmp_path: Path) -> None:
    (tmp_path / "main.rs").write_text(NATIVE_TOO)
    built = machine.run("build", str(tmp_path / "main.rs"), *ASKED, "--json")
    assert built.code == 0, built.err
    with (
        serving(machine, built.record.build_id) as url,
        httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
    ):
        headers = {"x-ignite-function-id": "acme/hello", "x-test": "yes"}
        assert client.put("/a?q=%20x", headers=headers).json() == ["PUT", " x", "acme/hello", "yes"]
        assert client.get("/healthz").text == "ok\n" and client.head("/healthz").content == b""
        broken, panicked = client.post("/error"), client.post("/panic")
        assert (broken.status_code, broken.json()) == (500, {"error": "broken"})
        assert (panicked.status_code, panicked.json()) == (500, {"error": "panic: on purpose"})
        assert client.post("/pieces").text == '0,1,2,["POST",null,"",""]'
        assert client.post("/size", content=bytes(8 << 20), timeout=120).json()[3] == str(8 << 20)
        assert client.get("/").status_code == 200
