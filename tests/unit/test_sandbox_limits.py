"""A limit of processes that no compiler can work under is the machine's condition, seen before a build begins."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from builder.errors import BuildError
from builder.local import machine
from builder.sandbox import launch, processes
from builder.sandbox.rlimits import ENOUGH_TASKS, LEAST_TASKS, require_tasks
from builder.settings import Settings

UID = 12345


def limited(monkeypatch: pytest.MonkeyPatch, most: int, running: int = 0) -> list[int]:
    """A machine that lets a user have `most` tasks, of which so many run; who was counted."""
    counted: list[int] = []

    def count(uid: int) -> int:
        counted.append(uid)
        return running

    monkeypatch.setattr(resource, "getrlimit", lambda which: (most, most))
    monkeypatch.setattr(processes, "tasks_of_user", count)
    return counted


@pytest.mark.parametrize(
    ("most", "running", "left"), [(10, 0, "10"), (LEAST_TASKS - 1, 0, "63"), (200, 150, "50"), (5, 9, "0")]
)
def test_too_few_are_refused_with_their_number(
    most: int, running: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, most, running)
    with pytest.raises(BuildError, match=f"may start {left} processes and threads") as caught:
        require_tasks(UID)
    assert (caught.value.reason, caught.value.row.exit_code) == ("SandboxUnavailable", 75)
    assert "ulimit -u" in caught.value.next


@pytest.mark.parametrize(("most", "running"), [(LEAST_TASKS, 0), (200, 100)])
def test_enough_are_enough(most: int, running: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, most, running)
    require_tasks(UID)


@pytest.mark.parametrize("most", [ENOUGH_TASKS, resource.RLIM_INFINITY])
def test_nobody_is_counted_under_a_high_limit(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = limited(monkeypatch, most, running=1_000_000)
    require_tasks(UID)
    assert counted == []


@pytest.mark.parametrize(("euid", "counted"), [(0, UID), (1000, 1000)])
def test_whom_steps_run_as_is_counted(euid: int, counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = limited(monkeypatch, 100)
    monkeypatch.setattr("os.geteuid", lambda: euid)
    require_tasks(UID)
    assert seen == [counted]


def test_a_local_build_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, 10)
    monkeypatch.setattr(launch, "program", lambda name: f"/usr/bin/{name}")
    settings = Settings(data_dir=str(tmp_path), node_dir=str(tmp_path), build_uid=UID)
    with pytest.raises(BuildError, match="compilers start"):
        machine.require_sandbox(settings)
    machine.require_sandbox(settings.replace(unsandboxed=True))
