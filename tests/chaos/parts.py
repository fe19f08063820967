"""The real parts of a history, each of which can be killed, paused and started again at its address."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from builder.local.embedded import end
from builder.local.ports import free_port
from tests import postgres_fixtures, uids
from tests.chaos.proxy import FaultProxy, fault_proxy
from tests.chaos.schedule import ORGANIZATIONS, WORKERS, History
from tests.crash_fixtures import PROGRAM, ROOT, Reports, catalog_with_scripts

HEARTBEAT_MS, LEASE_MS, TICK_MS = 700, 3000, 200
SLOTS = 2
PASSWORD = "of-the-chaos"
QUEUES = ("compile.python", "compile.any")
START_S = 300.0
LANE_UIDS = 20
"""Uids of one of the histories that run at once: three for each worker."""


@dataclass
class Part:
    """A process of a part, the leader of its own group. `down`: a fault ended it and will start it again."""

    name: str
    argv: list[str]
    log: Path
    environ: dict[str, str]
    stdin: bytes = b""
    as_user: dict[str, Any] = field(default_factory=dict)
    cwd: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    down: bool = False
    starts: int = 0

    def start(self) -> None:
        """Start it and do not wait for it."""
        self.down, self.starts = False, self.starts + 1
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, env=self.environ, cwd=self.cwd, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True, **self.as_user,
            )  # fmt: skip
        assert self.process.stdin
        with suppress(BrokenPipeError), self.process.stdin as stdin:
            stdin.write(self.stdin)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def children(self) -> list[int]:
        """The pids of its children, oldest first."""
        with suppress(OSError):
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="utf-8")
            return [int(pid) for pid in text.split()]
        return []

    def signal_all(self, number: int) -> None:
        """To the process, its children (which may lead groups of their own) and its group."""
        children = self.children()
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        self.down = True
        self.signal_all(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def close(self) -> None:
        """TERM to the leader, KILL to what stays of its group."""
        if self.process is not None:
            self.signal_all(signal.SIGCONT)
            end(self.process, 20)
            self.signal_all(signal.SIGKILL)

    def said(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Parts:
    """Everything that runs. `tokens` are the clients' by organization."""

    folder: Path
    apis: list[Part]
    urls: list[str]
    workers: list[Part]
    redis: Part
    redis_url: str
    registry: Part
    registry_host: str
    proxy: FaultProxy
    database: Part | None
    store: Engine
    reports: Reports
    tokens: dict[str, str]
    uids: range

    @property
    def every(self) -> list[Part]:
        return [*self.workers, *self.apis, self.redis, self.registry, *([self.database] if self.database else [])]

    def broker(self) -> Redis:
        return Redis.from_url(self.redis_url, socket_timeout=1, socket_connect_timeout=1)

    def node_dirs(self) -> list[Path]:
        return [self.folder / f"node-{number}" for number in range(WORKERS)]

    def left_on_nodes(self) -> list[str]:
        """Work folders and spools."""
        return [
            str(path) for node in self.node_dirs() for name in ("work", "spool") for path in (node / name).glob("*")
        ]

    def build_processes(self) -> list[str]:
        """Live processes of this history's build users."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state = process.joinpath("stat").read_text().rpartition(")")[2].split()[0]
                if process.stat().st_uid in self.uids and state not in "ZX":
                    line = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ")
                    found.append(f"{process.name} {line.decode(errors='replace')}")
        return found

    def mounts(self) -> list[str]:
        """Mounts below this history's folder in any mount namespace that we see."""
        found: set[str] = set()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                lines = process.joinpath("mountinfo").read_text(encoding="utf-8").splitlines()
                found |= {line for line in lines if str(self.folder) in line}
        return sorted(found)

    def transitions(self) -> list[dict[str, Any]]:
        """The transitions that the control processes logged."""
        found = []
        for line in "".join(part.said() for part in self.apis).splitlines():
            if '"transition"' in line:
                with suppress(ValueError):
                    found.append(json.loads(line))
        return found


@contextmanager
def running(history: History, kept: Path, lane: int) -> Iterator[Parts]:
    """Start all parts; end and remove all on the way out. `lane` tells histories that run at once apart."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"chaos-{history.seed}-", dir=kept)))
        folder.chmod(0o755)
        reports = Reports(refuse_every=10)
        stack.callback(reports.stop)
        redis_part, redis_url = _redis(folder)
        registry_part, registry_host = _registry(folder)
        proxy = stack.enter_context(fault_proxy(registry_host))
        database, store_url = _postgres(folder, stack) if history.postgres else (None, "")
        tokens = {name: secrets.token_hex(8) for name in ORGANIZATIONS}
        worker_token = secrets.token_hex(8)
        rows = [
            f'{{token="{token}", organization="{name}", scopes=["submit", "read"]}}' for name, token in tokens.items()
        ]
        rows.append(f'{{token="{worker_token}", scopes=["worker"]}}')
        first = uids.CHAOS + lane * LANE_UIDS
        environ = _environ(
            folder,
            TOKENS=f"[{', '.join(rows)}]", TOKEN=worker_token, MESSAGE_KEY=secrets.token_hex(16), REDIS_URL=redis_url,
            REPORT_URL=reports.url, REGISTRY=proxy.host, QUEUES=",".join(QUEUES), PIPELINES="tests.pipeline_script",
            START_CHECK="off",
            CATALOG=str(catalog_with_scripts(folder / "catalog")), HEARTBEAT_MS=str(HEARTBEAT_MS),
            LEASE_MS=str(LEASE_MS), TICK_MS=str(TICK_MS), DRAIN_MS="3000", STOP_GRACE_MS="1000", SLOTS=str(SLOTS),
            RETRY_BACKOFF_MS="500", DATA_DIR=str(folder / "data"), STORE_URL=store_url,
            CONFIG=os.devnull,
        )  # fmt: skip
        apis, urls = [], []
        for number in range(history.apis):
            address = f"127.0.0.1:{free_port()}"
            urls.append(f"http://{address}")
            crash = history.api_label if number == 0 else ""
            mine = environ | _settings(LISTEN=address, CRASH_AT=crash)
            apis.append(Part(f"serve-{number}", [PROGRAM, "serve"], folder / f"serve-{number}.log", mine))
        workers = []
        for number in range(WORKERS):
            node = folder / f"node-{number}"
            node.mkdir()
            (node / "bases").symlink_to(kept / "bases")
            mine = environ | _settings(
                SERVER=urls[number % len(urls)], NODE_DIR=str(node), NODE_ID=f"node-{number}",
                BUILD_UID=str(first + number * (SLOTS + 2)), CRASH_AT=history.worker_labels[number],
            )  # fmt: skip
            workers.append(Part(f"worker-{number}", [PROGRAM, "worker"], folder / f"worker-{number}.log", mine))
        store = create_engine(
            store_url or f"sqlite:///file:{folder}/data/builder.db?mode=ro&uri=true", poolclass=NullPool
        )
        parts = Parts(
            folder=folder, apis=apis, urls=urls, workers=workers, redis=redis_part, redis_url=redis_url,
            registry=registry_part, registry_host=registry_host, proxy=proxy, database=database, store=store,
            reports=reports, tokens=tokens, uids=range(first, first + LANE_UIDS),
        )  # fmt: skip
        for part in (redis_part, registry_part, *apis, *workers):
            stack.callback(part.close)
            part.start()
        yield parts


def _environ(folder: Path, **settings: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
    ours = {"HOME": str(folder), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    return inherited | ours | _settings(**settings)


def _settings(**settings: str) -> dict[str, str]:
    return {f"IGNITE_BUILDER_{name}": value for name, value in settings.items()}


def _redis(folder: Path) -> tuple[Part, str]:
    """It keeps nothing: each life begins empty."""
    port = free_port()
    argv = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "-"]
    part = Part("redis", argv, folder / "redis.log", dict(os.environ), f"requirepass {PASSWORD}\n".encode())
    return part, f"redis://:{PASSWORD}@127.0.0.1:{port}/0"


def _registry(folder: Path) -> tuple[Part, str]:
    program = shutil.which("docker-registry")
    assert program, "docker-registry is not installed; next: deploy/setup"
    host = f"127.0.0.1:{free_port()}"
    config = folder / "registry.yml"
    config.write_text(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n"
        f"    rootdirectory: {folder / 'registry'}\nhttp:\n  addr: {host}\n",
        encoding="utf-8",
    )
    return Part("registry", [program, "serve", str(config)], folder / "registry.log", dict(os.environ)), host


def _postgres(folder: Path, stack: ExitStack) -> tuple[Part, str]:
    cluster = stack.enter_context(postgres_fixtures.cluster())
    part = Part(
        "database", list(cluster.argv), folder / "postgres.log", cluster.environ,
        as_user=cluster.as_user, cwd=cluster.folder,
    )  # fmt: skip
    stack.callback(part.close)
    part.start()
    await_database(part, cluster.folder)
    return part, f"postgresql+psycopg://postgres@/postgres?host={cluster.folder}"


def await_database(part: Part, folder: Path) -> None:
    """Until it accepts sessions."""
    engine = create_engine(f"postgresql+psycopg://postgres@/postgres?host={folder}", poolclass=NullPool)
    limit = time.monotonic() + START_S
    while True:
        with suppress(Exception), engine.connect():
            return
        assert time.monotonic() < limit, part.said()[-2000:]
        if not part.is_running:  # it may have met the shared memory of its former life
            part.start()
        time.sleep(0.1)
