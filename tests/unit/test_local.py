"""What processes over one data folder know of each other: who is gone, who serves, whose user is whose."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from builder.control import folder
from builder.errors import PlatformError
from builder.local.build import Owner, build_user, is_gone, process_name
from builder.local.client import LocalClient
from builder.local.here import Here
from builder.settings import Settings
from builder.store import builds, sweeps
from builder.store.events import Event
from builder.toolchains import digests
from tests.store_contract.world import LEASE, World, open_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = open_world(f"sqlite:///{tmp_path / 'store.db'}")
    yield made
    made.store.engine.dispose()


def name_of_a_dead_process() -> str:
    """With a pid that Linux gives to none (PID_MAX_LIMIT is 2^22)."""
    namespace, _, start = process_name().split()
    return f"{namespace} {2**22 + 1} {start}"


def test_only_a_process_that_has_ended_is_gone() -> None:
    namespace, pid, start = process_name().split()
    assert not is_gone(f"{process_name()} {'f' * 12}")
    assert is_gone(f"{name_of_a_dead_process()} {'f' * 12}")
    assert is_gone(f"{namespace} {pid} {int(start) + 1}"), "a pid that names another process now"
    assert not is_gone(f"1 {pid} {int(start) + 1}"), "nothing is known of another PID namespace"
    assert not is_gone("")


def test_the_lease_of_a_dead_process_ends_at_once_and_no_other(world: World) -> None:
    lost, alive, others = world.submit(), world.submit(), world.submit()
    builds.claim(world.store, lost, "node", name_of_a_dead_process(), LEASE)
    builds.claim(world.store, alive, "node", process_name(), LEASE)
    world.register("other")
    builds.claim(world.store, others, "other", name_of_a_dead_process(), LEASE)
    assert sweeps.expire_gone(world.store, "node", is_gone) == 1
    assert [world.row(build)["status"] for build in (lost, alive, others)] == ["PENDING", "RUNNING", "RUNNING"]
    assert world.row(lost)["failures"] == 1
    assert sweeps.expire_gone(world.store, "node", is_gone) == 0


def test_a_finalizer_that_is_gone_makes_its_build_due(world: World) -> None:
    build = world.submit()
    claim = world.claim(build)
    world.succeed_work(build, claim)
    assert builds.adopt_finalize(world.store, LEASE, name_of_a_dead_process()) is not None
    assert builds.adopt_finalize(world.store, LEASE, process_name()) is None, "somebody is at it"
    assert sweeps.expire_gone(world.store, "node", is_gone) == 1
    row = builds.adopt_finalize(world.store, LEASE, process_name())
    assert row is not None and (row["build_id"], row["failures"]) == (build, 1)
    assert sweeps.expire_gone(world.store, "node", is_gone) == 0


def test_a_process_that_ends_gives_up_the_builds_of_others_before_it_tidies_up() -> None:
    done = list[object]()
    pool = SimpleNamespace(leave=done.append)
    stack = ExitStack()
    stack.callback(done.append, "closed")
    owner = SimpleNamespace(_finalizers=pool, _ended={"b"}, _stack=stack, retain=lambda: done.append("tidied up"))
    owner.close = lambda: Owner.close(owner)  # type: ignore[arg-type]
    LocalClient.close(SimpleNamespace(_thread=None, _owner=owner))  # type: ignore[arg-type]
    assert done == [{"b"}, "closed", "tidied up"]


def test_a_server_is_found_while_it_has_the_lock(tmp_path: Path) -> None:
    assert folder.server_of(tmp_path) is None
    with folder.served(tmp_path, "http://127.0.0.1:1", "secret"):
        assert folder.server_of(tmp_path) == ("http://127.0.0.1:1", "secret")
        assert (tmp_path / "address").stat().st_mode & 0o777 == 0o600
        with folder.served(tmp_path, "http://127.0.0.1:2", ""):
            assert folder.server_of(tmp_path) == ("http://127.0.0.1:1", "secret"), "the first one is found"
        with pytest.raises(PlatformError, match="has been using"), folder.exclusive(tmp_path, tries=1):
            pytest.fail("two have the lock")
    assert folder.server_of(tmp_path) is None


def test_an_address_that_a_killed_server_left_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "address").write_text(json.dumps({"url": "http://127.0.0.1:1", "token": "t"}))
    assert folder.server_of(tmp_path) is None


def test_builds_of_two_processes_have_two_users(tmp_path: Path) -> None:
    with build_user(70_000, tmp_path) as first, build_user(70_000, tmp_path) as second:
        assert (first != second) == (os.geteuid() == 0)
    with build_user(70_000, tmp_path) as again:
        assert again == first


def test_who_reads_a_log_looks_again_for_lines_and_the_end_alone(tmp_path: Path) -> None:
    here = Here(Settings(data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node")))
    try:
        before = (here.changes.generation, here.news.generation)
        for action, status in (("claim", "RUNNING"), ("planned", "RUNNING"), ("finish", "RUNNING")):
            here.store.emit(Event(action=action, build_id="b", status=status))
        assert (here.changes.generation, here.news.generation) == (before[0] + 3, before[1])
        here.parts.changed("b")
        here.store.emit(Event(action="succeed", build_id="b", status="SUCCEEDED"))
        assert (here.changes.generation, here.news.generation) == (before[0] + 5, before[1] + 2)
    finally:
        here.close()


def test_who_works_hears_of_a_change_whatever_becomes_of_who_is_shown_it(tmp_path: Path) -> None:
    def closed(event: Event) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    here = Here(Settings(data_dir=str(tmp_path / "data"), node_dir=str(tmp_path / "node")), closed)
    woken: list[str] = []
    here.cancels["b"] = lambda: woken.append("b")
    try:
        before = here.changes.generation
        with pytest.raises(BrokenPipeError):
            here.store.emit(Event(action="cancel-request", build_id="b", status="RUNNING"))
        assert (woken, here.changes.generation) == (["b"], before + 1)
    finally:
        here.close()


def test_a_later_process_takes_a_digest_from_the_file_until_the_program_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_memory", [])
    monkeypatch.setattr(digests, "_known", {})
    memory, compiler = tmp_path / "digests.json", tmp_path / "compile"
    compiler.write_text("one")
    times = compiler.stat()
    digests.remember_in(memory)
    monkeypatch.setattr(time, "time_ns", lambda: times.st_ctime_ns + 1)
    first = digests.digest_of(tmp_path, ("compile",))
    assert not memory.exists(), "a file that changed a moment ago is remembered"
    monkeypatch.setattr(time, "time_ns", lambda: times.st_ctime_ns + 10**12)
    assert digests.digest_of(tmp_path, ("compile",)) == first
    monkeypatch.setattr(digests, "_known", {})
    with monkeypatch.context() as patch:
        patch.setattr(digests, "_hash", lambda root, files: pytest.fail("the bytes were read again"))
        assert digests.digest_of(tmp_path, ("compile",)) == first
    (tmp_path / "fresh").write_text("two")
    os.utime(tmp_path / "fresh", ns=(times.st_atime_ns, times.st_mtime_ns))
    (tmp_path / "fresh").rename(compiler)
    monkeypatch.setattr(digests, "_known", {})
    assert digests.digest_of(tmp_path, ("compile",)) != first, "its inode has changed, whatever its time says"
