"""The process that reads hostile text: what it may cost, what it may do, and what becomes of its owner meanwhile."""

from __future__ import annotations

import os
import re
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import pytest

from builder.attempt.exchange import Budget
from builder.attempt.reader import Faulty, Readers, Reading
from builder.attempt.reading import NICE, REHEARSE_AFTER_S
from builder.data import catalog_file
from builder.errors import BuildError
from builder.pipelines import catalog as catalogs
from builder.pipelines.base import Pipeline, PlanRequest
from builder.pipelines.catalog import Catalog
from builder.plan import Detection, Plan, Step, WantedFile
from builder.source.tree import DictTree
from tests import hostile_pipelines, uids
from tests.build_fixtures import PATIENCE_S, tar_of, until

MIB = 1024 * 1024
KNOWN = (cast(Pipeline, hostile_pipelines),)
BUDGET = Budget(cpu_ms=1000, unpack_ms=10_000, wall_ms=600_000, memory=256 * MIB)
FOUND = Detection(runtime="hostile", because="")
STEP = Step(name="compile", argv=("true",))
BUILD_USER = (uids.READER, uids.READER + 1) if os.geteuid() == 0 else None


@pytest.fixture
def readers() -> Iterator[Readers]:
    made = Readers(KNOWN, Catalog(rows=()))
    yield made
    made.close()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder of the build user's, below folders that it may not enter."""
    tmp_path.chmod(0o700)
    folder = tmp_path / "work"
    folder.mkdir(mode=0o700)
    if BUILD_USER:
        os.chown(folder, *BUILD_USER)
    return folder


def source(folder: Path, files: dict[str, str | bytes]) -> int:
    (folder / "archive").write_bytes(tar_of(files))
    return os.open(folder / "archive", os.O_RDONLY)


def wanted(reading: Reading) -> tuple[WantedFile, ...]:
    """What the stubs name, for a plan that the source had no part in."""
    tree = DictTree({"attack.txt": ""})
    plan = hostile_pipelines.plan(tree, FOUND, PlanRequest(runtime="hostile"), Catalog(rows=()))
    found = reading.fetched(plan)
    return found.wanted if found else ()


def planned(
    readers: Readers, work: Path, attack: str, budget: Budget = BUDGET, check: Callable[[], None] = lambda: None
) -> Plan:
    """Unpack and plan a source that does this to its parser."""
    archive = source(work.parent, {"attack.txt": attack + "\n"})
    try:
        with readers.reading(work, budget, check, BUILD_USER, archive) as reading:
            assert reading.unpack(False, None).files == 1
            detection = reading.detect(None)
            found = reading.plan(detection, PlanRequest(runtime="hostile"))
            assert [name for name, _ in found.materials] == ["attack.txt"]
            return found.plan
    finally:
        os.close(archive)


def readers_of(uid: int) -> list[str]:
    """Processes of the build user."""
    return [name for name in os.listdir("/proc") if name.isdigit() and owner_of(name) == uid]


def owner_of(pid: str) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def test_an_honest_source_is_unpacked_and_planned_as_the_build_user(readers: Readers, work: Path) -> None:
    plan = planned(readers, work, "nothing")
    assert plan.steps[0].argv == ("true",)
    for path in (work / "src", work / "src/attack.txt"):
        assert (path.stat().st_uid, path.stat().st_gid) == (BUILD_USER or (os.getuid(), os.getgid()))


@pytest.mark.parametrize(
    ("attack", "words", "limit"),
    [
        ("spin", "reading attack.txt took more than 1 s of processor time", 1000),
        ("allocate", "reading attack.txt took more than 256 MiB of memory", 256 * MIB),
        ("recurse", "a file of the source is nested too deeply to be read", 0),
        ("write", "reading attack.txt wrote a file of more than 64 KiB", 64 * 1024),
        ("answer_much", "reading attack.txt makes an answer of 20 MiB, limit 16 MiB", 0),
    ],
)
def test_what_costs_too_much_is_the_sources_fault(
    readers: Readers, work: Path, attack: str, words: str, limit: int
) -> None:
    with pytest.raises(BuildError) as caught:
        planned(readers, work, attack)
    error = caught.value
    assert (error.reason, error.error_class) == ("ManifestInvalid", "user_code")
    assert words in error.message
    assert error.limit == limit
    assert attack == "recurse" or error.where == "attack.txt"
    (work / "src").rename(work / "gone")
    assert planned(readers, work, "nothing").steps


def test_a_parser_that_waits_ends_by_the_clock(readers: Readers, work: Path) -> None:
    budget = Budget(cpu_ms=60_000, unpack_ms=60_000, wall_ms=3000, memory=256 * MIB)
    with pytest.raises(BuildError, match=r"reading attack.txt took more than 3 s$") as caught:
        planned(readers, work, "sleep", budget)
    assert (caught.value.reason, caught.value.where, caught.value.limit) == ("ManifestInvalid", "attack.txt", 3000)


@pytest.mark.parametrize("attack", ["sleep", "spin"])
def test_a_build_that_must_stop_does_so_while_its_parser_hangs(readers: Readers, work: Path, attack: str) -> None:
    stop = threading.Event()
    budget = Budget(cpu_ms=600_000, unpack_ms=60_000, wall_ms=600_000, memory=256 * MIB)

    def check() -> None:
        if (work / "src/attack.txt").exists() and not stop.is_set():
            stop.set()  # the next look ends it
        elif stop.is_set():
            raise BuildError("Cancelled", "stopped")

    with pytest.raises(BuildError, match="stopped") as caught:
        planned(readers, work, attack, budget, check)
    assert caught.value.reason == "Cancelled"
    readers.close()
    assert BUILD_USER is None or until(lambda: not readers_of(BUILD_USER[0]))


def test_a_reader_that_ends_by_itself_is_ours(readers: Readers, work: Path) -> None:
    with pytest.raises(BuildError) as caught:
        planned(readers, work, "die")
    assert (caught.value.reason, caught.value.error_class, caught.value.retried) == ("Internal", "platform", True)
    assert "exit status 3" in caught.value.message and "at attack.txt" in caught.value.message


def test_a_fault_of_a_pipeline_is_ours_with_its_trace(readers: Readers, work: Path) -> None:
    with pytest.raises(Faulty, match="ZeroDivisionError: a path of the host"):
        planned(readers, work, "fault")


def test_a_reader_reaches_nothing(readers: Readers, work: Path) -> None:
    with pytest.raises(BuildError) as caught:
        planned(readers, work, "escape")
    if BUILD_USER:
        assert caught.value.message == f"open: [], uid {BUILD_USER[0]}, groups []"
    else:
        assert caught.value.message.startswith("open: [],")


def test_a_reader_that_works_long_stands_back_with_its_group(readers: Readers, work: Path) -> None:
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    with pytest.raises(BuildError) as caught:
        planned(readers, work, "work_on")
    seen = re.fullmatch(r"priority \((\d+), '(0|none)'\), then \((\d+), '(\w+)'\)", caught.value.message)
    assert seen, caught.value.message
    # A kernel that has groups may still give a session none: it then stays in its default one, which has no priority.
    assert seen.groups() == (str(mine), seen[2], str(min(mine + NICE, 19)), "none" if seen[2] == "none" else str(NICE))


def test_a_reader_that_is_killed_is_ours_and_the_next_one_starts(readers: Readers, work: Path) -> None:
    forks = started(readers)

    def killing() -> None:
        for pid in children_of(forks) if (work / "src/attack.txt").exists() else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(BuildError, match="ended by itself \\(SIGKILL\\)") as caught:
        planned(readers, work, "sleep", check=killing)
    assert caught.value.error_class == "platform"
    (work / "src").rename(work / "gone")
    assert planned(readers, work, "nothing").steps


def test_a_lost_fork_process_is_replaced(readers: Readers, work: Path) -> None:
    pid = started(readers)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert planned(readers, work, "nothing").steps


def test_a_reader_that_is_killed_while_it_waits_is_replaced(readers: Readers, work: Path) -> None:
    pid = started(readers)
    assert until(lambda: children_of(pid))
    (waiting,) = children_of(pid)
    handle = os.pidfd_open(waiting)
    os.kill(waiting, signal.SIGKILL)
    assert select.select([handle], [], [], 120)[0]
    os.close(handle)
    assert planned(readers, work, "nothing").steps


def test_a_reader_that_waits_rehearses_and_leaves_nothing(tmp_path: Path, work: Path) -> None:
    folder = tmp_path / "rehearsals"
    folder.mkdir()
    readers = Readers((), catalogs.read(catalog_file(""), {}), rehearsals=folder / "one")
    before = folder.stat().st_mtime_ns
    with closing(readers):
        readers.start()
        assert until(lambda: folder.stat().st_mtime_ns > before and not list(folder.iterdir()))
        archive = source(tmp_path, {"handler.py": "def handler(payload, ctx):\n    return 1\n"})
        with readers.reading(work, BUDGET, lambda: None, BUILD_USER, archive) as reading:
            assert reading.unpack(False, None).files == 1
        os.close(archive)
    assert [path.name for path in (work / "src").iterdir()] == ["handler.py"]


def test_what_a_killed_rehearsal_left_keeps_no_reader_from_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    (folder / "go/src").mkdir(parents=True)
    (folder / "go/src/go.mod").write_text("module sample\n")
    with closing(Readers((), catalogs.read(catalog_file(""), {}), rehearsals=folder)) as readers:
        readers.start()
        assert until(lambda: not folder.exists())


def test_a_reader_that_cannot_rehearse_reads(tmp_path: Path, work: Path) -> None:
    (tmp_path / "file").touch()
    with closing(Readers(KNOWN, Catalog(rows=()), rehearsals=tmp_path / "file" / "one")) as readers:
        readers.start()
        time.sleep(2 * REHEARSE_AFTER_S)
        assert planned(readers, work, "nothing").steps


def test_readers_die_with_their_owner(tmp_path: Path, work: Path) -> None:
    told, tell = os.pipe()
    owner = os.fork()
    if owner == 0:
        try:
            readers = Readers(KNOWN, Catalog(rows=()))
            with readers.reading(work, BUDGET, lambda: None, BUILD_USER) as reading:
                reading.diagnose("hostile", STEP, 1, ())  # it is there
                parent = children_of(os.getpid())[-1]
                os.write(tell, f"{parent} {children_of(parent)[-1]}\n".encode())
                time.sleep(3600)
        finally:
            os._exit(1)
    pids = os.read(told, 100).split()
    assert len(pids) == 2
    handles = [os.pidfd_open(int(pid)) for pid in pids]
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    for handle in handles:
        assert select.select([handle], [], [], PATIENCE_S)[0]
        os.close(handle)
    os.close(told)
    os.close(tell)


def started(readers: Readers) -> int:
    """The number of its process that forks readers; this session may have other children, from other threads."""
    before = set(children_of(os.getpid()))
    readers.start()
    (pid,) = set(children_of(os.getpid())) - before
    return pid


def children_of(pid: int) -> list[int]:
    """Its children, oldest first."""
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with suppress(OSError):  # a thread that has ended meanwhile
            found += [int(one) for one in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
    return found


@pytest.mark.parametrize("attack", ["spin", "allocate", "recurse", "write"])
def test_a_diagnosis_that_costs_too_much_leaves_a_failed_step(readers: Readers, work: Path, attack: str) -> None:
    with readers.reading(work, BUDGET, lambda: None, BUILD_USER) as reading:
        found = reading.diagnose("hostile", STEP, 7, ("x" * 16 * 1024,) * 400 + (attack,))
    assert found.reason == "StepFailed"
    assert "compile ended with exit code 7" in found.message
    with readers.reading(work, BUDGET, lambda: None, BUILD_USER) as reading:
        assert reading.diagnose("hostile", STEP, 7, ("a\ud800", "b")).said == ("a\ud800", "b")


def test_an_archive_that_is_refused_keeps_its_reason(readers: Readers, work: Path) -> None:
    archive = source(work.parent, {"../out": "x"})
    with readers.reading(work, BUDGET, lambda: None, BUILD_USER, archive) as reading, pytest.raises(BuildError) as one:
        reading.unpack(False, None)
    os.close(archive)
    assert (one.value.reason, one.value.where) == ("ArchiveUnsafe", 'entry 1: "../out"')


@pytest.mark.parametrize("made", ["link", "none", "closed", "deep", "file"])
def test_the_lock_is_read_from_what_the_steps_left_and_nothing_else(readers: Readers, work: Path, made: str) -> None:
    """A step may replace the working copy by a link: what that leads to is never read."""
    outside = work.parent / "outside"
    outside.mkdir()
    (outside / "lock").write_text("of the host")
    fetch = work / "fetch"
    if made == "link":
        fetch.symlink_to(outside)
    elif made == "file":
        fetch.write_text("lock")
    elif made != "none":
        fetch.mkdir(0o755)
        folder = fetch
        for _ in range(300 if made == "deep" else 1):
            folder = folder / "a"
            folder.mkdir(0o000 if made == "closed" and os.geteuid() == 0 else 0o755)
    if made == "closed" and os.geteuid() != 0:
        fetch.chmod(0)
    with readers.reading(work, BUDGET, lambda: None, BUILD_USER) as reading, pytest.raises(BuildError) as caught:
        wanted(reading)
    assert (caught.value.reason, caught.value.where) == ("StepFailed", "/work/fetch")
    if made == "closed":
        fetch.chmod(0o755)


def test_a_link_of_the_lock_leads_nowhere_else(readers: Readers, work: Path) -> None:
    (work / "fetch/inner").mkdir(parents=True)
    (work / "fetch/inner/real").write_text("sha256:0\n")
    (work / "fetch/lock").symlink_to("inner/real")
    for path in (work / "fetch", work / "fetch/inner"):
        path.chmod(0o755)
    with readers.reading(work, BUDGET, lambda: None, BUILD_USER) as reading:
        assert [one.digest for one in wanted(reading)] == ["sha256:0"]
    (work / "fetch/lock").unlink()
    (work / "fetch/lock").symlink_to("/etc/passwd")
    with readers.reading(work, BUDGET, lambda: None, BUILD_USER) as reading:
        assert wanted(reading) == ()
