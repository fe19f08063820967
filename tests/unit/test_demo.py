"""What `make demo` shows on a machine: only what it can build."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.data import catalog_file, runtimes_dir
from builder.pipelines import catalog
from builder.plan import Toolchain
from builder.settings import Settings
from examples.demo import DEMO, HERE, Example, left_out, request, shown_here


def needs_program(runtime: str) -> bool:
    """Whether a runtime is built by a program that a machine has or has not; uv is a part of the environment."""
    recipe = tomllib.loads((runtimes_dir() / runtime / "toolchain.toml").read_text(encoding="utf-8"))
    return any(program["command"] != "uv" for program in recipe.get("program", ()))


ALWAYS = [example.name for example in DEMO if not needs_program(example.runtime)]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with uv alone."""
    only(monkeypatch, uv="/usr/bin/true")
    monkeypatch.setattr("builder.toolchains.host.glob", lambda pattern: [])


def only(monkeypatch: pytest.MonkeyPatch, **programs: str) -> None:
    monkeypatch.setattr("builder.toolchains.host.find_program", lambda name: programs.get(name.replace("-", "_")))


def names(shown: list[Example]) -> list[str]:
    return [example.name for example in shown]


def go_of(folder: Path, version: str) -> str:
    (folder / "go" / "bin").mkdir(parents=True)
    (folder / "go" / "VERSION").write_text(f"go{version}\n")
    program = folder / "go" / "bin" / "go"
    program.touch(mode=0o755)
    return str(program)


@pytest.mark.parametrize(("version", "fits"), [("1.26.8", True), ("1.24.1", True), ("1.23.3", False)])
def test_a_go_that_the_catalog_lacks_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    only(monkeypatch, uv="/usr/bin/true", go=go_of(tmp_path, version))
    shown = shown_here(Settings(node_dir=str(tmp_path)))
    assert set(names(shown)) == {*ALWAYS, *(("go-hello", "go-deps") if fits else ())}


def test_without_another_toolchain_the_rest_is_left_out_and_listed(tmp_path: Path) -> None:
    shown = shown_here(Settings(node_dir=str(tmp_path)))
    assert names(shown) == ALWAYS
    words = left_out(shown)
    assert all(name in words for name in ("go-hello", "go-deps", "rust-hello", "rust-wasm-hello", "make setup"))
    assert "runtimes fetch rust-1.85" in words and "runtimes fetch wasmtime" in words
    assert left_out(DEMO) == ""


def test_a_component_is_built_by_the_newest_toolchain_here_and_needs_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def has(settings: Settings, row: Toolchain) -> bool:
        return row.name in ("rust-1.85", "rust-1.82-wasm", "rust-1.85-wasm")

    monkeypatch.setattr("examples.demo.has_programs", has)
    settings = Settings(node_dir=str(tmp_path))
    assert names(shown_here(settings)) == ["rust-hello"]
    only(monkeypatch, wasmtime="/usr/bin/wasmtime")
    native, component = shown_here(settings)
    assert (native.name, component.name, component.version) == ("rust-hello", "rust-wasm-hello", "1.85")
    named = request(component).code.compile.runtime.rust
    assert (named.target, named.toolchain_version) == (common.RUST_COMPILATION_TARGET_WASM, "1.85")
    assert request(native).code.compile.runtime.rust.toolchain_version == "", "the default of the machine"


def test_every_runtime_and_target_of_the_catalog_is_shown_and_the_toolchain_that_is_named_is_there() -> None:
    rows = catalog.read(catalog_file("")).toolchains()
    kinds = {(example.runtime, example.target) for example in DEMO}
    assert kinds == {(row.runtime, row.target if row.target == "wasm" else "") for row in rows}
    assert "rust-1.85" in {row.name for row in rows}
    assert all((HERE / example.name / "expect.toml").is_file() for example in DEMO)
