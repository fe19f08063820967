"""Sessions in two lanes: all run, what each comes to counts, what it says is in one piece, an interrupt ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.build_fixtures import until
from tests.lanes import ROOT

pytestmark = pytest.mark.e2e

RUN = "import sys; from tests.lanes import run; sys.exit(run({commands}))"
WAITS = """\
import os, pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
pathlib.Path(sys.argv[1], "begun-" + os.environ["TEST_LANE"]).touch()
while not heard:
    time.sleep(0.02)
pathlib.Path(sys.argv[1], "ended-" + os.environ["TEST_LANE"]).touch()
"""
SAYS = "echo {name} begins; touch {here}/{name}; until test -e {here}/{other}; do sleep 0.02; done; echo {name} ends"


def started(*commands: tuple[str, ...]) -> subprocess.Popen[str]:
    code = RUN.format(commands=commands)
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def test_all_run_and_one_that_fails_counts(tmp_path: Path) -> None:
    touched = [("touch", str(tmp_path / str(number))) for number in range(5)]
    commands = [touched[0], ("sh", "-c", "exit 3"), *touched[1:]]
    process = started(*commands)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode, out.splitlines()[-1]) == (3, "exit 3: sh -c 'exit 3'")
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3", "4"]
    process = started(*touched)
    process.communicate(timeout=300)
    assert process.returncode == 0


def test_two_run_at_a_time_and_what_each_says_is_in_one_piece(tmp_path: Path) -> None:
    one, other = (SAYS.format(here=tmp_path, name=name, other=other) for name, other in (("a", "b"), ("b", "a")))
    out, _ = started(("sh", "-c", one), ("sh", "-c", other)).communicate(timeout=300)
    assert "\na begins\na ends\n" in out and "\nb begins\nb ends\n" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_lets_what_runs_end_and_starts_nothing(tmp_path: Path, number: int) -> None:
    waits = (sys.executable, "-c", WAITS, str(tmp_path))
    process = started(waits, waits, ("touch", str(tmp_path / "after")))
    assert until(lambda: len(os.listdir(tmp_path)) == 2)
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 128 + number
    assert sorted(os.listdir(tmp_path)) == ["begun-0", "begun-1", "ended-0", "ended-1"]
