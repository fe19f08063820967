"""A worker beside a real Redis and control side, for tests of what travels between them. It builds nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from builder.broker.app import make_celery
from builder.contract.messages import RUN, run_message
from builder.local.embedded import end
from builder.settings import Settings
from tests.build_fixtures import until
from tests.serve_fixtures import Serve

KEY = "k" * 32
QUEUE = "compile.python"
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Worker:
    """The process and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def children(self) -> set[int]:
        """Its pool."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in path.read_text().split()}

    def took(self, build_id: str) -> bool:
        """Whether a hint came through to an owner, in time. There is no such build, which the log says."""
        return until(lambda: build_id in self.said() or self.process.poll() is not None) and (build_id in self.said())


def hint(redis_url: str, build_id: str, **options: object) -> None:
    """A hint as the control side sends it; `options` are those of Celery's `send_task`."""
    with make_celery(Settings(redis_url=redis_url)) as app:
        app.send_task(RUN, kwargs=run_message(build_id, KEY), retry=False, **{"queue": QUEUE, **options})


@contextmanager
def worker(folder: Path, serve: Serve, redis_url: str, *command: str, **settings: str) -> Iterator[Worker]:
    """`ignite-builder worker`, or another command, until it is ready; ended on the way out."""
    values: Mapping[str, str] = {
        "SERVER": serve.url,
        "TOKEN": "t-worker",
        "REDIS_URL": redis_url,
        "NODE_DIR": str(folder / "node"),
        "NODE_ID": "node-1",
        "QUEUES": QUEUE,
        "SLOTS": "1",
        "HEARTBEAT_MS": "200",
        "UNSANDBOXED": "true",
        "DRAIN_MS": "0",
        **settings,
    }
    environ = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
    environ |= {f"IGNITE_BUILDER_{name}": value for name, value in values.items()}
    environ |= {"XDG_CONFIG_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    (folder / "node").mkdir(parents=True)
    log = folder / "worker.log"
    argv = command or (str(Path(sys.executable).parent / "ignite-builder"), "worker")
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield Worker(process, log)
    finally:
        end(process, 30)
