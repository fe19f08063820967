"""Two lanes of sessions: both are waited for, what one comes to counts, and an interrupt ends both once."""

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

LANES = "import sys; from tests.lanes import Lane, run; sys.exit(run([Lane(0, {first}), Lane(1, {second})]))"
WAITS = """\
import os, pathlib, signal, sys, time
heard = []
signal.signal(signal.SIGINT, lambda *_: heard.append(1))
pathlib.Path(sys.argv[1], "begun-" + os.environ["TEST_LANE"]).touch()
while not heard:
    time.sleep(0.02)
pathlib.Path(sys.argv[1], "ended-" + os.environ["TEST_LANE"]).touch()
"""


def started(first: list[list[str]], second: list[list[str]]) -> subprocess.Popen[bytes]:
    code = LANES.format(first=first, second=second)
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)


@pytest.mark.parametrize("failing", [0, 1])
def test_what_either_lane_comes_to_counts_and_nothing_is_left_out(tmp_path: Path, failing: int) -> None:
    def lane(number: int) -> list[list[str]]:
        last = ["sh", "-c", f"test $TEST_LANE = {number} && touch {tmp_path}/after-{number}"]
        return [["sh", "-c", "exit 3"] if number == failing else ["true"], last]

    assert started(lane(0), lane(1)).wait(300) == 3
    assert sorted(os.listdir(tmp_path)) == ["after-0", "after-1"]


def test_both_end_well(tmp_path: Path) -> None:
    assert started([["true"]], [["true"], ["true"]]).wait(300) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_lets_both_end_what_they_do(tmp_path: Path, number: int) -> None:
    waits = [sys.executable, "-c", WAITS, str(tmp_path)]
    after = ["touch", str(tmp_path / "after")]
    process = started([waits, after], [waits, after])
    assert until(lambda: len(os.listdir(tmp_path)) == 2)
    process.send_signal(number)
    assert process.wait(300) == 128 + number
    assert sorted(os.listdir(tmp_path)) == ["begun-0", "begun-1", "ended-0", "ended-1"]
