"""P15: from the start of an artifact in `run` to its first answer, for every runtime.

Each is a hello of `examples/` with the front of its runtime. The clock starts before the sandbox does and stops with
the first answer of /healthz, which is 200 as soon as the front serves.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.pairs import interleave, spread
from bench.projects import Project
from bench.results import Row, time_row
from bench.servers import KEPT, Place, Server, place
from builder import config
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.errors import BuildError
from builder.local import run
from builder.pipelines.catalog import read
from builder.toolchains import wasmtime
from builder.toolchains.fetch import fetch
from tests import component_programs

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
STARTS = 3
"""Starts a round: one is short beside a build."""


COMPONENTS = "1.85"
"""The toolchain for components that is made of a stable Debian's packages, as the end-to-end tests use it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A hello, its target (empty: the default), and the most milliseconds that its start should take."""

    label: str
    example: str
    runtime: str
    most_ms: float
    wasm: str = ""
    """The version of the toolchain for components; empty: this is none."""


KINDS = (
    Kind(label="Go", example="go-hello", runtime="go", most_ms=20),
    Kind(label="Rust", example="rust-hello", runtime="rust", most_ms=20),
    Kind(label="Rust to WASM, wasmtime", example="rust-wasm-hello", runtime="rust", most_ms=60, wasm=COMPONENTS),
    Kind(label="Python", example="python-hello", runtime="python", most_ms=150),
    Kind(label="Deno", example="deno-hello", runtime="deno", most_ms=150),
)


def measure(
    rounds: int,
    *,
    opened: Callable[[], AbstractContextManager[Place]] = place,
    linker: Callable[[], Path] = component_programs.linker,
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """All runtimes take turns. What this machine cannot build or serve is a note with the reason."""
    notes: list[str] = []
    with opened() as here, _components(linker) as lacking, here.server("p15") as server:
        arms: dict[str, Callable[[int], float]] = {}
        for kind in KINDS:
            try:
                if kind.wasm and lacking:  # a build that no node takes would wait for one
                    raise RuntimeError(lacking)
                arms[kind.label] = _starting(server, _built(server, kind))
            except (BuildError, RuntimeError) as error:
                notes.append(f"{kind.label}: not measured: {' '.join(str(error).split())}")
        took = interleave(arms, rounds * STARTS)
    rows = [
        time_row(f"{kind.label}: start to first 200", spread(took[kind.label]), took[kind.label], kind.most_ms)
        for kind in KINDS
        if kind.label in took
    ]
    return tuple(rows), tuple(notes)


@contextmanager
def _components(linker: Callable[[], Path]) -> Iterator[str]:
    """What a node needs for components: the linker on the PATH of the worker, the toolchain, what serves them.

    Yields why this machine has not got them, or nothing.
    """
    path, lacking = os.environ["PATH"], ""
    try:
        try:
            settings = config.load({"node_dir": str(KEPT)}).settings
            os.environ["PATH"] = os.pathsep.join((str(linker()), path))  # a toolchain without it is none
            fetch(settings, read(catalog_file(settings.catalog)).find("rust", COMPONENTS, "wasm"))
            wasmtime.fetch(settings)
        except (BuildError, AssertionError, OSError, subprocess.SubprocessError) as error:
            lacking = str(error) or type(error).__name__
        yield lacking
    finally:
        os.environ["PATH"] = path


def _built(server: Server, kind: Kind) -> pb.Build:
    folder = EXAMPLES / kind.example
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    sent = {name: data for name, data in files.items() if name not in ("expect.toml", "plan.json")}
    project = Project(name=kind.example, runtime=kind.runtime, files=sent, edited="")
    return server.build(project, project.packed(sent), wasm=kind.wasm)[1]


def _starting(server: Server, build: pb.Build) -> Callable[[int], float]:
    def start(number: int) -> float:
        with run.started(server.settings, build) as running:
            return running.ready_ms / 1000

    start(0)  # a component is compiled ahead of time once
    return start
