"""What the service promises while its own processes die: every accepted build ends once, told once, nothing is left.

Real processes, killed with SIGKILL at the labelled points of the line (`builder/faults.py`) or from outside.
"""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from builder.claims.spool import is_owned, own, spool_path
from builder.node.leftovers import remove_left_behind
from builder.process import process_start
from tests.crash_fixtures import LINES, PATIENCE_S, Installation, installation, is_terminal, kill_group, until

pytestmark = pytest.mark.e2e

BUILDS = 3


@pytest.mark.parametrize("label", ["after-claim", "in-step", "after-push"])
def test_a_worker_dies_and_the_build_is_built_again(kept: Path, label: str) -> None:
    with installation(kept, crash_worker_at=label) as parts:
        parts.start_worker()
        parts.submit_scripts(BUILDS)
        parts.wait_ended(PATIENCE_S)
        assert (parts.node_dir / f"crashed-{label}").exists(), "the fault never fired"
        attempts = sorted(record["attempt"] for record in parts.records().values())
        assert attempts == [1] * (BUILDS - 1) + [2]
        assert_promises(parts)


def test_the_api_dies_in_finalize_and_its_next_life_finishes(kept: Path) -> None:
    with installation(kept, crash_api_at="finalize") as parts:
        parts.start_worker()
        parts.submit_some(BUILDS)
        assert parts.api is not None
        assert parts.api.wait(PATIENCE_S) == -signal.SIGKILL
        parts.start_api()
        parts.wait_ended(PATIENCE_S)
        assert_promises(parts)


def test_redis_dies_and_comes_back_empty_while_builds_are_queued(kept: Path) -> None:
    with installation(kept) as parts:
        parts.submit_some(2 * BUILDS, functions=4000)
        parts.start_worker()
        until(lambda: count(parts, "SUCCEEDED") >= 1, PATIENCE_S, "no build ended")
        assert parts.redis is not None
        kill_group(parts.redis)
        parts.submit_some(BUILDS)
        assert count(parts, "PENDING") >= BUILDS, "what is accepted while Redis is away is queued"
        parts.start_redis()
        parts.wait_ended(PATIENCE_S)
        assert_promises(parts)


def test_a_killed_node_comes_back_and_builds_again_once_the_lease_is_over(kept: Path) -> None:
    with installation(kept) as parts:
        parts.start_worker()
        parts.submit_some(BUILDS, functions=60_000)
        until(parts.build_processes, PATIENCE_S, "no build step ran")
        assert parts.worker is not None
        kill_group(parts.worker)
        outlived = set(parts.build_processes())
        seen_at = parts.node_seen_at()
        parts.start_worker()
        until(lambda: parts.node_seen_at() > seen_at, PATIENCE_S, "the new worker did not register")

        def again() -> bool:
            return any(record.get("attempt", 0) > 1 for record in parts.records().values())

        until(lambda: not outlived & set(parts.build_processes()), PATIENCE_S, "steps of the dead worker live on")
        until(again, PATIENCE_S, "no build ran again")
        parts.wait_ended(PATIENCE_S)
        assert {record["attempt"] for record in parts.records().values()} <= {1, 2}
        assert_promises(parts)


def test_an_owner_that_nobody_reaps_is_gone(tmp_path: Path) -> None:
    """In a container whose process 1 reaps no orphans, a killed owner stays a zombie for ever."""
    path = spool_path(tmp_path, "c" * 20, 1)
    child = os.fork()
    if not child:
        own(path)
        os._exit(0)
    try:
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        assert not is_owned(path)
        assert not process_start(child)
        assert process_start(os.getpid())
    finally:
        os.waitpid(child, 0)


def test_a_node_ends_what_a_killed_owner_left_and_nothing_of_a_live_one(tmp_path: Path) -> None:
    """bubblewrap's own bond to its parent is made late; who is killed before leaves a running sandbox."""
    lost, live = "a" * 20, "b" * 20
    own(spool_path(tmp_path / "spool", live, 3))
    sandboxes = []
    for build_id, claim in ((lost, 2), (live, 3)):
        work = tmp_path / "work" / f"{build_id}-{claim}"
        (work / "src").mkdir(parents=True)
        work.with_name(work.name + ".source").touch()
        argv = ["bwrap", "--bind", "/", "/", "--bind", str(work), "/mnt", "--unshare-pid", "sleep", "600"]
        sandboxes.append(subprocess.Popen(argv, start_new_session=True))
    try:
        until(lambda: all(is_set_up(sandbox.pid) for sandbox in sandboxes), PATIENCE_S, "a sandbox was not set up")
        assert remove_left_behind(tmp_path) == 2
        assert sandboxes[0].wait(PATIENCE_S) != 0
        assert sandboxes[1].poll() is None
        assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [f"{live}-3", f"{live}-3.source"]
    finally:
        for sandbox in sandboxes:
            kill_group(sandbox)


def test_caches_that_were_put_aside_go_once_nothing_reads_them(tmp_path: Path) -> None:
    caches = tmp_path / "caches" / "acme" / "uv"
    caches.mkdir(parents=True)
    argv = ["bwrap", "--bind", "/", "/", "--bind", str(caches), "/mnt", "--unshare-pid", "sleep", "600"]
    sandbox = subprocess.Popen(argv, start_new_session=True)
    try:
        until(lambda: is_set_up(sandbox.pid), PATIENCE_S, "the sandbox was not set up")
        (tmp_path / "work").mkdir()
        caches.parent.rename(tmp_path / "work" / f"{'a' * 20}-2.caches")
        assert remove_left_behind(tmp_path) == 0
        assert sandbox.poll() is None, "a build that reads them goes on"
    finally:
        kill_group(sandbox)
    sandbox.wait()
    until(lambda: remove_left_behind(tmp_path) == 1, PATIENCE_S, "the caches stay")
    assert not list((tmp_path / "work").iterdir())


def is_set_up(bwrap: int) -> bool:
    """Whether the sandbox below bubblewrap's process has come to its command."""
    return any(said(f"/proc/{one}/comm") == "sleep\n" for child in children_of(bwrap) for one in children_of(child))


def children_of(pid: int | str) -> list[str]:
    return said(f"/proc/{pid}/task/{pid}/children").split()


def said(path: str) -> str:
    """What proc(5) says of a process, "" where it has ended meanwhile."""
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8")
    return ""


def count(parts: Installation, status: str) -> int:
    """How many accepted builds have this status now."""
    return sum(record["status"] == f"BUILD_STATUS_{status}" for record in parts.records().values())


def assert_promises(parts: Installation) -> None:
    """Everything that holds whatever died."""
    for build_id, record in parts.records().items():
        assert record["status"] == "BUILD_STATUS_SUCCEEDED", record
        assert_told_once(parts, build_id, record["imageDigest"])
        actions = parts.transitions(build_id)
        assert actions.count("succeed") == 1, actions
        assert actions.count("built") == 1, actions
        lines, last = parts.log(build_id)
        sequences = [sequence for sequence, _ in lines]
        assert sequences == list(range(1, len(sequences) + 1)), sequences
        assert last == len(sequences) == int(record["logLines"])
        assert_each_attempt_said_once([line for _, line in lines], int(record["attempt"]))
    until(lambda: not parts.work_left(), PATIENCE_S, lambda: f"left on the node: {parts.work_left()}")
    until(lambda: not parts.build_processes(), PATIENCE_S, "a process of a build lives on")  # a reader ends by itself
    parts.stop_all()
    until(lambda: not parts.processes(), PATIENCE_S, lambda: f"left: {parts.processes()}")


def assert_each_attempt_said_once(lines: list[str], attempts: int) -> None:
    """What is kept of a lost attempt is a beginning of it; of the last one it is all; no line is there twice."""
    said: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("the owner of this build was lost"):
            said.append([])
        elif line.startswith(("line ", "step ")):
            said[-1].append(line)
    assert len(said) == attempts, lines
    for one in said:
        assert len(set(one)) == len(one), lines
        assert one == said[-1][: len(one)], lines
    printed = [line for line in said[-1] if line.startswith("line ")]
    assert printed in ([], [f"line {number}" for number in range(LINES)]), lines


def assert_told_once(parts: Installation, build_id: str, digest: str) -> None:
    """Reports may repeat; after dropping repeats by sequence they count 1..n and one, the last, is terminal."""
    by_sequence = parts.reports.of(build_id)
    assert all(same == [same[0]] * len(same) for same in by_sequence.values()), "a sequence was used twice"
    told = [by_sequence[sequence][0] for sequence in sorted(by_sequence)]
    assert sorted(by_sequence) == list(range(1, len(told) + 1)), sorted(by_sequence)
    assert [is_terminal(report) for report in told] == [False] * (len(told) - 1) + [True], told
    assert told[-1]["buildStatus"] == "BUILD_STATUS_SUCCEEDED"
    assert told[-1]["imageDigest"] == digest
