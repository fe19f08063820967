"""How what was started here ends: drained once, killed where somebody does not wait for that. Processes are played."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builder import pipelines
from builder.data import catalog_file
from builder.errors import BuildError
from builder.local import embedded
from builder.local.machine import ensure_bases
from builder.pipelines import catalog as catalogs
from builder.settings import Settings


class Process:
    """A process that ends when it is killed, and not of a TERM."""

    pid = 4242

    def __init__(self, waiting: BaseException) -> None:
        self.waiting, self.over = waiting, False
        self.calls: list[str] = []

    def poll(self) -> int | None:
        return -9 if self.over else None

    def terminate(self) -> None:
        self.calls.append("term")

    def wait(self, seconds: float | None = None) -> int:
        if not self.over:
            raise self.waiting
        return -9

    def kill(self) -> None:
        self.calls.append("kill")
        self.over = True


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("builder.local.embedded.os.getpgid", lambda pid: pid)
    monkeypatch.setattr("builder.local.embedded.os.killpg", lambda group, number: killed.append((group, number)))
    return killed


def test_a_process_that_outlasts_its_time_is_killed_with_its_group(groups: list[tuple[int, int]]) -> None:
    process: Any = Process(subprocess.TimeoutExpired("worker", 1))
    embedded.end(process, 1)
    assert process.calls == ["term", "kill"] and groups == [(Process.pid, signal.SIGKILL)]


def test_an_interrupt_while_it_ends_kills_it_and_goes_on(groups: list[tuple[int, int]]) -> None:
    process: Any = Process(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        embedded.end(process, 60)
    assert process.calls == ["term", "kill"] and groups == [(Process.pid, signal.SIGKILL)]


def test_an_interrupt_before_a_worker_is_ready_kills_it_undrained(
    groups: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    process: Any = Process(subprocess.TimeoutExpired("worker", 1))
    monkeypatch.setattr(embedded, "start_worker", lambda settings, environ, log: process)
    with pytest.raises(KeyboardInterrupt), embedded.running_worker(Settings(), tmp_path / "log"):
        raise KeyboardInterrupt
    assert process.calls == ["kill"] and groups


def test_the_rest_of_a_group_that_is_not_the_processs_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.local.embedded.os.getpgid", lambda pid: 1)
    monkeypatch.setattr("builder.local.embedded.os.killpg", lambda *args: pytest.fail("another's group was killed"))
    process: Any = Process(KeyboardInterrupt())
    embedded.kill(process)
    assert process.calls == ["kill"]


def running(settings: Settings, **facts: Any) -> embedded.Embedded:
    parts: Any = None
    return embedded.Embedded("", "", settings, parts, parts, None, Path(), **facts)


def test_a_version_whose_toolchain_is_not_here_is_refused_in_words(tmp_path: Path) -> None:
    row = catalogs.read(catalog_file("")).find("python", "3.12")
    with pytest.raises(BuildError, match=r"base image python-3\.12 is not on this node") as caught:
        running(Settings(node_dir=str(tmp_path))).require(row)
    assert (caught.value.reason, "runtimes fetch" in caught.value.next) == ("ToolchainUnavailable", True), caught.value


def test_a_base_that_could_not_be_made_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(store: object, name: str, recipe: Path, **more: object) -> None:
        raise BuildError("Internal", "mmdebstrap: the mirror does not answer", said=("E: no route",))

    settings = Settings(node_dir=str(tmp_path))
    monkeypatch.setattr("builder.toolchains.fetch.build_base", fails)
    failed = ensure_bases(settings)
    assert set(failed) == set(pipelines.names())
    row = catalogs.read(catalog_file("")).find("python")
    with pytest.raises(BuildError, match="could not be made: mmdebstrap: the mirror does not answer") as caught:
        running(settings, without_base=failed).require(row)
    assert caught.value.said == ("E: no route",)
