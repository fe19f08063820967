"""Builds without a server: the installed program, real processes over one data folder, killed where it hurts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from builder.contract import codec
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.store import outbox
from builder.store.engine import open_store
from tests import uids
from tests.build_fixtures import GATED, PYTHON_WITH_A_WHEEL, let_go, processes_of, small_disk, until
from tests.program_fixtures import PATIENCE_S, PROGRAM, Program, Ran, ended, processes_that_name

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
LABELS = ("after-claim", "in-step", "mid-build", "after-push", "finalize")
REFERENCE = re.compile(r"oci-layout/local/[a-z0-9-]+@sha256:[0-9a-f]{64}\n")
UNWANTED = {
    "alembic", "billiard", "celery", "httpx", "kombu", "psycopg", "redis", "starlette", "structlog", "uvicorn",
}  # fmt: skip
MAIN = """
import json, sys
from builder.cli import run
code = run()
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""
BUILDS = """\
import pathlib
print("running now", flush=True)
pathlib.Path("/work/out/server.py").write_text("")
"""


@pytest.fixture
def home(kept: Path) -> Iterator[Program]:
    """The program in a home of its own, with a runtime that runs what a test writes."""
    with tempfile.TemporaryDirectory(prefix="ignite-builder-local-", dir="/var/tmp") as folder:
        home, node = Path(folder) / "home", Path(folder) / "node"
        for each in (Path(folder), home, node):
            each.mkdir(exist_ok=True)
            each.chmod(0o755)
        (node / "bases").symlink_to(kept / "bases")
        settings = {
            "node_dir": str(node),
            "build_uid": str(uids.LOCAL),
            "slots": "1",
            "stop_grace_ms": "2000",
            "retry_backoff_ms": "50",
            "pipelines": "tests.pipeline_script",
            "catalog": str(ROOT / "tests/data/catalog.toml"),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(ROOT))
            yield Program(home, settings)


def script(folder: Path, text: str = BUILDS) -> str:
    (folder / "build.py").write_text(text)
    return str(folder)


def heard(process: subprocess.Popen[bytes], words: bytes) -> None:
    """Read what the program says until these words."""
    assert process.stderr is not None
    lines = []
    while words not in (line := process.stderr.readline()):
        lines.append(line)
        assert line, b"".join(lines)


def listed(program: Program) -> list[pb.Build]:
    ran = program.run("ls", "--json")
    assert ran.code == 0, ran.err
    return list(codec.parse(pb.ListBuildsResponse, ran.out.encode()).builds)


def assert_nothing_left(program: Program) -> None:
    assert until(lambda: not processes_of(range(uids.LOCAL, uids.LOCAL + 4)))
    assert until(lambda: not processes_that_name(program.home))
    below = node_of(program) / "local"
    assert not [*below.glob("*/work/*"), *below.glob("*/spool/*")]


def node_of(program: Program) -> Path:
    return Path(program.settings["node_dir"])


def assert_built(ran: Ran) -> str:
    assert ran.code == 0 and REFERENCE.fullmatch(ran.out), (ran.out, ran.err)
    return ran.out


def test_a_build_loads_no_server_no_broker_and_no_http(home: Program, tmp_path: Path) -> None:
    source = script(tmp_path)
    assert_built(home.run("build", source))  # makes the schema, for which it takes the migrations
    for argv in (("build", source), ("build", source, "--no-cache"), ("ls",), ("get",), ("logs",)):
        command = [sys.executable, "-c", MAIN, *argv]
        ran = subprocess.run(
            command, env=home.environ, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        code, modules = json.loads(ran.stderr.splitlines()[-1])
        assert code == 0 and not UNWANTED & set(modules), (argv, UNWANTED & set(modules))


@pytest.mark.parametrize("label", LABELS)
def test_a_build_killed_at_any_point_is_built_by_the_next(home: Program, tmp_path: Path, label: str) -> None:
    source = script(tmp_path)
    killed = home.run("build", source, IGNITE_BUILDER_CRASH_AT=label)
    assert killed.code == -signal.SIGKILL, killed.err
    assert_built(home.run("build", source))
    first, second = sorted(listed(home), key=lambda build: build.created_at_ms)
    assert second.status == pb.BUILD_STATUS_SUCCEEDED
    if second.attached_to or second.from_cache_of or label != "after-claim":
        # Its key was in flight: the second took it over, and both have one artifact.
        assert first.status == pb.BUILD_STATUS_SUCCEEDED and first.image_digest == second.image_digest
    assert first.failures == 1
    lines = home.run("logs", first.build_id).out
    assert "the owner of this build was lost" in lines or "the finalizer of this build was lost" in lines
    assert_nothing_left(home)


def test_two_terminals_build_one_source_once(home: Program, tmp_path: Path) -> None:
    source = script(tmp_path, GATED)
    with ExitStack() as stack:
        first = stack.enter_context(home.started("build", source))
        heard(first, b"running now")
        second = stack.enter_context(home.started("build", source))
        heard(second, b"waiting for its result")
        let_go(node_of(home))
        one, other = ended(first), ended(second)
    assert_built(one)
    assert other.out == one.out, other.err
    assert "running now" not in other.err
    assert_nothing_left(home)


def test_who_waits_for_a_build_takes_over_when_its_process_dies(home: Program, tmp_path: Path) -> None:
    source = script(tmp_path, GATED)
    with ExitStack() as stack:
        first = stack.enter_context(home.started("build", source))
        heard(first, b"running now")
        second = stack.enter_context(home.started("build", source))
        heard(second, b"waiting for its result")
        first.kill()
        first.wait()
        assert until(lambda: second.poll() is not None, before=lambda: let_go(node_of(home)))
        assert_built(ended(second))
    one, other = listed(home)
    assert {one.status, other.status} == {pb.BUILD_STATUS_SUCCEEDED} and one.image_digest == other.image_digest
    assert_nothing_left(home)


def test_an_interrupt_cancels_and_leaves_nothing(home: Program, tmp_path: Path) -> None:
    source = script(tmp_path, GATED)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        with home.started("build", source, "--json") as process:
            heard(process, b"running now")
            process.send_signal(number)
            ran = ended(process)
        assert (ran.code, ran.record.status) == (130, pb.BUILD_STATUS_CANCELLED), ran.err
        assert_nothing_left(home)


def test_another_shell_follows_and_cancels(home: Program, tmp_path: Path) -> None:
    source = script(tmp_path, GATED)
    with ExitStack() as stack:
        process = stack.enter_context(home.started("build", source))
        heard(process, b"running now")
        (running,) = listed(home)
        follower = stack.enter_context(home.started("logs", "-f", running.build_id, "--raw"))
        assert follower.stdout is not None
        while b"running now" not in (line := follower.stdout.readline()):
            assert line
        cancelled = home.run("cancel", running.build_id[:8])
        assert cancelled.code == 0 and cancelled.err.splitlines()[-1].startswith("CANCELLED"), cancelled.err
        assert ended(process).code == 130
        assert ended(follower).code == 0
    assert_nothing_left(home)


def test_a_failing_build_says_whose_fault(home: Program, tmp_path: Path) -> None:
    failed = home.run("build", script(tmp_path, "raise SystemExit(3)"))
    assert (failed.code, failed.out) == (1, "") and "StepFailed" in failed.err
    assert home.run("get", "--exit-status").code == 1
    (tmp_path / "empty").mkdir()
    refused = home.run("build", str(tmp_path / "empty"))
    assert (refused.code, refused.out) == (2, "") and "SourceEmpty" in refused.err
    named = home.run("get", "zzzzzzzz")
    assert named.code == 5 and "no build starts with" in named.err
    assert_nothing_left(home)


def test_a_machine_that_gives_too_few_open_files_is_named_however_few_they_are(home: Program, tmp_path: Path) -> None:
    """Where SQLite itself gets too few it keeps to itself why."""
    (tmp_path / "source").mkdir()
    source, short = script(tmp_path / "source"), tmp_path / "short"
    ended_in = list[str]()
    for most in range(10, 200, 2):
        short.write_text(f'#!/bin/sh\nulimit -n {most}\nexec {PROGRAM} "$@"\n')
        short.chmod(0o755)
        ran = replace(home, executable=str(short)).run("build", source, "--no-cache")
        if ran.code == 0:
            break
        assert ran.code == 75 and "the worker's own log" not in ran.err, (most, ran)
        if "the store does not answer: unable to open database file" not in ran.err:
            assert "this machine gives this process no more open files" in ran.err, (most, ran)
            assert "Raise the limit (ulimit -n)" in ran.err, (most, ran.err)
        ended_in.append("FAILED" if "FAILED" in ran.err else "REFUSED")
    assert_built(ran)
    assert set(ended_in) == {"FAILED", "REFUSED"}
    assert_nothing_left(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("free_kib", [0, 64, 160])
def test_a_full_data_disk_ends_a_build_and_the_next_one_goes_on_with_it(
    home: Program, tmp_path: Path, free_kib: int
) -> None:
    """No lease ends in the time that the test has, so it is not what the command waits for."""
    data, filler = tmp_path / "data", tmp_path / "data/filler"
    settings = {**home.settings, "data_dir": str(data), "source_free_bytes": "1", "lease_ms": "900000"}
    full = Program(home.home, settings)
    (tmp_path / "source").mkdir()
    source = script(tmp_path / "source", GATED)
    with small_disk(data, 64):
        with full.started("build", source) as process:
            heard(process, b"running now")
            with suppress(OSError), filler.open("wb", 0) as file:
                while True:
                    file.write(bytes(1 << 12))
            with filler.open("r+b") as file:
                file.truncate(max(filler.stat().st_size - (free_kib << 10), 0))
            assert until(lambda: process.poll() is not None, before=lambda: let_go(node_of(home)))
            ran = ended(process)
        assert ran.code == 75 and "NodeDiskFull" in ran.err and "LOST" not in ran.err, ran
        assert "the store does not answer: database or disk is full" in ran.err or "disk is full" in ran.err
        filler.unlink()
        with full.started("build", source) as process:
            assert until(lambda: process.poll() is not None, before=lambda: let_go(node_of(home)))
            assert_built(ended(process))
        again, first = listed(full)
        assert again.status == pb.BUILD_STATUS_SUCCEEDED
        if first.status == pb.BUILD_STATUS_SUCCEEDED:  # else its record says that the disk was full
            assert first.image_digest == again.image_digest
        else:
            assert first.failure.reason == "NodeDiskFull"
        assert_nothing_left(home)


def test_where_dev_runs_a_command_is_its_client(home: Program, kept: Path, tmp_path: Path) -> None:
    source = script(tmp_path)
    with home.started("dev", "--json") as dev:
        assert dev.stdout is not None
        url = json.loads(dev.stdout.readline())["url"]
        built = home.run("build", source)
        assert_built(built)
        assert built.err.splitlines()[0].endswith(f"on {url}")
        assert [build.node_id for build in listed(home)] == [os.uname().nodename]
        dev.send_signal(signal.SIGTERM)
        assert ended(dev).code == 0
    again = home.run("build", source)
    assert again.out == built.out and again.err.splitlines()[0].endswith("  local")
    assert until(lambda: not processes_that_name(home.home))


def test_reports_wait_in_the_outbox_for_the_next_server(home: Program, tmp_path: Path) -> None:
    assert_built(home.run("build", script(tmp_path)))
    database = home.home / ".local/share/ignite-builder/builder.db"
    store = open_store(f"sqlite:///{database}")
    try:
        waiting = [json.loads(row["body"])["buildStatus"] for row in outbox.due(store, 10, ())]
    finally:
        store.engine.dispose()
    assert waiting == [f"BUILD_STATUS_{status}" for status in ("PENDING", "RUNNING", "SUCCEEDED")]


def test_caches_that_the_build_user_cannot_read_cost_a_try_and_no_build(home: Program, tmp_path: Path) -> None:
    settings = {name: value for name, value in home.settings.items() if name not in ("pipelines", "catalog")}
    program = Program(home.home, settings)
    for name, text in PYTHON_WITH_A_WHEEL.items():
        (tmp_path / name).write_text(text)
    built = assert_built(program.run("build", str(tmp_path)))
    caches = node_of(home) / "caches"
    for folder, _, files in os.walk(caches / "local"):
        for path in (folder, *(os.path.join(folder, file) for file in files)):
            os.chmod(path, 0)
            if os.geteuid() == 0:
                os.chown(path, 0, 0)
    again = program.run("build", str(tmp_path), "--no-cache")
    assert assert_built(again) == built
    assert "CacheUnavailable" in again.err and "the platform's fault" in again.err, again.err
