"""`make demo`: four examples from archives of different kinds → built, pushed, run, called; then again from the cache.

Everything is private and local: Redis, API, worker, a registry on a loopback port. Ends by itself.
"""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path

import httpx

from builder.client.api import Api
from builder.client.patient import NullWatcher, PatientApi, SystemClock
from builder.config import load
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.local.embedded import private_registry, start
from builder.local.run import started
from builder.pipelines import catalog as catalogs
from builder.settings import Settings
from builder.toolchains.providers import toolchains_of

HERE = Path(__file__).resolve().parent
DEMO = (("python-hello", "file"), ("python-numpy", "zip"), ("go-hello", "tar"), ("go-deps", "tar.gz"))


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


def request(name: str, kind: str) -> pb.CreateBuildRequest:
    """The build of one example."""
    made = pb.CreateBuildRequest(name=name)
    field, data = pack(HERE / name, kind)
    setattr(made.code.compile, field, data)
    made.code.compile.runtime.SetInParent()
    getattr(made.code.compile.runtime, name.partition("-")[0]).SetInParent()
    return made


def tail(api: Api, build_id: str, show: bool) -> None:
    """Print the log of a build until its end."""
    for entry in PatientApi(api, SystemClock(), NullWatcher()).follow(build_id):
        if show and not entry.eof:
            print(f"    {pb.BuildPhase.Name(entry.phase)[12:].lower():<13}{entry.line[:200]}", flush=True)


def build(api: Api, name: str, kind: str, show: bool) -> tuple[pb.Build, float]:
    """Submit, tail, wait. The record and the seconds it took."""
    began = time.monotonic()
    created = api.call("CreateBuild", request(name, kind))
    tail(api, created.build_id, show)
    record = api.call("GetBuild", pb.GetBuildRequest(build_id=created.build_id))
    took = time.monotonic() - began
    if record.status != pb.BUILD_STATUS_SUCCEEDED:
        raise SystemExit(f"{name}: {record.failure.reason}: {record.failure.message}")
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


def go_versions(settings: Settings) -> list[str]:
    """The versions of Go that the catalog has."""
    rows = catalogs.read(catalog_file(settings.catalog)).toolchains()
    return list(dict.fromkeys(row.version for row in rows if row.runtime == "go"))


def shown_here(settings: Settings) -> list[tuple[str, str]]:
    """The examples that this machine can build: with any other Go than the catalog's, builds would wait for a node."""
    toolchains, rows = toolchains_of(settings), catalogs.read(catalog_file(settings.catalog)).toolchains()
    has_go = any(row.runtime == "go" and toolchains.has(row) for row in rows)
    return [one for one in DEMO if has_go or not one[0].startswith("go-")]


def main() -> int:
    """The demo."""
    loaded = load().settings
    folder = Path(loaded.node_dir).parent / "ignite-builder-demo"
    shutil.rmtree(folder, ignore_errors=True)
    examples = shown_here(loaded)
    if len(examples) < len(DEMO):
        versions = " or ".join(go_versions(loaded))
        print(
            f"this machine has no Go {versions}: the Python half is shown (make setup installs Debian's where it can)"
        )
    rows = []
    with private_registry(folder / "registry") as registry:
        settings = loaded.replace(**{"data_dir": str(folder), "registry": registry, "organization": "demo"})
        print("starting Redis, API, worker and a registry; base images are made once", flush=True)
        with start(settings) as server:
            api = Api(server.url, server.token)
            for name, kind in examples:
                print(f"\n== {name}, from a {kind}", flush=True)
                record, cold = build(api, name, kind, show=True)
                print(f"   {record.artifact_ref}")
                print(f"   POST / -> {call(settings, record, name)}", flush=True)
                again, warm = build(api, name, kind, show=False)
                if not again.from_cache_of or again.image_digest != record.image_digest:
                    raise SystemExit(f"{name}: the second build was not answered from the cache")
                rows.append((name, kind, cold, warm, record.size_bytes))
            api.close()
    print(f"\n{'EXAMPLE':<14}{'SOURCE':<9}{'FIRST':>8}{'AGAIN':>8}{'SIZE':>11}")
    for name, kind, cold, warm, size in rows:
        print(f"{name:<14}{kind:<9}{cold:>7.2f}s{warm:>7.2f}s{size / 2**20:>7.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
