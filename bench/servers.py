"""The servers that are measured: `builder.local.embedded` with its real worker, Redis and docker-registry, on tmpfs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.projects import Project
from builder import config
from builder.client.api import Api
from builder.client.patient import NullWatcher, PatientApi, SystemClock
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.dodil.ignite.v1 import ignite_common_pb2 as common
from builder.images.store import ImageStore, images_of
from builder.local import embedded, machine
from builder.local.ports import free_port
from builder.settings import Settings, Token

ROOT = Path(__file__).resolve().parent.parent
# Bases, toolchains and the tools that are compared with stay here; work, caches and registry are on memory.
KEPT = Path("/var/tmp/ignite-builder-bench")
MEMORY = Path("/dev/shm")
FIRST_UID = 61_500
START_S = 60.0


@dataclass
class Server:
    """A running embedded server and its client, which waits as the command line does: on the log's stream."""

    url: str
    token: str
    settings: Settings
    api: Api

    def build(
        self, project: Project, archive: bytes, *, no_cache: bool = False, wasm: str = ""
    ) -> tuple[float, pb.Build]:
        """Submit and wait for the final record. (seconds, record); a build that fails ends the measurement.

        `wasm`: the version of Rust that makes a component of it.
        """
        request = pb.CreateBuildRequest(name=project.name, no_cache=no_cache)
        compiled = request.code.compile
        compiled.archive = archive
        getattr(compiled.runtime, project.runtime).SetInParent()
        if wasm:
            compiled.runtime.rust.toolchain_version = wasm
            compiled.runtime.rust.target = common.RUST_COMPILATION_TARGET_WASM
        began = time.perf_counter()
        created: pb.CreateBuildResponse = self.api.call("CreateBuild", request)
        *_, end = PatientApi(self.api, SystemClock(), NullWatcher()).follow(created.build_id)
        record = end.build
        took = time.perf_counter() - began
        if record.status != pb.BUILD_STATUS_SUCCEEDED:
            raise RuntimeError(f"{project.name}: {pb.BuildStatus.Name(record.status)} {record.failure}")
        return took, record

    def forget_compiler_cache(self) -> None:
        """Make the next Go build a cold one: the compiler's cache goes, the modules stay."""
        shutil.rmtree(Path(self.settings.node_dir) / "caches" / self.settings.organization / "go-build")


@dataclass
class ServerHere(Server):
    """One whose control side is in this process."""

    running: embedded.Embedded


@dataclass
class Place:
    """A folder on memory for one run, and what was started in it."""

    folder: Path
    registry: str
    uids: Iterator[int] = field(default_factory=lambda: iter(range(FIRST_UID, 62_000, 20)))
    """First build users, one for each server or program."""

    @property
    def bases(self) -> ImageStore:
        return images_of(KEPT)

    @contextmanager
    def server(self, name: str, **flags: Any) -> Iterator[ServerHere]:
        """A server with its own records, node and caches, whose control side is in this process."""
        with embedded.start(self._settings(name, **flags)) as running, closing(Api(running.url, running.token)) as api:
            yield ServerHere(running.url, running.token, running.settings, api, running)

    @contextmanager
    def server_apart(self, name: str, **flags: Any) -> Iterator[Server]:
        """The same in a process of its own: who measures milliseconds as its client shares no interpreter with it."""
        settings = self._settings(name, **flags)
        with config.handed_over(settings) as environ:
            argv = (sys.executable, "-m", "bench.serving")
            environ["PYTHONPATH"] = str(ROOT)
            process = subprocess.Popen(argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert process.stdin and process.stdout
            line = process.stdout.readline()  # while it may read its settings
        with process:
            try:
                if not line:
                    raise RuntimeError("the server did not start: its words are above")
                found = json.loads(line)
                settings = settings.replace(**{"default_versions": found["default_versions"]})
                with closing(Api(found["url"], found["token"])) as api:
                    yield Server(found["url"], found["token"], settings, api)
            finally:
                process.stdin.close()

    def _settings(self, name: str, **flags: Any) -> Settings:
        node = self.folder / name
        node.mkdir(mode=0o755)
        for shared in ("bases", "toolchains"):
            (KEPT / shared).mkdir(parents=True, exist_ok=True)
            (node / shared).symlink_to(KEPT / shared)
        values = {
            "data_dir": str(self.folder / (name + "-data")),
            "node_dir": str(node),
            "registry": self.registry,
            "organization": "bench",
            "build_uid": next(self.uids),
            "start_check": "off",
            **flags,
        }
        return config.load(values).settings


@dataclass(frozen=True)
class Served:
    """A running server, its process, and the tokens of two organizations."""

    api: Api
    process: subprocess.Popen[bytes]
    token: str
    other: str

    def until_ready(self) -> None:
        """Wait until a worker offers slots. Raises `RuntimeError` after `START_S`."""
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with suppress(httpx.HTTPError):
                page = httpx.get(self.api.server + "/metrics", trust_env=False, timeout=5).text.splitlines()
                if any(line.startswith("ignite_free_slots{") and not line.endswith(" 0.0") for line in page):
                    return
            time.sleep(0.1)
        raise RuntimeError(f"no worker offers slots after {START_S:.0f} s")


@contextmanager
def place() -> Iterator[Place]:
    """A fresh folder on memory and a private registry in it. One at a time: two would share cores and build users."""
    KEPT.mkdir(parents=True, exist_ok=True)
    KEPT.chmod(0o755)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not MEMORY.is_dir():
            raise RuntimeError(
                f"there is no {MEMORY}: on a disk these would be other numbers; next: mount a tmpfs there"
            )
        folder = Path(tempfile.mkdtemp(prefix="ignite-builder-bench-", dir=MEMORY))
        folder.chmod(0o755)
        try:
            with embedded.private_registry(folder / "registry") as registry:
                yield Place(folder, registry)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def served(here: Place) -> Iterator[Served]:
    """`serve` and a worker as processes of their own, with two organizations."""
    node = here.folder / "node"
    node.mkdir(mode=0o755)
    for shared in ("bases", "toolchains"):
        (KEPT / shared).mkdir(parents=True, exist_ok=True)
        (node / shared).symlink_to(KEPT / shared)
    with ExitStack() as stack:
        _, redis_url = stack.enter_context(embedded.private_redis(here.folder / "redis"))
        token, other, worker_token = (config.new_secret() for _ in range(3))
        url = f"http://127.0.0.1:{free_port()}"
        settings = config.load(
            {
                "data_dir": str(here.folder / "data"),
                "node_dir": str(node),
                "listen": url.removeprefix("http://"),
                "server": url,
                "registry": here.registry,
                "redis_url": redis_url,
                "message_key": config.new_secret(),
                "build_uid": 61_900,
                "log_bytes": 50 * 1024 * 1024,
                "start_check": "off",
                "pipelines": ("tests.pipeline_script",),
                "catalog": str(ROOT / "tests/data/catalog.toml"),
            }
        ).settings
        tokens = (
            Token(token=token, organization="bench", scopes=("submit", "read")),
            Token(token=other, organization="other", scopes=("submit", "read")),
            Token(token=worker_token, scopes=("worker",)),
        )
        machine.ensure_bases(settings.replace(**{"pipelines": (), "catalog": ""}))  # Python's
        path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT) + (os.pathsep + path if path else "")
        server = stack.enter_context(_serving(settings.replace(**{"tokens": tokens}), here.folder))
        api = Api(url, token)
        stack.callback(api.close)
        of_node = {"token": worker_token, "message_key": "", "tokens": ()}
        stack.enter_context(embedded.running_worker(settings.replace(**of_node), here.folder / "worker.log"))
        yield Served(api, server, token, other)


@contextmanager
def _serving(settings: Settings, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    program = Path(sys.executable).parent / "ignite-builder"
    with config.handed_over(settings) as environ, (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen([program, "serve"], env=environ, stdout=log, stderr=log)
        try:
            yield process
        finally:
            embedded.end(process, 10)


@contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Whatever is started inside runs on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu_s(pid: int) -> float:
    """Seconds of CPU that a process used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
