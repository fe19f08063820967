"""Everything in one: a private Redis, SQLite, folders, the API, a worker. For a laptop, the demo and the tests.

The same code as in production, over private parts on free loopback ports, which end with it. Records, sources, logs and
artifacts stay in the data folder.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.config import handed_over, new_secret
from builder.control import folder
from builder.control.process import Control, listen
from builder.errors import BuildError, PlatformError
from builder.local.machine import ensure_bases, require, versions_here
from builder.local.ports import free_port
from builder.node.main import worker_argv
from builder.plan import Toolchain
from builder.process import settle
from builder.settings import Settings, Token

START_S = 120.0


@dataclass
class Embedded:
    """A running embedded server: `url` and a `token` that may submit, read and operate."""

    url: str
    token: str
    settings: Settings
    control: Control
    redis: subprocess.Popen[bytes]
    worker: subprocess.Popen[bytes] | None
    worker_log: Path
    server: Any = None
    """The API's uvicorn server."""

    without_base: Mapping[str, BuildError] = field(default_factory=dict)
    """Runtime → why its base image could not be made."""

    def require(self, row: Toolchain) -> None:
        """One machine is all there is: what it cannot build would wait for another node. Raises `BuildError`."""
        require(self.settings, row, self.without_base.get(row.runtime))

    def kill(self) -> None:
        """Leave at once: the sandboxes first, then no waiting for requests. What follows is `start`'s own way out."""
        if self.worker is not None:
            kill(self.worker)
        if self.server is not None:
            self.server.force_exit = True


@contextmanager
def start(
    settings: Settings, on_event: Callable[[Any], None] = lambda _: None, *, worker: bool = True
) -> Iterator[Embedded]:
    """Start all parts, end them again. Raises `BuildError` SandboxUnavailable and kin, which say what is missing."""
    with ExitStack() as stack:
        data = Path(settings.data_dir)
        without_base: dict[str, BuildError] = {}
        if worker:
            without_base = ensure_bases(settings)
            settings = settings.replace(**{"default_versions": versions_here(settings)})
        (data / "run").mkdir(parents=True, exist_ok=True)
        # Standard output belongs to the command: what the control side logs goes to a file.
        events = stack.enter_context((data / "run" / "events.jsonl").open("a", encoding="utf-8"))
        stack.enter_context(folder.exclusive(data))
        redis, redis_url = stack.enter_context(private_redis(data / "run"))
        token, worker_token = new_secret(), new_secret()
        listener = listen("127.0.0.1:0")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        tokens = (
            Token(token=token, organization=settings.organization, scopes=("submit", "read", "operate")),
            Token(token=worker_token, scopes=("worker",)),
        )
        both = {"redis_url": redis_url, "message_key": new_secret()}
        control = Control(settings.replace(**{**both, "tokens": tokens}), on_event, events=events)
        server = control.server()
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        control.start()
        thread.start()
        stack.callback(_stop_control, control, server, thread, listener)
        log = data / "run" / "worker.log"
        mine = {**both, "server": url, "token": worker_token, "message_key": "", "tokens": ()}
        node = settings.replace(**mine)
        process = stack.enter_context(running_worker(node, log)) if worker else None
        running = Embedded(url, token, settings, control, redis, process, log, server, without_base)
        if process is not None:
            _await_node(running)
        settle()
        stack.callback(gc.unfreeze)
        stack.enter_context(folder.published(data, url, token))
        yield running


@contextmanager
def private_redis(folder: Path, port: int = 0, password: str = "") -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A Redis of our own on a loopback port, without persistence. Yields the process and its URL.

    It takes a password, since every user of the machine reaches the port; a new one where none is named.
    """
    program = shutil.which("redis-server")
    if program is None:
        raise BuildError("Internal", "redis-server is not installed", next="apt-get install -y redis-server")
    folder.mkdir(parents=True, exist_ok=True)
    port, password = port or free_port(), password or new_secret()
    argv = [
        program,
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
        "--dir",
        str(folder),
        "-",  # the rest from standard input, where no other process sees it
    ]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True)
    try:
        assert process.stdin
        with suppress(BrokenPipeError), process.stdin as config:  # a Redis that has ended is reported below
            config.write(f"requirepass {password}\n".encode())
        _await_port(port, process)
        yield process, f"redis://:{password}@127.0.0.1:{port}/0"
    finally:
        end(process, 5)


@contextmanager
def running_worker(settings: Settings, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker process of this node; drained and ended on the way out, killed where that is a Ctrl-C."""
    with handed_over(settings) as environ:
        process = start_worker(settings, environ, log)
        try:
            yield process
        except KeyboardInterrupt:
            kill(process)
            raise
        finally:
            end(process, settings.drain_ms / 1000 + 10)


def start_worker(settings: Settings, environ: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Start the worker, which finds its settings in `environ`; its output goes to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            worker_argv(settings),
            env=environ,
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the command: it must not drain the node
        )


def _await_node(running: Embedded) -> None:
    """Wait until the worker has registered; a worker that ends first is an error with its own words."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if running.worker is not None and running.worker.poll() is not None:
            words = running.worker_log.read_text(errors="replace").strip().splitlines()[-3:]
            raise BuildError("SandboxUnavailable", "the worker did not start: " + " | ".join(words))
        if _live_nodes(running.control):
            return
        time.sleep(0.02)
    raise PlatformError("Internal", f"the worker did not register within {START_S:.0f} s; see {running.worker_log}")


def _live_nodes(control: Control) -> bool:
    from builder.store.nodes import all_nodes

    return any(node.seen_ms_ago < START_S * 1000 and node.toolchains for node in all_nodes(control.store))


def _stop_control(control: Control, server: Any, thread: threading.Thread, listener: socket.socket) -> None:
    server.should_exit = True
    thread.join(timeout=5)
    control.stop()
    listener.close()


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """TERM, then KILL. Whoever does not wait for it (Ctrl-C) has it killed at once: it must not outlive us."""
    if process.poll() is None:
        try:
            process.terminate()
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            kill(process)
        except KeyboardInterrupt:
            kill(process)
            raise


def kill(process: subprocess.Popen[bytes]) -> None:
    """KILL, with the whole group where it leads one: a worker's processes, whose sandboxes die with them."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            if os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    name = Path(str(process.args[0] if isinstance(process.args, list) else process.args)).name
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise PlatformError("Internal", f"{name} ended with {process.returncode}")
        time.sleep(0.01)
    raise PlatformError("Internal", f"{name} does not answer")


@contextmanager
def private_registry(folder: Path) -> Iterator[str]:
    """Debian's docker-registry on a loopback port. Yields "host:port"."""
    argv, host = registry_argv(folder, "127.0.0.1")
    with (folder / "registry.log").open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        _await_port(int(host.rpartition(":")[2]), process)
        yield host
    finally:
        end(process, 5)


def registry_argv(folder: Path, address: str) -> tuple[list[str], str]:
    """How docker-registry is started below `folder` on a free port of `address`; and its "host:port"."""
    program = shutil.which("docker-registry")
    if program is None:
        raise BuildError("Internal", "docker-registry is not installed", next="apt-get install -y docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    host = f"{address}:{free_port()}"
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n"
        f"    rootdirectory: {folder / 'data'}\nhttp:\n  addr: {host}\n",
        encoding="utf-8",
    )
    return [program, "serve", str(config)], host
