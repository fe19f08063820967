"""`python -m tests.lanes [tests/cluster]`: the end-to-end tests as two pytest sessions at a time.

Most of them wait for one thing after the other: one session alone leaves half of two cores idle. Each lane has build
users, package caches and turns of its own (tests/uids.py, tests/kept.py), and always the same files in the same order,
so that a failure comes again by the command that is printed. What the first lane says is seen at once, what the second
says when both have ended.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
E2E = "tests/e2e"
APART = ("test_exploration.py", "test_store_postgres.py")
"""Files of neither lane: `make test-e2e` runs their tests before, one a core."""
SECOND = (
    "test_api.py",
    "test_api_page.py",
    "test_api_requests.py",
    "test_bases.py",
    "test_broker.py",
    "test_broker_roles.py",
    "test_build.py",
    "test_build_probes.py",
    "test_cancels.py",
    "test_chaos.py",
    "test_cli.py",
    "test_cli_real.py",
    "test_cli_start.py",
    "test_components.py",
    "test_conformance.py",
    "test_conformance_compile.py",
    "test_conformance_examples.py",
    "test_counts.py",
)
"""Files of the second lane; all others are the first's, new ones too. `make test` lets the cluster suite follow in the
second, so that it takes some ten minutes less than the first without."""
Command = tuple[str, ...]


def sessions(more: Sequence[str] = ()) -> tuple[list[Command], list[Command]]:
    """The commands of either lane, one after the other. `more` are folders of tests that end the second."""
    pytest = (sys.executable, "-m", "pytest")
    first = (*pytest, E2E, *(f"--ignore={E2E}/{name}" for name in (*APART, *SECOND)))
    second = (*pytest, *(f"{E2E}/{name}" for name in SECOND))
    return [first], [second, *((*pytest, folder) for folder in more)]


class Lane:
    """Commands that run one after the other, whatever each comes to."""

    def __init__(self, number: int, commands: Sequence[Command], out: IO[bytes] | None = None) -> None:
        self.code = 0
        """Of the first command that failed."""
        self._environ = {**os.environ, "TEST_LANE": str(number)}
        self._waiting, self._out = list(commands), out
        self._process: subprocess.Popen[bytes] | None = None

    def goes_on(self) -> bool:
        """Start what is next, where nothing runs any more. Whether something runs."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return True
            self.code, self._process = self.code or code, None
        if self._waiting:
            # A session of its own: what a terminal sends to all that it started reaches it once, by `interrupt`.
            self._process = subprocess.Popen(
                self._waiting.pop(0),
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=self._out,
                stderr=subprocess.STDOUT if self._out else None,
                start_new_session=True,
            )
        return self._process is not None

    def interrupt(self) -> None:
        """Nothing follows what runs now, which ends what it started."""
        self._waiting.clear()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)


def run(lanes: Sequence[Lane]) -> int:
    """Until all have ended: the exit code of one that failed, or that of the signal which ended them."""
    signals: list[int] = []
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: signals.append(number))
    heard = 0
    while any([lane.goes_on() for lane in lanes]):  # a list: each lane is asked
        if signals and not heard:
            heard = signals[0]
            for lane in lanes:
                lane.interrupt()
        time.sleep(0.2)
    return 128 + heard if heard else next((abs(lane.code) for lane in lanes if lane.code), 0)


def main(more: Sequence[str]) -> int:
    first, second = sessions(more)
    for number, commands in enumerate((first, second)):
        for command in commands:
            print(f"TEST_LANE={number} {shlex.join(command)}", flush=True)
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.NamedTemporaryFile(prefix="ignite-builder-lane-1-", suffix=".log"))
        print(f"What lane 1 says comes when both have ended; until then it is in {out.name}", flush=True)
        code = run([Lane(0, first), Lane(1, second, out.file)])
        print("Lane 1:", flush=True)
        out.seek(0)
        for line in out:
            sys.stdout.buffer.write(line)
        sys.stdout.flush()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
