"""Plans of Rust for the target wasm, what it refuses, and crates that cannot be built for it.

The recordings in tests/golden/said/wasm-* are of cargo 1.85.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builder import pipelines
from builder.attempt.plain import from_plain, to_json
from builder.data import runtimes_dir
from builder.errors import BuildError
from builder.pipelines import catalog
from builder.pipelines.base import PlanRequest
from builder.pipelines.rust.components import unbuildable
from builder.plan import ComponentOutput, Output, Plan, Step
from builder.source.tree import DictTree

CATALOG = catalog.read(runtimes_dir() / "catalog.toml")
SAID = Path(__file__).resolve().parents[1] / "golden" / "said"
HANDLER = """\
use ignite::{Context, Request};

#[ignite::main]
async fn handler(r: Request, c: Context) -> ignite::Result<()> {
    tokio::task::yield_now().await;
    Ok(())
}
"""
SERVER = "fn main() {}\n"
PACKAGE = '[package]\nname = "my-app"\nversion = "0.1.0"\nedition = "2021"\n'


def planned(source: dict[str, str], target: str = "wasm", version: str = "", **arguments: str) -> Plan:
    tree = DictTree(source)
    request = PlanRequest(target=target, version=version, build_args=arguments)
    return pipelines.plan(pipelines.detect(tree, "rust"), tree, request, CATALOG)


def refused(source: dict[str, str], **request: str) -> BuildError:
    with pytest.raises(BuildError) as caught:
        planned(source, **request)
    return caught.value


def test_the_same_source_is_a_program_or_a_component() -> None:
    native, component = planned({"main.rs": HANDLER}, target="native"), planned({"main.rs": HANDLER})
    assert isinstance(native.output, Output)
    assert component.output == ComponentOutput(
        component="/work/out/target/wasm32-wasip2/release/app.wasm", summary=component.output.summary
    )
    assert component.toolchain.base == "" and component.toolchain.name.endswith("-wasm")
    assert [step.name for step in native.steps] == [step.name for step in component.steps]


@pytest.mark.parametrize("target", ["native", "wasm"])
def test_a_plan_of_either_output_crosses_to_another_process_and_back(target: str) -> None:
    plan = planned({"main.rs": HANDLER}, target=target)
    assert from_plain(Plan, json.loads(to_json(plan))) == plan
    mixed = json.loads(to_json(plan))
    mixed["output"]["component" if target == "native" else "layers"] = ""
    with pytest.raises(ValueError, match="one of"):
        from_plain(Plan, mixed)


def test_compiling_has_the_linker_of_components_and_no_flag_of_static_binaries() -> None:
    for step in planned({"main.rs": HANDLER}).steps[-2:]:
        assert step.argv[step.argv.index("--target") + 1] == "wasm32-wasip2"
        env = dict(step.env)
        assert env["CARGO_TARGET_WASM32_WASIP2_LINKER"] == "/opt/ignite/toolchain/wasm-component-ld"
        assert "crt-static" not in env["CARGO_ENCODED_RUSTFLAGS"]


def test_of_tokio_is_added_what_it_has_in_a_component() -> None:
    (manifest,) = [file.content for file in planned({"main.rs": HANDLER}).files if file.path == "Cargo.toml"]
    assert '"rt"' in manifest and '"full"' not in manifest
    (manifest,) = [file.content for file in planned({"main.rs": HANDLER}, "native").files if file.path == "Cargo.toml"]
    assert '"full"' in manifest


@pytest.mark.parametrize("files", [{"main.rs": SERVER}, {"Cargo.toml": PACKAGE, "src/main.rs": SERVER}])
def test_a_server_of_its_own_is_no_component(files: dict[str, str]) -> None:
    error = refused(files)
    assert error.reason == "EntryPointMissing" and "does not listen" in error.message
    assert planned(files, target="native").steps


@pytest.mark.parametrize(("name", "value"), [("start", '["./app"]'), ("files", "Cargo.toml")])
def test_files_and_a_start_command_are_for_programs(name: str, value: str) -> None:
    error = refused({"Cargo.toml": PACKAGE, "src/main.rs": HANDLER}, **{name: value})
    assert (error.reason, error.where) == ("InvalidRequest", f"buildArgs.{name}")


def test_a_target_of_cargos_own_settings_must_be_the_one_asked_for() -> None:
    files = {"Cargo.toml": PACKAGE, "src/main.rs": HANDLER, ".cargo/config.toml": '[build]\ntarget = "wasm32-wasip2"\n'}
    assert isinstance(planned(files).output, ComponentOutput)
    error = refused(files, target="native")
    assert error.reason == "UnsupportedTarget" and error.next == "Ask for it: --target wasm"


def test_a_version_is_one_that_the_target_has() -> None:
    assert planned({"main.rs": HANDLER}, version="1.85").toolchain.name == "rust-1.85-wasm"
    error = refused({"main.rs": HANDLER}, version="1.84")
    assert error.reason == "UnknownRuntimeVersion"


STEP = Step(name="compile crates", argv=("cargo", "build", "--target", "wasm32-wasip2"))


@pytest.mark.parametrize(
    ("name", "message", "where"),
    [
        ("wasm-tokio", "the crate tokio has in components no other features than sync,macros,io-util,rt,time", "tokio"),
        ("wasm-socket2", "the crate socket2 cannot be built for components: ", "socket2"),
        ("wasm-zstd", "the crate zstd-sys 2.", "zstd-sys"),
    ],
)
def test_a_crate_that_cannot_be_built_for_components_is_named(name: str, message: str, where: str) -> None:
    lines = (SAID / f"{name}.txt").read_text().splitlines()
    found = pipelines.diagnose("rust", STEP, 101, lines)
    assert (found.reason, found.message[: len(message)]) == ("CompileFailed", message)
    assert found.where == f"Cargo.toml  {where}" and found.said and "native" in found.next
    native = Step(name="compile crates", argv=("cargo", "build", "--target", "x86_64-unknown-linux-gnu"))
    assert unbuildable(native, lines) is None


def test_an_error_in_the_source_itself_is_none_of_a_crate() -> None:
    lines = ("error[E0382]: borrow of moved value: `x`", " --> main.rs:3:5", "error: could not compile `app` (bin)")
    assert unbuildable(Step(name="compile", argv=STEP.argv), lines) is None
