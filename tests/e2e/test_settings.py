"""Settings in real processes: a child has its parent's whole, `serve` and `worker` refuse what cannot work.

Real Redis and control side; the nodes have no toolchain, since they build nothing here.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import msgspec
import pytest

from builder.config import handed_over, load
from builder.local import embedded
from builder.settings import Settings
from tests.build_fixtures import closed_port, until
from tests.program_fixtures import Program, ended
from tests.program_fixtures import serving as running
from tests.serve_fixtures import TOKENS, Serve, serving

pytestmark = pytest.mark.e2e

ASKS = """\
import os, sys, msgspec
from builder.config import load
if sys.argv[1:]:
    os.closerange(3, 256)
    os.execv(sys.executable, [sys.executable, sys.argv[0]])
print(msgspec.json.encode(load().settings).decode())
print(open("/proc/self/environ").read() + open("/proc/self/cmdline").read())
"""
HOSTILE = """\
unsandboxed = true
slots = 8
registry = "registry.corp:5000"
tokens = [{ token = "t", scopes = ["worker"] }]
"""
NODE_QUEUE = 'ignite_free_slots{queue="compile.none"}'


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with (
        embedded.private_redis(tmp_path_factory.mktemp("redis")) as (_, url),
        serving(tmp_path_factory.mktemp("serve"), url) as server,
    ):
        yield server


def hostile_home(folder: Path) -> Path:
    """A home whose settings file says the opposite."""
    path = folder / ".config" / "ignite-builder" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(HOSTILE)
    return folder


@pytest.mark.parametrize("restarted", [False, True])
def test_a_child_process_has_the_settings_whole_and_shows_none(
    restarted: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = hostile_home(tmp_path / "home")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    for name, value in {"UNSANDBOXED": "false", "SLOTS": "2", "REGISTRY": "", "TOKENS": "[]"}.items():
        monkeypatch.setenv(f"IGNITE_BUILDER_{name}", value)
    monkeypatch.setenv("IGNITE_BUILDER_REGISTRY_PASSWORD", "hunter2")
    parent = load().settings
    assert (parent.unsandboxed, parent.slots, parent.registry, parent.tokens) == (False, 2, "", ())
    script = tmp_path / "asks.py"
    script.write_text(ASKS)
    with handed_over(parent) as environ:
        argv = [sys.executable, str(script), *(["again"] if restarted else [])]
        done = subprocess.run(argv, env=environ, capture_output=True, check=True, text=True, timeout=120)
    first, _, visible = done.stdout.partition("\n")
    assert msgspec.json.decode(first, type=Settings) == parent
    assert "hunter2" in first and "hunter2" not in visible


def node_of(serve: Serve, folder: Path, **more: str) -> dict[str, str]:
    """Settings of a node that reads a queue of its own."""
    values = {
        "server": serve.url,
        "token": "t-worker",
        "redis_url": serve.redis_url,
        "node_dir": str(folder / "node"),
        "node_id": "settings-node",
        "queues": "compile.none",
        "unsandboxed": "true",
        "heartbeat_ms": "100",
    }
    return values | more


def starts(log: Path) -> int:
    """How often the process behind a log has started: it says aloud each time that it has no sandbox."""
    return log.read_text().count("UNSANDBOXED")


def test_a_worker_of_ours_runs_with_its_parents_settings_also_when_it_restarts_itself(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(hostile_home(tmp_path / "home")))
    values = node_of(serve, tmp_path)
    log = tmp_path / "worker.log"
    node = load(values | {"queues": ("compile.none",), "slots": 2, "registry": "", "tokens": ()}).settings
    with embedded.running_worker(node, log) as worker:
        assert until(lambda: serve.metrics().get(NODE_QUEUE) == 2), log.read_text()
        assert until(lambda: len(children_of(worker.pid)) >= 2), log.read_text()
        for pid in (worker.pid, *children_of(worker.pid)):
            with suppress(OSError) if pid != worker.pid else nullcontext():  # a short-lived child may be gone by now
                shown = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
                assert b"t-worker" not in shown
        worker.send_signal(signal.SIGHUP)
        assert until(lambda: starts(log) == 2), log.read_text()
        assert until(lambda: serve.metrics().get(NODE_QUEUE) == 2), log.read_text()
        assert worker.poll() is None


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def test_an_operators_worker_reads_its_file_and_reads_it_again_at_a_hup(serve: Serve, tmp_path: Path) -> None:
    program = Program(tmp_path / "home", node_of(serve, tmp_path))
    file = hostile_home(program.home) / ".config" / "ignite-builder" / "config.toml"
    with running(program, "worker") as (worker, log):
        assert until(lambda: serve.metrics().get(NODE_QUEUE) == 8), log.read_text()
        file.write_text("slots = 3\n")
        assert until(lambda: len(children_of(worker.pid)) >= 8), log.read_text()  # it hears signals by then
        worker.send_signal(signal.SIGHUP)
        assert until(lambda: serve.metrics().get(NODE_QUEUE) == 3), log.read_text()
        assert until(lambda: len(children_of(worker.pid)) >= 3), log.read_text()  # as above: it registers first
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(300) == 0, log.read_text()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"server": ""}, "IGNITE_BUILDER_SERVER"),
        ({"token": ""}, "IGNITE_BUILDER_TOKEN_FILE"),
        ({"token": "not-known"}, "this token is not known here"),
        ({"token": "t-read"}, "lacks the scope worker"),
        ({"token": "t-worker-1"}, "node_id"),
    ],
    ids=["no server", "no token", "unknown", "no worker", "another node"],
)
def test_a_worker_that_nobody_takes_ends_and_says_what_to_do(
    changed: dict[str, str], words: str, serve: Serve, tmp_path: Path
) -> None:
    ran = Program(tmp_path / "home", node_of(serve, tmp_path) | changed).run("worker")
    assert (ran.code, words in ran.err, "Traceback" in ran.err) == (75, True, False), ran.err
    assert "InvalidRequest" in ran.err


def test_plain_celery_says_so_as_well(serve: Serve, tmp_path: Path) -> None:
    program = Program(tmp_path / "home", node_of(serve, tmp_path, token="not-known"))
    argv = [sys.executable, "-m", "celery", "-A", "builder.node.celery", "worker"]
    environ = program.environ
    program.home.mkdir()
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 75, done.stderr
    assert "this token is not known here" in done.stderr and "IGNITE_BUILDER_TOKEN_FILE" in done.stderr


CLOSED = "{closed}"
"""Stands for a port where nobody listens."""


@pytest.mark.parametrize(
    ("changed", "code", "reason", "where"),
    [
        ({"listen": "nonsense"}, 2, "InvalidRequest", "listen"),
        ({"listen": "192.0.2.1:8480"}, 2, "InvalidRequest", "listen"),
        ({"store_url": "mysql://x"}, 2, "InvalidRequest", "store_url"),
        ({"store_url": f"postgresql://u:hunter2@127.0.0.1:{CLOSED}/x"}, 75, "Internal", "store_url"),
        ({"redis_url": "nonsense"}, 2, "InvalidRequest", "redis_url"),
        ({"report_url": "notaurl"}, 2, "InvalidRequest", "report_url"),
        ({"report_url": "http://127.0.0.1:/reports"}, 2, "InvalidRequest", "report_url"),
        ({"tokens": f"[{TOKENS['both']}, {TOKENS['both'].replace('acme', 'beta')}]"}, 2, "InvalidRequest", "tokens"),
    ],
    ids=["no address", "not ours", "mysql", "unreachable", "no Redis", "no URL", "no port", "two organizations"],
)
def test_serve_refuses_in_words_what_it_cannot_start_with(
    changed: dict[str, str], code: int, reason: str, where: str, tmp_path: Path
) -> None:
    values = {
        "listen": "127.0.0.1:0",
        "data_dir": str(tmp_path / "data"),
        "message_key": "k" * 32,
        "tokens": f"[{TOKENS['both']}]",
    }
    with closed_port() as port:
        named = {name: text.replace(CLOSED, str(port)) for name, text in changed.items()}
        ran = Program(tmp_path / "home", values | named).run("serve")
    assert (ran.code, reason in ran.err, where in ran.err) == (code, True, True), ran.err
    assert not [word for word in ("BROKEN", "Traceback", "hunter2") if word in ran.err + ran.out]


def test_serve_says_where_it_listens(serve: Serve) -> None:
    lines = [json.loads(line) for line in serve.out.read_text().splitlines()]
    assert [line["url"] for line in lines if line["action"] == "listening"] == [serve.url]


def test_a_worker_whose_token_is_withdrawn_drains_and_ends(tmp_path: Path) -> None:
    with embedded.private_redis(tmp_path / "redis") as (_, url), serving(tmp_path / "first", url) as first:
        program = Program(tmp_path / "home", node_of(first, tmp_path))
        with program.started("worker") as worker:
            assert until(lambda: first.metrics().get(NODE_QUEUE) == 2)
            assert first.stop() == 0
            second = {
                "listen": first.url.removeprefix("http://"),
                "data_dir": str(tmp_path / "data"),
                "redis_url": url,
                "message_key": "k" * 32,
                "tokens": f"[{TOKENS['both']}]",
            }
            with running(Program(tmp_path / "second", second), "serve"):
                ran = ended(worker)
    assert ran.code == 75, ran.err
    assert "the API refuses this node" in ran.out + ran.err
