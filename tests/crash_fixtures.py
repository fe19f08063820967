"""A whole installation of real processes that a test may kill: Redis, API, worker, and a receiver of reports.

The clocks are small (heartbeat 300 ms, lease 5 s, tick 100 ms), the parts are the shipped programs, started as an
operator starts them. Node folders lie below /var/tmp, because the build user cannot enter a private temporary folder.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx

from builder.local.embedded import end, private_redis
from builder.local.ports import free_port
from tests import uids
from tests.build_fixtures import pause, tar_of

HEARTBEAT_MS, LEASE_MS, TICK_MS = 300, 5000, 100
PATIENCE_S = 300.0
BUILD_UID = uids.CRASH
REDIS_PASSWORD = "of-the-crash-tests"
ROOT = Path(__file__).resolve().parents[1]
LINES = 20
SPEAKS = f"""\
import time
for number in range({LINES}):
    print("line", number, flush=True)
    time.sleep(0.02)
open("/work/out/server.py", "w").close()
"""
TERMINAL = {"BUILD_STATUS_SUCCEEDED", "BUILD_STATUS_FAILED", "BUILD_STATUS_CANCELLED"}
PROGRAM = str(Path(sys.executable).parent / "ignite-builder")


class Reports:
    """Receives reports over HTTP as a control plane does: everything that arrives, in order of arrival.

    Each `refuse_every`th request is answered with 500 (0: none), and what it brought is not received.
    """

    def __init__(self, refuse_every: int = 0) -> None:
        self.received: list[dict[str, Any]] = []
        asked = itertools.count(1)
        outer = self

        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                refused = bool(refuse_every) and next(asked) % refuse_every == 0
                if not refused:
                    outer.received.append(json.loads(body))
                self.send_response(500 if refused else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/reports"

    def of(self, build_id: str) -> dict[int, list[dict[str, Any]]]:
        """The reports of one build by sequence; repeats of a sequence stand side by side."""
        found: dict[int, list[dict[str, Any]]] = {}
        for report in list(self.received):
            if report["buildId"] == build_id:
                found.setdefault(int(report["sequence"]), []).append(report)
        return found

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass
class Installation:
    """The running parts. `start_*` and `kill_*` are what the tests do to them."""

    folder: Path
    reports: Reports
    environ: dict[str, str]
    redis_port: int
    client: httpx.Client
    stack: ExitStack
    crash_api_at: str = ""
    crash_worker_at: str = ""
    redis: subprocess.Popen[bytes] | None = None
    api: subprocess.Popen[bytes] | None = None
    worker: subprocess.Popen[bytes] | None = None
    accepted: list[str] = field(default_factory=list)

    # Parts

    def start_redis(self) -> None:
        """On the same port each time, and empty each time: it persists nothing."""
        self.redis, _ = self.stack.enter_context(private_redis(self.folder / "redis", self.redis_port, REDIS_PASSWORD))

    def start_api(self) -> None:
        settings = {"CRASH_AT": self.crash_api_at, "DATA_DIR": str(self.folder / "data")}
        self.api = self._start("serve", settings)
        until(self._ready, PATIENCE_S, "the API does not answer")

    def start_worker(self) -> None:
        settings = {"CRASH_AT": self.crash_worker_at, "NODE_DIR": str(self.node_dir)}
        self.worker = self._start("worker", settings)

    def _start(self, command: str, settings: dict[str, str]) -> subprocess.Popen[bytes]:
        env = self.environ | {f"IGNITE_BUILDER_{name}": value for name, value in settings.items()}
        with (self.folder / f"{command}.log").open("ab") as log:
            process = subprocess.Popen(
                [PROGRAM, command], env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.stack.callback(end_group, process)
        return process

    def _ready(self) -> bool:
        assert self.api is not None
        assert self.api.poll() is None, "the API ended: " + self.said("serve")[-2000:]
        with suppress(httpx.TransportError):
            return self.client.get("/healthz").status_code == 200
        return False

    @property
    def node_dir(self) -> Path:
        return self.folder / "node"

    def said(self, command: str) -> str:
        """What `serve` or `worker` said so far, over all its lives."""
        return (self.folder / f"{command}.log").read_text(errors="replace")

    # What a client does

    def submit(self, source: str) -> str:
        """One Python build of a single file."""
        return self._submit(runtime={"python": {}}, sourceCode=base64.b64encode(source.encode()).decode())

    def submit_script(self, script: str) -> str:
        """A build with this one step (tests/pipeline_script.py)."""
        return self._submit(archive=base64.b64encode(tar_of({"build.py": script})).decode())

    def submit_scripts(self, count: int) -> None:
        """Builds whose one step prints LINES numbered lines."""
        for number in range(count):
            self.submit_script(f"# {number}\n{SPEAKS}")

    def _submit(self, **compiled: object) -> str:
        body = {"name": f"crash-{len(self.accepted)}", "code": {"compile": compiled}}
        answer = self.client.post("/v1/ignite/builds", json=body)
        assert answer.status_code == 200, answer.text
        self.accepted.append(answer.json()["buildId"])
        return self.accepted[-1]

    def submit_some(self, count: int, functions: int = 1) -> None:
        """Builds with different sources, so that none is answered from the cache or attached."""
        for number in range(count):
            self.submit(handler(f"{len(self.accepted)}-{number}", functions))

    def get(self, build_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/ignite/builds/{build_id}")
        assert answer.status_code == 200, answer.text
        record: dict[str, Any] = answer.json()
        return record

    def records(self) -> dict[str, dict[str, Any]]:
        return {build_id: self.get(build_id) for build_id in self.accepted}

    def log(self, build_id: str) -> tuple[list[tuple[int, str]], int]:
        """The (sequence, line) pairs of a whole log as a client gets them, and the sequence its `eof` names."""
        lines: list[tuple[int, str]] = []
        path = f"/v1/ignite/builds/{build_id}/logs/stream?fromStart=true"
        with self.client.stream("GET", path) as stream:
            name = ""
            for line in stream.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data" and name == "eof":
                    return lines, int(json.loads(value)["sequence"])
                elif key == "data":
                    entry = json.loads(value)
                    lines.append((int(entry["sequence"]), entry.get("line", "")))
        raise AssertionError("the log stream ended without eof")

    def wait_ended(self, seconds: float) -> None:
        """Until every accepted build has ended and its last report has arrived."""

        def ended() -> bool:
            return all(record["status"] in TERMINAL for record in self.records().values())

        def told() -> bool:
            return all(any(is_terminal(same[0]) for same in self.reports.of(one).values()) for one in self.accepted)

        until(ended, seconds, lambda: f"not all ended: {self._brief()}")
        until(told, PATIENCE_S, "not every build's last report arrived")

    def _brief(self) -> str:
        rows = [f"{one} {record['status']} {record.get('phase')}" for one, record in self.records().items()]
        return "; ".join(rows) + "\nserve: " + self.said("serve")[-3000:] + "\nworker: " + self.said("worker")[-3000:]

    def node_seen_at(self) -> int:
        """When the node last registered, by the store's clock (ms)."""
        with closing(sqlite3.connect(f"file:{self.folder}/data/builder.db?mode=ro", uri=True)) as store:
            return int(store.execute("SELECT max(seen_at) FROM nodes").fetchone()[0])

    # What is left

    def transitions(self, build_id: str) -> list[str]:
        """The actions of a build in the order the API logged them."""
        found = []
        for line in self.said("serve").splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if event.get("event") == "transition" and event.get("build_id") == build_id:
                    found.append(event["action"])
        return found

    def work_left(self) -> list[str]:
        """Entries of the node's work and spool folders."""
        return [path.name for name in ("work", "spool") for path in (self.node_dir / name).glob("*")]

    def build_processes(self) -> dict[int, str]:
        """Pid and command line of live processes that run as a build user of this installation's uids.

        A zombie is none: it runs nothing, and when the machine's process 1 reaps it is not ours to say.
        """
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                state = process.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                if BUILD_UID <= process.stat().st_uid < BUILD_UID + 100 and state not in "ZX":
                    line = process.joinpath("cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(process.name)] = line.decode(errors="replace")
        return found

    def processes(self) -> list[str]:
        """Command lines of all processes that name this installation's folder in their arguments or environment."""
        found = []
        needle = str(self.folder).encode()
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) == os.getpid():
                continue
            with suppress(OSError):
                cmdline = process.joinpath("cmdline").read_bytes()
                if needle in cmdline or needle in process.joinpath("environ").read_bytes():
                    found.append(f"{process.name} {cmdline.replace(bytes(1), b' ').decode(errors='replace')}")
        return found

    def stop_all(self) -> None:
        """End the parts as an operator would: TERM, and wait."""
        for process in (self.worker, self.api, self.redis):
            if process is not None:
                end(process, 15)


def handler(mark: str, functions: int = 1) -> str:
    """A Python handler whose compilation takes longer with more functions (about 20,000 a second)."""
    lines = [f"def f{number}(x):\n    return x + {number}\n" for number in range(functions)]
    return f"MARK = {mark!r}\n\n\n" + "".join(lines) + "\n\ndef handler(payload, ctx):\n    return MARK\n"


def is_terminal(report: dict[str, Any]) -> bool:
    return report["buildStatus"] in TERMINAL


def until(condition: Callable[[], object], seconds: float, what: str | Callable[[], str]) -> None:
    """Poll; say what was awaited when it does not come."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() > begun + seconds:
            raise AssertionError(f"after {seconds:.0f} s: {what if isinstance(what, str) else what()}")
        pause(begun)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all of its group; each was started as the leader of one."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """TERM to the leader, KILL to what stays of its group."""
    end(process, 15)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def catalog_with_scripts(folder: Path) -> Path:
    """The shipped catalog and the third pipeline's row, with its toolchain beside them."""
    folder.mkdir()
    (folder / "script").symlink_to(ROOT / "tests/data/script")
    rows = (ROOT / "runtimes/catalog.toml", ROOT / "tests/data/catalog.toml")
    path = folder / "catalog.toml"
    path.write_text("\n".join(one.read_text() for one in rows))
    return path


@contextmanager
def installation(kept: Path, *, crash_api_at: str = "", crash_worker_at: str = "") -> Iterator[Installation]:
    """Redis, API and receiver run; the test starts the worker. On the way out all of it ends and is removed.

    `kept` is the fixture: the bases are there, and no other session is at work.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="crash-", dir=kept)))
        folder.chmod(0o755)
        (folder / "node").mkdir()
        (folder / "node" / "bases").symlink_to(kept / "bases")
        reports = Reports()
        stack.callback(reports.stop)
        token, worker_token = secrets.token_hex(16), secrets.token_hex(16)
        api_port, redis_port = free_port(), free_port()
        url = f"http://127.0.0.1:{api_port}"
        settings = {
            "LISTEN": f"127.0.0.1:{api_port}",
            "SERVER": url,
            "TOKEN": worker_token,
            "TOKENS": (
                f'[{{token="{token}", organization="crash", scopes=["submit", "read"]}},'
                f' {{token="{worker_token}", scopes=["worker"]}}]'
            ),
            "MESSAGE_KEY": secrets.token_hex(16),
            "REDIS_URL": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{redis_port}/0",
            "REPORT_URL": reports.url,
            "NODE_ID": "crash-node",
            "QUEUES": "compile.python,compile.any",
            "PIPELINES": "tests.pipeline_script",
            "START_CHECK": "off",
            "CATALOG": str(catalog_with_scripts(folder / "catalog")),
            "BUILD_UID": str(BUILD_UID),
            "HEARTBEAT_MS": str(HEARTBEAT_MS),
            "LEASE_MS": str(LEASE_MS),
            "TICK_MS": str(TICK_MS),
            "DRAIN_MS": "5000",
            "CONFIG": os.devnull,
        }
        environ = {name: value for name, value in os.environ.items() if not name.startswith("IGNITE_BUILDER_")}
        environ |= {f"IGNITE_BUILDER_{name}": value for name, value in settings.items()}
        environ |= {"HOME": str(folder), "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        headers = {"authorization": f"Bearer {token}"}
        client = stack.enter_context(
            httpx.Client(base_url=url, headers=headers, trust_env=False, verify=False, timeout=120)
        )
        parts = Installation(
            folder=folder,
            reports=reports,
            environ=environ,
            redis_port=redis_port,
            client=client,
            stack=stack,
            crash_api_at=crash_api_at,
            crash_worker_at=crash_worker_at,
        )
        parts.start_redis()
        parts.start_api()
        yield parts
