"""A file system for each build: its size, its making, whose fault it is when it is full, what a killed owner left."""

from __future__ import annotations

import errno
import os
import shutil
import struct
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from builder import sandbox
from builder.attempt import git, gitrun, steps, verdict
from builder.attempt.steps import StepResult
from builder.attempt.verdict import discard_caches, of_full, of_step
from builder.claims.outcome import Outcome
from builder.claims.spool import own, spool_path
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import repository_of
from builder.errors import BuildError, PlatformError
from builder.local import doctor
from builder.node import fence as fences
from builder.node import leftovers
from builder.node import worker as workers
from builder.node.drive import do_work, driving
from builder.node.leftovers import remove_left_behind
from builder.node.worker import WorkerProcess, WorkerRefused
from builder.plan import CopyFile, Step
from builder.sandbox import Blank, Room, launch, loopfs, size_for
from builder.settings import Settings
from tests.attempt_fixtures import attempt_at, grant_of, node_at

MIB = 1 << 20
EMPTY = Blank(size=MIB, extents=())
STEP = Step(name="build", argv=("cc",))
ENOSPC = "cc: cannot write /work/out/x: No space left on device"
ROOM = Room(bytes=1 << 40, inodes=1 << 20)
NO_ROOM = Room(bytes=0, inodes=1 << 20)
NO_INODES = Room(bytes=1 << 40, inodes=3)
SOME = Room(bytes=100 * MIB, inodes=1 << 20)
MISSING = BuildError(
    "SandboxUnavailable", "no disk fence: mkfs.ext4 is not installed", next="apt-get install e2fsprogs"
)


# --- the file system


@pytest.mark.parametrize("limit", [MIB, 64 * MIB, 256 * MIB, 256 * MIB + 1, 4096 * MIB, 1 << 40])
def test_a_file_system_takes_the_whole_limit_and_little_more(limit: int) -> None:
    size = size_for(limit)
    inodes = size // 4096 * 256
    assert size % MIB == 0
    assert size - inodes - size // 2000 >= limit + 16 * MIB, "what the kernel reserves is beside the limit"
    assert size <= limit * 1.08 + 24 * MIB
    assert size // 4096 >= limit // 4096, "an inode for each of the smallest files"


def test_mkfs_writes_no_journal_and_no_tables() -> None:
    argv = loopfs.mkfs_argv("/sbin/mkfs.ext4", "/proc/self/fd/7", 300 * MIB)
    assert (argv[0], argv[-2:]) == ("/sbin/mkfs.ext4", ["/proc/self/fd/7", "307200k"])
    options = dict(pairwise(argv))
    assert (options["-O"], options["-m"], options["-i"]) == ("^has_journal,^resize_inode", "0", "4096")
    assert options["-E"].split(",") == ["lazy_itable_init=1", "nodiscard", "root_owner=0:0"]


def test_a_loop_device_ends_with_its_last_user() -> None:
    """`struct loop_config`: descriptor, block size, and in `struct loop_info64` lo_flags behind 52 bytes."""
    config = loopfs.loop_config(9)
    assert len(config) == 304
    assert struct.unpack_from("=II", config) == (9, 4096)
    assert struct.unpack_from("=I", config, 8 + 52) == (loopfs.LO_FLAGS_AUTOCLEAR,)
    assert not config[8:60].strip(b"\0") and not config[64:].strip(b"\0")


def test_only_what_is_not_zero_is_copied(tmp_path: Path) -> None:
    with (tmp_path / "fs").open("w+b") as file:
        file.truncate(MIB)
        for offset, data in ((4096, b"superblock"), (8192, bytes(4096)), (MIB - 4096, b"last")):
            file.seek(offset)
            file.write(data)
        file.flush()
        extents = tuple(loopfs._extents(file.fileno()))
    assert [offset for offset, _ in extents] == [4096, MIB - 4096]
    assert sum(len(data) for _, data in extents) == 8192


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), MISSING])
def test_what_cannot_be_mounted_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(blank: Blank, descriptor: int, folder: Path) -> None:
        assert folder.is_dir() and os.fstat(descriptor).st_size == 0
        raise error

    monkeypatch.setattr(Blank, "mount", fails)
    with pytest.raises(type(error)), EMPTY.mounted(tmp_path / "x.disk", tmp_path / "x.fence"):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_the_room_is_not_filled_up_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_bavail=255, f_frsize=4096))
    with (tmp_path / "x.disk").open("w+b") as file:
        with pytest.raises(OSError) as caught:
            loopfs._reserve(file.fileno(), MIB)
        assert caught.value.errno == errno.ENOSPC
        assert os.fstat(file.fileno()).st_blocks == os.fstat(file.fileno()).st_size == 0
        monkeypatch.setattr(os, "fstatvfs", lambda descriptor: SimpleNamespace(f_bavail=256, f_frsize=4096))
        loopfs._reserve(file.fileno(), MIB)
        assert os.fstat(file.fileno()).st_size == MIB


def test_another_user_than_root_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BuildError, match="only root may mount") as caught:
        sandbox.tried(tmp_path, MIB)
    assert "disk_fence = off" in caught.value.next


def test_a_missing_mkfs_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PlatformError("SandboxUnavailable", name)

    monkeypatch.setattr(launch, "program", missing)
    with pytest.raises(BuildError, match=r"mkfs\.ext4 is not installed") as caught:
        loopfs.make_blank(MIB)
    assert caught.value.next.startswith("apt-get install -y e2fsprogs")


# --- whose fault


@pytest.mark.parametrize(
    ("own", "node", "tail", "reason"),
    [
        (NO_ROOM, ROOM, (), "DiskQuotaExceeded"),
        (NO_INODES, ROOM, ("Bus error",), "DiskQuotaExceeded"),
        (NO_ROOM, Room(bytes=100 * MIB, inodes=1 << 20), (ENOSPC,), "DiskQuotaExceeded"),
        (NO_ROOM, NO_ROOM, (ENOSPC,), "NodeDiskFull"),
        (ROOM, NO_ROOM, (), "NodeDiskFull"),
        (SOME, Room(bytes=100 * MIB, inodes=1 << 20), (ENOSPC,), "NodeDiskFull"),
        (SOME, ROOM, (ENOSPC,), "DiskQuotaExceeded"),
        (SOME, ROOM, ("error",), None),
        (ROOM, ROOM, (ENOSPC,), None),
    ],
    ids=[
        "full",
        "no inodes",
        "full and the node below its floor",
        "both full",
        "the node full",
        "the node below its floor",
        "half used and named",
        "half used",
        "room everywhere: what a step prints is not believed",
    ],
)
def test_a_full_file_system_of_a_build_is_its_limit_and_a_full_disk_is_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Room, node: Room, tail: tuple[str, ...], reason: str | None
) -> None:
    attempt = attempt_at(tmp_path)
    attempt.fence = tmp_path / "b-1.fence"
    monkeypatch.setattr(verdict, "room", lambda folder: node)
    found = of_step(attempt, STEP, StepResult(exit_code=1, tail=tail, room=own))
    assert (found and found.reason) == reason
    if found and reason == "DiskQuotaExceeded":
        limit = attempt.node.settings.disk_bytes
        assert (found.error_class, found.retried, found.limit) == ("user_code", False, limit)
        assert found.exit_code == 1 and "limit of 4096 MiB on disk" in found.message


@pytest.mark.parametrize(
    ("fenced", "found", "node", "reason"),
    [
        (True, NO_ROOM, ROOM, "DiskQuotaExceeded"),
        (True, NO_ROOM, NO_ROOM, "NodeDiskFull"),
        (True, ROOM, ROOM, ""),
        (False, NO_ROOM, NO_ROOM, "NodeDiskFull"),
        (False, ROOM, ROOM, ""),
    ],
)
def test_git_that_a_full_disk_ended_is_no_trouble_of_its_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fenced: bool, found: Room, node: Room, reason: str
) -> None:
    def run(*_: object, on_line: sandbox.OnLine, **more: object) -> sandbox.Result:
        on_line(sandbox.Stream.STDERR, b"fatal: write error: No space left on device")
        return sandbox.Result(
            exit_code=128, signal=None, reason=None, peak_memory=0, peak_disk=0, peak_pids=0, duration_ms=0, room=found
        )

    monkeypatch.setattr(sandbox, "run", run)
    monkeypatch.setattr(gitrun, "machine_git", lambda attempt: ())
    monkeypatch.setattr(verdict, "room", lambda folder: node)
    attempt = attempt_at(tmp_path)
    attempt.fence = tmp_path / "b-1.fence" if fenced else None
    if not reason:
        assert gitrun.run(attempt, ("git", "fetch"), None).code == 128
        return
    with pytest.raises(BuildError) as caught:
        gitrun.run(attempt, ("git", "fetch"), None)
    assert (caught.value.reason, caught.value.retried) == (reason, reason == "NodeDiskFull")
    assert caught.value.message.startswith("git") and "No space left" in caught.value.said[0]


@pytest.mark.parametrize(
    ("own", "node", "reason"),
    [
        (NO_ROOM, ROOM, "DiskQuotaExceeded"),
        (NO_INODES, ROOM, "DiskQuotaExceeded"),
        (NO_ROOM, NO_ROOM, "NodeDiskFull"),
        (ROOM, NO_ROOM, "NodeDiskFull"),
        (ROOM, ROOM, "NodeDiskFull"),
    ],
)
def test_our_own_code_in_a_full_file_system_met_the_builds_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: Room, node: Room, reason: str
) -> None:
    attempt = attempt_at(tmp_path)
    attempt.fence = tmp_path / "b-1.fence"
    monkeypatch.setattr(verdict, "room", lambda folder: own if folder == attempt.fence else node)
    error = PlatformError("NodeDiskFull", "the source could not be unpacked")
    error.phase = "FETCH_SOURCE"
    found = of_full(attempt, error)
    assert (found.reason, found.phase) == (reason, "FETCH_SOURCE")
    other = BuildError("StepFailed", "x")
    assert of_full(attempt, other) is other


def test_without_a_file_system_of_its_own_a_full_disk_is_the_nodes(tmp_path: Path) -> None:
    error = PlatformError("NodeDiskFull", "x")
    assert of_full(attempt_at(tmp_path), error) is error


@pytest.mark.parametrize(("fenced", "reason"), [(True, "DiskQuotaExceeded"), (False, "NodeDiskFull")])
def test_git_that_fills_a_disk_blames_no_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fenced: bool, reason: str
) -> None:
    def run(*_: object, on_line: sandbox.OnLine, **__: object) -> sandbox.Result:
        on_line(sandbox.Stream.STDERR, b"fatal: write error: No space left on device")
        return sandbox.Result(
            exit_code=128,
            signal=None,
            reason=None,
            peak_memory=0,
            peak_disk=0,
            peak_pids=0,
            duration_ms=0,
            room=NO_ROOM,
        )

    attempt = attempt_at(tmp_path)
    attempt.fence = tmp_path / "b-1.fence" if fenced else None
    monkeypatch.setattr(verdict, "room", lambda folder: ROOM)
    monkeypatch.setattr(sandbox, "run", run)
    source = pb.GitSource(url="https://example.com/g/a.git")
    asked = repository_of(pb.CreateBuildRequest(git_source=source))
    assert asked is not None
    with pytest.raises(BuildError) as caught:
        git.fetch_commit(attempt, asked)
    assert caught.value.reason == reason


# --- the node's folder


def test_what_a_build_may_write_lies_in_its_file_system_and_what_is_ours_beside_it(tmp_path: Path) -> None:
    with driving(node_at(tmp_path, blank=EMPTY), grant_of("b")) as attempt:
        work = tmp_path / "work"
        assert (attempt.fence, attempt.work) == (work / "b-1.fence", work / "b-1.fence" / "b-1")
        assert (attempt.private, attempt.beside(".caches")) == (work / "b-1.private", work / "b-1.caches")
        (tmp_path / "caches" / "o").mkdir(parents=True)
        attempt.private.parent.mkdir()
        assert discard_caches(attempt) and attempt.beside(".caches").is_dir()


def test_files_of_the_source_become_output_within_the_file_system_of_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt, fence, rename = attempt_at(tmp_path), tmp_path / "b-1.fence", os.rename
    attempt.work, attempt.fence = fence / "b-1", fence
    for folder in (attempt.source / "web", attempt.work / "out", attempt.private):
        folder.mkdir(parents=True)
    (attempt.source / "web" / "a.txt").write_text("a")

    def renamed(source: Path, target: str, *, dst_dir_fd: int) -> None:
        if source.is_relative_to(fence) != Path(os.readlink(f"/proc/self/fd/{dst_dir_fd}")).is_relative_to(fence):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(source, target, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", renamed)
    plan = SimpleNamespace(placed=(CopyFile(path="app/web/a.txt", source="web/a.txt"),))
    steps.place(attempt, cast(Any, plan))
    assert (attempt.work / "out/app/web/a.txt").read_text() == "a"
    assert list(fence.iterdir()) == [attempt.work], "a step sees its work folder alone, and nothing is left beside it"


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OSError(errno.ENOSPC, "No space left on device"), "NodeDiskFull"), (MISSING, "SandboxUnavailable")],
)
def test_a_file_system_that_cannot_be_made_ends_the_attempt_and_is_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fails(blank: Blank, file: Path, folder: Path) -> AbstractContextManager[None]:
        raise error

    monkeypatch.setattr(Blank, "mounted", fails)
    with driving(node_at(tmp_path, blank=EMPTY), grant_of()) as attempt:
        outcome = do_work(attempt)
        attempt.lose()
    assert outcome.failure is not None
    assert (outcome.failure.reason, outcome.failure.error_class, outcome.failure.retried) == (reason, "platform", True)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_line_that_a_full_disk_ended_is_judged_while_the_file_system_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = attempt_at(tmp_path)
    attempt.work, attempt.fence = tmp_path / "b-1.fence" / "b-1", tmp_path / "b-1.fence"
    attempt.fence.mkdir()
    seen: list[Path] = []

    def room(folder: Path) -> Room:
        seen.append(folder)
        assert folder.is_dir()
        return NO_ROOM if folder == attempt.fence else ROOM

    monkeypatch.setattr(verdict, "room", room)
    outcome = do_work(attempt, lambda _: Outcome(failure=PlatformError("NodeDiskFull", "x")))
    assert outcome.failure is not None and outcome.failure.reason == "DiskQuotaExceeded"
    assert seen == [attempt.fence, attempt.private.parent]


def test_what_a_killed_owner_left_of_a_file_system_goes_and_a_live_ones_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detached: list[str] = []
    monkeypatch.setattr(leftovers, "unmount", lambda folder: detached.append(folder.name))
    work, lost, live = tmp_path / "work", "a" * 20 + "-2", "b" * 20 + "-3"
    own(spool_path(tmp_path / "spool", "b" * 20, 3))
    for name in (lost, live):
        (work / f"{name}.fence" / name).mkdir(parents=True)
        (work / f"{name}.disk").touch()
        (work / f"{name}.private").mkdir()
    assert remove_left_behind(tmp_path) == 3
    assert detached == [f"{lost}.fence"]
    assert sorted(path.name for path in work.iterdir()) == [f"{live}.disk", f"{live}.fence", f"{live}.private"]


@pytest.mark.parametrize(
    ("root", "killed"),
    [("/{}", True), ("/{}.apart", True), ("/{}.start", True), ("/{}0", False), ("/", False), ("/x{}", False)],
)
def test_who_has_a_work_folder_within_a_left_file_system_mounted_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, killed: bool
) -> None:
    name, ended = "a" * 20 + "-2", list[int]()
    mounts: Mapping[int, list[bytes]] = {1 << 22: [b"/", root.format(name).encode()]}
    monkeypatch.setattr(leftovers, "_mounts", lambda: iter(mounts.items()))
    monkeypatch.setattr(os, "kill", lambda pid, _: ended.append(pid))
    monkeypatch.setattr(leftovers, "unmount", lambda folder: None)
    (tmp_path / "work" / f"{name}.fence").mkdir(parents=True)
    remove_left_behind(tmp_path)
    assert ended == ([1 << 22] if killed else [])


def test_a_mount_of_any_name_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of Latin-1, and with characters at which Python's text has a new line or a new word."""
    name, ended = "a" * 20 + "-2", list[int]()
    odd = ("/b\udce4r", "/b\xa0 \x85r", "/b\u2028r\x0b", "/b\x1cr")
    lines = [f"{at} 1 8:1 {root} /mnt{root} rw - ext4 /dev/sda rw\n" for at, root in enumerate((*odd, f"/{name}"))]
    process = tmp_path / "proc" / str(1 << 22)
    process.mkdir(parents=True)
    (process / "mountinfo").write_bytes("".join(lines).encode("utf-8", "surrogateescape"))
    monkeypatch.setattr(leftovers, "PROC", tmp_path / "proc")
    monkeypatch.setattr(os, "kill", lambda pid, _: ended.append(pid))
    (tmp_path / "work" / name).mkdir(parents=True)
    assert remove_left_behind(tmp_path) == 1
    assert ended == [1 << 22]


# --- the start


def test_a_worker_whose_fence_cannot_be_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(folder: Path, limit: int) -> Blank:
        assert folder == tmp_path / "work" and limit == Settings().disk_bytes
        raise MISSING

    monkeypatch.setattr(sandbox, "tried", lacks)
    monkeypatch.setattr(workers, "require_sandbox", lambda settings: None)
    settings = Settings(server="http://127.0.0.1:1", token="t", node_dir=str(tmp_path), disk_fence="loop")
    with pytest.raises(WorkerRefused) as caught:
        WorkerProcess(settings)._on_init(None)
    assert caught.value.code == 75
    assert "mkfs.ext4 is not installed" in str(caught.value.error) and "e2fsprogs" in caught.value.error.next


def test_without_the_setting_nothing_is_tried(tmp_path: Path) -> None:
    assert fences.require_fence(Settings(node_dir=str(tmp_path)), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_what_keeps_a_worker_from_its_fence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(**values: Any) -> dict[str, doctor.Finding]:
        settings = Settings(node_dir=str(tmp_path), disk_fence="loop", **values)
        return {one.name: one for one in doctor.findings(settings)}

    def lacks(folder: Path, limit: int) -> Blank:
        assert folder == tmp_path / "work", "it may be a disk of its own"
        raise MISSING

    (tmp_path / "work").mkdir()
    monkeypatch.setattr(sandbox, "check", lambda: ())
    monkeypatch.setattr(sandbox, "lacks_overlay", lambda folder: "")
    monkeypatch.setattr(sandbox, "tried", lambda folder, limit: EMPTY)
    assert look()["disk_fence: what a build writes lies in a file system of 1 MiB"].ok
    needed = 2 * size_for(Settings().disk_bytes) + Settings().node_free_bytes
    for free, enough in ((needed, False), (needed + 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        (room,) = (one for one in look(slots=2).values() if one.name.endswith("GiB free"))
        assert room.ok == enough and "not all slots" in room.effect
    monkeypatch.setattr(sandbox, "tried", lacks)
    found = look()["disk_fence"]
    assert not found.ok and "a worker does not start here" in found.effect and "mkfs.ext4" in found.effect
    assert found.mend == MISSING.next
