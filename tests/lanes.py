"""`python -m tests.lanes [tests/cluster]`: the end-to-end tests in pytest sessions, two at a time; `unit`: the others.

Most of them wait for one thing after the other: one session alone leaves half of two cores idle. Each lane has build
users, package caches and turns of its own (tests/uids.py, tests/kept.py) and takes the next session when it has ended
one. A session has always the same files in the same order, so a failure comes again by its command, which is printed
with all that it said when it has ended.

Most unit tests take less time than a plugin takes to hand them to another process: each session collects its own files
alone, where one that is distributed collects all of them in each process. All their sessions run at once, since some
tests wait, and their files are in memory, where it has room: syncing them took a fifth of the time.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
E2E = Path("tests/e2e")
APART = ("test_exploration.py", "test_store_postgres.py")
"""Modules of no session: `make test-apart` runs their tests before, one a core, with those of tests/slow."""
STARTS = ("test_", "test_ca", "test_co", "test_cou", "test_e", "test_f", "test_h", "test_p", "test_s", "test_se")
"""Where sessions begin in the order of the names: none takes much longer than a few minutes."""
LANES = 2
UNIT_LANES = 4
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 1024**3
"""A file system in memory, and what it must have free."""
Command = tuple[str, ...]


def groups() -> list[list[Path]]:
    """The files of each session of end-to-end tests, relative to the checkout."""
    names = sorted(path.name for path in (ROOT / E2E).glob("test_*.py") if path.name not in APART)
    return [[E2E / name for name in names if start <= name < end] for start, end in pairwise((*STARTS, "test_~"))]


def sessions(more: Sequence[str] = ()) -> list[Command]:
    """Their commands. `more` are folders of tests that take longest and come first."""
    pytest = (sys.executable, "-m", "pytest")
    return [*((*pytest, folder) for folder in more), *((*pytest, *map(str, files)) for files in groups())]


def unit_sessions() -> list[Command]:
    """The commands of the unit tests but the slow ones, which `make test-apart` runs."""
    pytest = (
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-o",
        "tmp_path_retention_policy=failed",
        "tests/unit",
    )
    return [(*pytest, f"--part={part}/{UNIT_LANES}") for part in range(1, UNIT_LANES + 1)]


def unit() -> int:
    """Run the unit tests. Their files go at the end."""
    has_room = os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
    with tempfile.TemporaryDirectory(prefix="ignite-builder-files-", dir=MEMORY if has_room else None) as folder:
        os.environ["PYTEST_DEBUG_TEMPROOT"] = folder
        return run(unit_sessions(), UNIT_LANES)


class Session:
    """A command that runs in a lane; all that it says is kept until it has ended."""

    def __init__(self, command: Command, lane: int, log: Path) -> None:
        self.command, self.lane = command, lane
        self._log, self._begun = log, time.monotonic()
        # What pytest makes of the assertions is kept, whatever the environment says: each session imports them anew.
        environ = {**os.environ, "TEST_LANE": str(lane), "PYTHONDONTWRITEBYTECODE": ""}
        # A process group of its own: what a terminal sends to all that it started reaches it once, by `interrupt`.
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        print(f"lane {lane}: {shlex.join(command)}\n  says until it ends: {log}", flush=True)

    def ended(self) -> bool:
        return self._process.poll() is not None

    def interrupt(self) -> None:
        """Its fixtures end what they started."""
        if not self.ended():
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait for its end."""
        self._process.wait()

    def close(self) -> int:
        """Print what an ended one said; its exit code."""
        code, took = self._process.wait(), time.monotonic() - self._begun
        print(f"\nlane {self.lane}, exit {code} after {took:.0f} s: {shlex.join(self.command)}", flush=True)
        with self._log.open("rb") as said:
            shutil.copyfileobj(said, sys.stdout.buffer)
        sys.stdout.flush()
        return code


def run(commands: Sequence[Command], lanes: int = LANES) -> int:
    """Run all, whatever each comes to, `lanes` at a time. The exit code of one that failed, or 128 and the number of
    the signal that ended them."""
    signals: list[int] = []
    for ending in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, lambda heard, _: signals.append(heard))
    waiting, free, running = list(enumerate(commands)), list(range(lanes)), list[Session]()
    failed: list[tuple[int, Command]] = []
    told, began = False, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ignite-builder-lanes-") as logs:
        try:
            while running or (waiting and not signals):
                while waiting and free and not signals:
                    number, command = waiting.pop(0)
                    running.append(Session(command, free.pop(0), Path(logs, f"{number}.log")))
                if signals and not told:
                    told = True
                    for session in running:
                        session.interrupt()
                for session in [each for each in running if each.ended()]:
                    running.remove(session)
                    free.append(session.lane)
                    if code := session.close():
                        failed.append((code, session.command))
                time.sleep(0.1)
        finally:  # what nobody can be told of any more ends, too
            for session in running:
                session.interrupt()
            for session in running:
                session.wait()
    print(f"all sessions: {time.monotonic() - began:.0f} s", flush=True)
    for code, command in failed:
        print(f"exit {code}: {shlex.join(command)}", flush=True)
    return 128 + signals[0] if signals else abs(failed[0][0]) if failed else 0


if __name__ == "__main__":
    sys.exit(unit() if sys.argv[1:] == ["unit"] else run(sessions(sys.argv[1:])))
