"""P15 prepares what components need before its server starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench import p15
from bench.projects import Project
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.toolchains import wasmtime


class Here:
    """A place whose server builds nothing and notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: dict[str, str] = {}
        self.path = ""

    @contextmanager
    def server(self, name: str) -> Iterator[Here]:
        self.path = os.environ["PATH"]
        yield self

    def build(self, project: Project, archive: bytes, *, wasm: str = "") -> tuple[float, pb.Build]:
        self.asked[project.name] = wasm
        raise RuntimeError("no build")


@pytest.mark.parametrize("fails", [False, True])
def test_components_have_their_toolchain_their_host_and_the_linker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fails: bool
) -> None:
    got: list[str] = []

    def fetch(settings: object, row: Any) -> None:
        got.append(row.name)
        assert os.environ["PATH"] == f"{tmp_path}{os.pathsep}{path}", "a toolchain without its linker is none"
        if fails:
            raise BuildError("ToolchainUnavailable", "no packages")

    monkeypatch.setattr(p15, "fetch", fetch)
    monkeypatch.setattr(wasmtime, "fetch", lambda settings: got.append("wasmtime"))
    here, path = Here(), os.environ["PATH"]

    @contextmanager
    def opened() -> Iterator[Any]:
        yield here

    rows, notes = p15.measure(1, opened=opened, linker=lambda: tmp_path)
    assert not rows and len(notes) == len(p15.KINDS), "a machine without it measures the others"
    assert got == ["rust-1.85-wasm", *([] if fails else ["wasmtime"])]
    assert here.path == f"{tmp_path}{os.pathsep}{path}" and os.environ["PATH"] == path
    wasm = [name for name, version in here.asked.items() if version == "1.85"]
    assert wasm == ([] if fails else ["rust-wasm-hello"]), "nobody would take it"
    assert len(here.asked) == len(p15.KINDS) - fails
    assert any("no packages" in note for note in notes) is fails
