"""Whoever dies while a sandbox is made and held: its command does not run and no process stays. On the real bwrap."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build_fixtures import processes_of
from tests.sandbox_fixtures import UID, until, work_folder

pytestmark = [pytest.mark.e2e, pytest.mark.skipif(os.geteuid() != 0, reason="the inner PID namespace takes root")]

ROOT = Path(__file__).parents[2]
STEP = "echo ran > /work/ran; sleep 1000"

# The worker's side, stopped where the test wants it: each replaces one function of `launch` and then runs a step.
WORKER = """
import os, sys, time
from pathlib import Path
from builder.sandbox import launch
from tests.sandbox_fixtures import run

def reached(*_, **__):
    print("reached", flush=True)
    time.sleep(1000)

{arrange}
run(Path(sys.argv[1]), "/bin/sh", "-c", {step!r}, use_cgroups={use_cgroups})
"""
HELD = "launch.Sandbox.release = reached"
AT_THE_GATE = "launch.pipes_of = reached"
UNREAD = "launch._first_process = reached"
# prlimit waits before it becomes bubblewrap, so that bubblewrap starts when the worker is dead already.
LATE = """
slow = Path(sys.argv[1]).parent / "prlimit"
slow.write_text("#!/bin/sh\\nsleep 1\\nexec " + launch.program("prlimit") + ' "$@"\\n')
slow.chmod(0o755)
real = launch.program
launch.program = lambda name: str(slow) if name == "prlimit" else real(name)
launch._first_process = reached
"""
MOMENTS = {"held": HELD, "at the gate": AT_THE_GATE, "its status is unread": UNREAD, "before bubblewrap starts": LATE}


@pytest.fixture
def work() -> Iterator[Path]:
    with work_folder() as folder:
        yield folder


def processes() -> list[str]:
    return processes_of(range(UID, UID + 1))


def start(work: Path, arrange: str, use_cgroups: bool = True) -> subprocess.Popen[str]:
    code = WORKER.format(arrange=arrange, step=STEP, use_cgroups=use_cgroups)
    return subprocess.Popen([sys.executable, "-c", code, str(work)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def assert_gone(work: Path) -> None:
    assert until(lambda: processes() == []), processes()
    time.sleep(0.2)
    assert not (work / "ran").exists(), "the command ran although nobody released it"
    assert processes() == []


@pytest.mark.parametrize("use_cgroups", [True, False], ids=["cgroups", "without"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_worker_is_killed(work: Path, moment: str, use_cgroups: bool) -> None:
    with start(work, MOMENTS[moment], use_cgroups) as worker:
        assert worker.stdout and worker.stdout.readline() == "reached\n"
        worker.kill()
    assert_gone(work)


def test_the_worker_is_killed_at_any_moment(work: Path) -> None:
    """From the start of prlimit on, every 2 ms: where the command ran it was released, and it went with the worker."""
    arrange = (
        "real = launch.start\n"
        "def start(*given):\n    started = real(*given)\n    print('started', flush=True)\n    return started\n"
        "launch.start = start"
    )
    for delay_ms in range(0, 30, 2):
        with start(work, arrange) as worker:
            assert worker.stdout and worker.stdout.readline() == "started\n"
            time.sleep(delay_ms / 1000)
            worker.kill()
        assert until(lambda: processes() == []), (delay_ms, processes())


@pytest.mark.parametrize("who", ["self.process.pid", "self.first"])
def test_a_process_of_the_sandbox_is_killed_while_it_is_held(work: Path, who: str) -> None:
    arrange = (
        "real = launch.Sandbox.release\n"
        f"def release(self):\n    os.kill({who}, {int(signal.SIGKILL)})\n    real(self)\n"
        "launch.Sandbox.release = release"
    )
    with start(work, arrange) as worker:
        assert worker.wait(300) != 0, "what never ran is no result"
    assert_gone(work)
