"""`make demo`: examples of each runtime → built, pushed, run, called; then again from the cache.

Everything is private and local: Redis, API, worker, a registry on a loopback port. Ends by itself. What this machine
has no toolchain for is left out and listed.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import time
import tomllib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from builder.client.api import Api
from builder.client.patient import NullWatcher, PatientApi, SystemClock
from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.data import catalog_file
from builder.local.embedded import private_registry, start
from builder.local.machine import has_programs
from builder.local.run import started
from builder.pipelines import catalog as catalogs
from builder.plan import Toolchain
from builder.settings import Settings
from builder.toolchains import host, wasmtime

HERE = Path(__file__).resolve().parent
WASM = "wasm"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A folder of examples, and as what it is sent: a file, zip, tar or tar.gz."""

    name: str
    kind: str
    target: str = ""
    version: str = ""

    @property
    def runtime(self) -> str:
        """The first word of its name."""
        return self.name.partition("-")[0]


DEMO = (
    Example(name="python-hello", kind="file"),
    Example(name="python-numpy", kind="zip"),
    Example(name="go-hello", kind="tar"),
    Example(name="go-deps", kind="tar.gz"),
    Example(name="rust-hello", kind="file"),
    Example(name="rust-wasm-hello", kind="zip", target=WASM),
    Example(name="deno-hello", kind="tar"),
)


def pack(folder: Path, kind: str) -> tuple[str, bytes]:
    """(field of CompileSource, bytes) of an example, as a file, zip, tar or tar.gz."""
    files = [path for path in sorted(folder.iterdir()) if path.name not in ("expect.toml", "plan.json")]
    out = io.BytesIO()
    if kind == "file":
        return "source_code", files[0].read_bytes()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.name)
    else:
        with tarfile.open(fileobj=out, mode="w:gz" if kind == "tar.gz" else "w") as archive:
            for path in files:
                archive.add(path, path.name)
    return "archive", out.getvalue()


def request(example: Example) -> pb.CreateBuildRequest:
    """The build of one example."""
    made = pb.CreateBuildRequest(name=example.name)
    field, data = pack(HERE / example.name, example.kind)
    setattr(made.code.compile, field, data)
    named = getattr(made.code.compile.runtime, example.runtime)
    named.SetInParent()
    if example.target == WASM:
        named.target, named.toolchain_version = common.RUST_COMPILATION_TARGET_WASM, example.version
    return made


def tail(api: Api, build_id: str, show: bool) -> None:
    """Print the log of a build until its end."""
    for entry in PatientApi(api, SystemClock(), NullWatcher()).follow(build_id):
        if show and not entry.eof:
            print(f"    {pb.BuildPhase.Name(entry.phase)[12:].lower():<13}{entry.line[:200]}", flush=True)


def build(api: Api, example: Example, show: bool) -> tuple[pb.Build, float]:
    """Submit, tail, wait. The record and the seconds it took."""
    began = time.monotonic()
    created = api.call("CreateBuild", request(example))
    tail(api, created.build_id, show)
    record = api.call("GetBuild", pb.GetBuildRequest(build_id=created.build_id))
    took = time.monotonic() - began
    if record.status != pb.BUILD_STATUS_SUCCEEDED:
        raise SystemExit(f"{example.name}: {record.failure.reason}: {record.failure.message}")
    return record, took


def call(settings: Settings, record: pb.Build, name: str) -> str:
    """Run the artifact and call it once."""
    expect = tomllib.loads((HERE / name / "expect.toml").read_text())
    with started(settings, record) as running:
        headers = {"x-ignite-execution-id": "demo-1"}
        answer = httpx.post(running.url, content=expect["send"], headers=headers, trust_env=False).text
    if answer != expect["answer"]:
        raise SystemExit(f"{name} answered {answer!r}, expected {expect['answer']!r}")
    return answer.strip()


def shown_here(settings: Settings) -> list[Example]:
    """The examples that this machine can build and run. With another toolchain than the catalog's a build would wait
    for another node."""
    rows = catalogs.read(catalog_file(settings.catalog)).toolchains()
    shown = []
    for example in DEMO:
        if example.target == WASM and wasmtime.program_here(settings.node_dir, host.find_program) is None:
            continue
        if newest := next((row for row in reversed(rows) if _fits(row, example) and has_programs(settings, row)), None):
            shown.append(replace(example, version=newest.version))
    return shown


def _fits(row: Toolchain, example: Example) -> bool:
    return row.runtime == example.runtime and (row.target == WASM) == (example.target == WASM)


def left_out(shown: Sequence[Example]) -> str:
    """What is not shown, and what would change that; empty where everything is."""
    names = {example.name for example in shown}
    left = [example for example in DEMO if example.name not in names]
    if not left:
        return ""
    steps = {
        "go": "make setup installs Debian's Go where it can",
        "rust": "ignite-builder runtimes fetch rust-1.85",
        WASM: f"ignite-builder runtimes names what components need; {wasmtime.INSTALL}",
    }
    kinds = dict.fromkeys(example.target or example.runtime for example in left)
    hints = "; ".join(steps[kind] for kind in kinds if kind in steps)
    return f"this machine has no toolchain for {', '.join(example.name for example in left)}" + (
        hints and f" ({hints})"
    )


def main() -> int:
    """The demo."""
    loaded = load().settings
    folder = Path(loaded.node_dir).parent / "ignite-builder-demo"
    shutil.rmtree(folder, ignore_errors=True)
    examples = shown_here(loaded)
    if missing := left_out(examples):
        print(missing)
    rows = []
    with private_registry(folder / "registry") as registry:
        settings = loaded.replace(**{"data_dir": str(folder), "registry": registry, "organization": "demo"})
        print("starting Redis, API, worker and a registry; base images are made once", flush=True)
        with start(settings) as server:
            api = Api(server.url, server.token)
            for example in examples:
                print(f"\n== {example.name}, from a {example.kind}", flush=True)
                record, cold = build(api, example, show=True)
                print(f"   {record.artifact_ref}")
                print(f"   POST / -> {call(settings, record, example.name)}", flush=True)
                again, warm = build(api, example, show=False)
                if not again.from_cache_of or again.image_digest != record.image_digest:
                    raise SystemExit(f"{example.name}: the second build was not answered from the cache")
                rows.append((example.name, example.kind, cold, warm, record.size_bytes))
            api.close()
    print(f"\n{'EXAMPLE':<17}{'SOURCE':<9}{'FIRST':>8}{'AGAIN':>8}{'SIZE':>11}")
    for name, kind, cold, warm, size in rows:
        print(f"{name:<17}{kind:<9}{cold:>7.2f}s{warm:>7.2f}s{size / 2**20:>7.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
