"""The front of a Python handler as a process of this machine, without a build."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from builder.data import runtimes_dir
from builder.local.ports import free_port
from tests.build_fixtures import until

pytestmark = pytest.mark.e2e
FORKS = """\
import os, signal, time

os.register_at_fork(after_in_child=lambda: time.sleep(0.5))


def handler(payload, ctx):
    pid = os.fork()
    if pid == 0:
        time.sleep(5)
        os._exit(7)
    time.sleep(0.1)
    os.kill(pid, int(payload))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "handler.py").write_text(FORKS)
    port = free_port()
    env = {**os.environ, "PORT": str(port), "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen([sys.executable, runtimes_dir() / "python/front/serve.py"], env=env) as process:
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(60) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url + "/healthz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_forked_process_that_has_no_handlers_yet(url: str, number: int) -> None:
    """The handler's own hook keeps it between the fork and the front's hook."""
    assert until(lambda: answers(url))
    for _ in range(2):  # the front goes on
        answer = httpx.post(url, content=b"%d" % number, trust_env=False, timeout=60)
        assert answer.json() == -number
