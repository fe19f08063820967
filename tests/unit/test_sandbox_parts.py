"""The small parts: line splitting, the filter (run by a little interpreter), control-group files, disk and storms."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.errors import PlatformError
from builder.sandbox import Limits, Stream, cgroups, disk, netns, remove_tree, seccomp
from builder.sandbox.disk import SMALLEST, DiskWatch, Room, used
from builder.sandbox.fence import Sustained
from builder.sandbox.lines import LineSplitter
from builder.sandbox.supervise import Supervision, signal_of

# --- lines


@given(st.lists(st.binary(max_size=40)), st.integers(min_value=1, max_value=20))
def test_no_byte_is_lost_however_it_is_cut(chunks: list[bytes], limit: int) -> None:
    splitter = LineSplitter(limit)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)] + splitter.close()
    data = b"".join(chunks)
    assert b"".join(lines) == data.replace(b"\n", b"")
    assert all(len(line) <= limit and b"\n" not in line for line in lines)
    if all(len(line) <= limit for line in data.split(b"\n")):
        assert lines == (data[:-1] if data.endswith(b"\n") else data).split(b"\n") if data else lines == []


def test_a_line_of_exactly_the_limit_is_one_line() -> None:
    splitter = LineSplitter(4)
    assert splitter.feed(b"abcd") + splitter.feed(b"\nabcdefgh\n") == [b"abcd", b"abcd", b"efgh"]


def test_empty_lines_stay() -> None:
    assert LineSplitter().feed(b"\n\na\n") == [b"", b"", b"a"]


@pytest.mark.parametrize(("code", "number"), [(0, None), (1, None), (128, None), (137, 9), (143, 15), (255, None)])
def test_signal_of(code: int, number: int | None) -> None:
    assert signal_of(code) == number


# --- the filter


ALLOWED = "allow"


def judged(number: int, *args: int, arch: int = seccomp.AUDIT_ARCH_X86_64, code: bytes = b"") -> str:
    """What a filter, that of a step where none is given, says about a call: a classic-BPF machine with the five
    instructions it uses."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(*args, *[0] * (6 - len(args))))
    code = code or seccomp.program()
    accumulator = position = 0
    while True:
        kind, if_true, if_false, value = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        if kind == seccomp.LOAD:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif kind == seccomp.RETURN:
            named = {seccomp.ALLOW: ALLOWED, seccomp.KILL_PROCESS: "kill"}
            return named.get(value) or errno.errorcode[value & 0xFFFF]
        else:
            holds = {
                seccomp.JUMP_EQUAL: accumulator == value,
                seccomp.JUMP_GREATER_EQUAL: accumulator >= value,
                seccomp.JUMP_SET: bool(accumulator & value),
            }[kind]
            position += if_true if holds else if_false


# Numbers of arch/x86/entry/syscalls/syscall_64.tbl, by hand: the filter's own table proves nothing about it.
EXPECTED_EPERM = {
    101: "ptrace", 103: "syslog", 154: "modify_ldt", 155: "pivot_root", 161: "chroot", 163: "acct",
    164: "settimeofday", 165: "mount", 166: "umount2", 167: "swapon", 168: "swapoff", 169: "reboot", 172: "iopl",
    173: "ioperm", 175: "init_module", 176: "delete_module", 179: "quotactl", 227: "clock_settime",
    246: "kexec_load", 248: "add_key", 249: "request_key", 250: "keyctl", 298: "perf_event_open",
    300: "fanotify_init", 303: "name_to_handle_at", 304: "open_by_handle_at", 308: "setns",
    310: "process_vm_readv", 311: "process_vm_writev", 312: "kcmp", 313: "finit_module", 320: "kexec_file_load",
    321: "bpf", 323: "userfaultfd", 425: "io_uring_setup", 426: "io_uring_enter", 427: "io_uring_register",
    428: "open_tree", 429: "move_mount", 430: "fsopen", 431: "fsconfig", 432: "fsmount", 433: "fspick",
    438: "pidfd_getfd", 442: "mount_setattr", 443: "quotactl_fd", 447: "memfd_secret",
}  # fmt: skip
EXPECTED_ENOSYS = {
    435: "clone3", 457: "statmount", 458: "listmount", 463: "setxattrat", 464: "getxattrat", 465: "listxattrat",
    466: "removexattrat", 467: "open_tree_attr", 468: "file_getattr", 469: "file_setattr", 470: "listns",
    471: "not in any kernel yet", 599: "not in any kernel yet",
}  # fmt: skip
SOCKET_CALL = 41
EXPECTED_OF_A_READER = {
    29: "shmget", 30: "shmat", 41: "socket", 42: "connect", 43: "accept", 49: "bind", 50: "listen", 53: "socketpair",
    56: "clone", 57: "fork", 58: "vfork", 59: "execve", 62: "kill", 129: "rt_sigqueueinfo", 200: "tkill",
    234: "tgkill", 272: "unshare", 288: "accept4", 297: "rt_tgsigqueueinfo", 319: "memfd_create", 322: "execveat",
    424: "pidfd_send_signal", 434: "pidfd_open",
}  # fmt: skip


@pytest.mark.parametrize("number", EXPECTED_EPERM.keys() | EXPECTED_OF_A_READER.keys())
def test_calls_that_are_denied_to_a_reader(number: int) -> None:
    assert judged(number, code=seccomp.program_of_a_reader()) == "EPERM"


@pytest.mark.parametrize("number", EXPECTED_EPERM, ids=EXPECTED_EPERM.get)
def test_denied_calls(number: int) -> None:
    assert judged(number) == "EPERM"


@pytest.mark.parametrize("number", EXPECTED_ENOSYS, ids=EXPECTED_ENOSYS.get)
def test_calls_that_look_like_those_of_a_newer_kernel(number: int) -> None:
    assert judged(number) == "ENOSYS"


def test_every_other_call_is_allowed() -> None:
    special = {SOCKET_CALL, *EXPECTED_EPERM, *EXPECTED_ENOSYS}
    assert {number for number in range(0, 463) if number not in special and judged(number) != ALLOWED} == set()


@pytest.mark.parametrize(
    ("number", "args", "verdict"),
    [
        (56, (0x11,), ALLOWED),
        (56, (0x10000000 | 0x11,), "EPERM"),
        (56, (1 << 32 | 0x10000000,), "EPERM"),
        (272, (0x400,), ALLOWED),
        (272, (0x10000000,), "EPERM"),
        (16, (0, 0x5412), "EPERM"),
        (16, (0, 1 << 32 | 0x5412), "EPERM"),
        (16, (0, 0x541C), "EPERM"),
        (16, (0, 0x5401), ALLOWED),
        (41, (1,), ALLOWED),
        (41, (2,), ALLOWED),
        (41, (10,), ALLOWED),
        (41, (16, 3, 0), ALLOWED),
        (41, (16, 3, 6), "EPROTONOSUPPORT"),
        (41, (16, 3, 9), "EPROTONOSUPPORT"),
        (41, (16, 3, 12), "EPROTONOSUPPORT"),
        (41, (17,), "EAFNOSUPPORT"),
        (41, (40,), "EAFNOSUPPORT"),
        (0x40000000 | 1, (), "EPERM"),
    ],
)
def test_calls_judged_by_their_arguments(number: int, args: tuple[int, ...], verdict: str) -> None:
    assert judged(number, *args) == verdict


def test_another_architecture_is_killed() -> None:
    assert judged(20, arch=0x40000003) == "kill"


def test_jumps_stay_inside_the_program() -> None:
    lines = seccomp.assemble()
    for position, line in enumerate(lines):
        assert max(line.if_true, line.if_false) <= 255
        assert position + 1 + max(line.if_true, line.if_false) < len(lines) or line.code == seccomp.RETURN


# --- control groups, on a folder that looks like them


LIMITS = Limits(memory=1 << 30, cpus=1.5, pids=100, disk=1, wall_ms=1)


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for name in ("memory/box", "pids", "cpu"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def test_v1_and_hybrid_are_found_below_our_own_group(v1: Path) -> None:
    found = cgroups.find("4:memory:/box\n3:cpu,cpuacct:/gone\n8:pids:/\n0::/\n", v1)
    assert found is not None
    assert found.version == 1
    assert found.parents == {"memory": v1 / "memory/box", "pids": v1 / "pids", "cpu": v1 / "cpu"}


def test_v1_without_pids_is_none(v1: Path) -> None:
    assert cgroups.find("4:memory:/box\n0::/\n", v1) is None


def test_limit_files() -> None:
    v1_files = cgroups._limit_files(1, LIMITS)
    assert ("pids", "pids.max", "102") in v1_files, "and two that are not the build's"
    assert ("cpu", "cpu.cfs_quota_us", "150000") in v1_files
    names = [file for _, file, _ in v1_files]
    assert names.index("memory.limit_in_bytes") < names.index("memory.memsw.limit_in_bytes")
    assert ("cpu", "cpu.max", "150000 100000") in cgroups._limit_files(2, LIMITS)
    assert ("memory", "memory.oom.group", "1") in cgroups._limit_files(2, LIMITS)


# --- disk


def test_disk_counts_small_files_and_hard_links_once(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(10):
        (tree / str(number)).write_bytes(b"x")
    (tree / "large").write_bytes(b"x" * 1_000_000)
    before = used((tree,))
    assert 10 * SMALLEST + 1_000_000 <= before <= 20 * SMALLEST + 1_100_000
    os.link(tree / "large", tree / "again")
    (tree / "out").symlink_to("/usr")
    assert used((tree,)) <= before + SMALLEST


def test_disk_sees_the_bottom_of_a_tree_deeper_than_a_path_may_be_long(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    made = []
    try:
        for _ in range(300):
            os.mkdir("d" * 200, dir_fd=here)
            made.append(here)
            here = os.open("d" * 200, os.O_RDONLY, dir_fd=here)
        bottom = os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=here)
        os.write(bottom, b"x" * 500_000)
        os.close(bottom)
        assert used((tmp_path,)) >= 300 * SMALLEST + 500_000
        os.unlink("file", dir_fd=here)
    finally:
        for parent in reversed(made):
            os.close(here)
            os.rmdir("d" * 200, dir_fd=parent)
            here = parent
        os.close(here)


NOBODY = 65534
SHUT = [0o300, 0o600, 0o000]


@contextmanager
def somebody() -> Iterator[None]:
    """This process as a user without rights over others' files, as a worker without root is."""
    root = os.geteuid() == 0
    if root:
        os.setegid(NOBODY)
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


@pytest.fixture
def somebodys() -> Iterator[Path]:
    """A folder of that user."""
    with tempfile.TemporaryDirectory(prefix="ignite-test-", ignore_cleanup_errors=True) as top:
        os.chmod(top, 0o711)
        folder = Path(top) / "work"
        folder.mkdir()
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        yield folder
        remove_tree(folder)


@pytest.mark.parametrize("mode", SHUT, ids=oct)
def test_disk_sees_into_folders_that_their_owner_has_shut(somebodys: Path, mode: int) -> None:
    with somebody():
        deep = somebodys / "a" / "b"
        deep.mkdir(parents=True)
        (deep / "f").write_bytes(b"x" * 3_000_000)
        for folder in (deep, deep.parent, somebodys):
            folder.chmod(mode)
        assert 3_000_000 <= used((somebodys,)) < 4_000_000


@pytest.mark.parametrize("mode", SHUT, ids=oct)
def test_disk_sees_into_a_folder_that_is_shut_while_it_looks(
    somebodys: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`b` loses its rights between its opening and the look at its entries, `a` with it."""
    with somebody():
        deep = somebodys / "a" / "b" / "c"
        deep.mkdir(parents=True)
        (deep / "f").write_bytes(b"x" * 3_000_000)
        real = disk._entries

        def entries(fd: int, seen: set[tuple[int, int]], glance: disk.Glance) -> tuple[int, list[str]]:
            if disk._path(fd).endswith("/b"):
                for folder in (deep.parent, deep.parent.parent):
                    folder.chmod(mode)
            return real(fd, seen, glance)

        monkeypatch.setattr(disk, "_entries", entries)
        assert 3_000_000 <= used((somebodys,)) < 4_000_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a folder of another user")
def test_a_folder_that_stays_shut_is_over_any_limit(somebodys: Path) -> None:
    """Its owner is another user: nothing that this one does opens it."""
    (somebodys / "foreign").mkdir(mode=0o700)
    with somebody():
        assert used((somebodys,)) >= disk.OVER_ANY_LIMIT


def test_opening_a_folder_follows_no_link_out_of_the_tree(somebodys: Path) -> None:
    """The build has put a link where the watch saw a folder: what it points to keeps its mode."""
    with somebody():
        outside, inside = somebodys / "outside" / "b", somebodys / "inside"
        outside.mkdir(parents=True)
        inside.mkdir()
        outside.chmod(0o300)
        (inside / "a").symlink_to(outside.parent)
        anchor = os.open(inside, os.O_RDONLY)
        try:
            disk._open_to_us("a/b", anchor)
            with pytest.raises(NotADirectoryError):
                disk._folder("a/b", anchor)
        finally:
            os.close(anchor)
        assert outside.stat().st_mode & 0o777 == 0o300


@pytest.mark.parametrize("inside", ["", "a/"])
def test_disk_with_more_folders_than_a_count_may_remember_is_over_any_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.setattr(disk, "MOST_WAITING", 8)
    for number in range(8):
        (tmp_path / f"{inside}{number}").mkdir(parents=True)
    assert disk.used([tmp_path]) < disk.OVER_ANY_LIMIT
    (tmp_path / f"{inside}8").mkdir()
    assert disk.used([tmp_path]) >= disk.OVER_ANY_LIMIT


def test_disk_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    assert used((tmp_path / "gone",)) == 0


def watchers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "sandbox-disk"]


def test_a_short_run_has_its_disk_looked_at_once_and_no_thread(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    watch = DiskWatch(tmp_path, (), limit=500_000)
    assert not watch.exceeded()
    assert watchers() == []
    watch.stop()
    assert watch.exceeded()
    assert watchers() == [], "a watch that has stopped starts nothing"
    assert 1_000_000 <= watch.peak <= 1_100_000


def test_a_run_that_writes_on_while_a_look_lasts_is_stopped_for_the_rest_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file system loses 100 bytes between two glances of a look; 250, a quarter of the limit, may be lost."""
    left, lost_when_stopped = 10_000, []

    def used_while_it_writes(folders: tuple[Path, ...], glance: disk.Glance) -> int:
        nonlocal left
        for _ in range(5):
            glance()
            left -= 100
        return 500

    @contextmanager
    def stopped(pids: object, over: object) -> Iterator[None]:
        lost_when_stopped.append(10_000 - left)
        yield

    monkeypatch.setattr(disk, "room", lambda folder: Room(bytes=left, inodes=None))
    monkeypatch.setattr(disk, "used", used_while_it_writes)
    monkeypatch.setattr(disk, "stopped", stopped)
    watch = DiskWatch(tmp_path, (), limit=1000)
    watch._look_beside_it()
    assert lost_when_stopped == [300]


def test_a_count_glances_at_each_folder_and_every_256_entries(tmp_path: Path) -> None:
    for number in range(600):
        (tmp_path / str(number)).touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").touch()
    glances = []
    used((tmp_path,), lambda: glances.append(1))
    assert len(glances) == 4, "three in the folder of 601 entries, one in the other"


def test_a_watch_that_is_asked_looks_once_its_time_has_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "FIRST_LOOK_S", 0.0)
    looked = threading.Event()
    real = disk.used

    def used_and_seen(folders: tuple[Path, ...], glance: disk.Glance) -> int:
        looked.set()
        return real(folders, glance)

    monkeypatch.setattr(disk, "used", used_and_seen)
    watch = DiskWatch(tmp_path, (), limit=1 << 30)
    try:
        assert not watch.exceeded()
        assert looked.wait(300)
        assert watchers() == ["sandbox-disk"]
    finally:
        watch.stop()
    assert watchers() == []


@pytest.mark.parametrize(("written", "looks_again"), [(0, False), (500, False), (950, True)])
def test_the_last_look_is_at_caches_where_they_may_have_reached_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, looks_again: bool
) -> None:
    """The work folder has 100 bytes; the cache has 300 at the first look and grows by what is written after it."""
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    cache.mkdir()
    left = 10_000
    looked: list[Path] = []

    def used_of(folders: tuple[Path, ...], glance: disk.Glance) -> int:
        looked.extend(folders)
        return 300 + 10_000 - left if folders == (cache,) else 100

    monkeypatch.setattr(disk, "room", lambda folder: Room(bytes=left, inodes=None))
    monkeypatch.setattr(disk, "used", used_of)
    watch = DiskWatch(work, (cache,), limit=1000)
    watch._look_beside_it()
    watch._look(with_caches=False)  # one that came by what was lost says nothing of the cache
    looked.clear()
    left -= written
    watch.stop()
    assert (cache in looked) is looks_again and work in looked
    assert watch.exceeded() is looks_again


def test_the_last_look_is_at_caches_of_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def used_of(folders: tuple[Path, ...], glance: disk.Glance) -> int:
        looked.extend(folders)
        return 0

    monkeypatch.setattr(disk, "used", used_of)
    cache = Path("/proc/self")
    watch = DiskWatch(tmp_path, (cache,), limit=1 << 30)
    watch._look_beside_it()
    looked.clear()
    watch.stop()
    assert cache in looked


def test_room_is_what_any_user_but_root_may_take(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert abs(disk.room(tmp_path).bytes - free) < free // 2
    less = Room(bytes=5, inodes=9).least(Room(bytes=7, inodes=3))
    assert less == Room(bytes=5, inodes=3) and less.least(Room(bytes=6, inodes=None)) == less
    assert less.below(6, 0) and less.below(0, 4) and not less.below(5, 3)
    assert not Room(bytes=5, inodes=None).below(5, 1000), "a file system without a fixed number of inodes"


class Quiet:
    """A command that has closed both pipes and lives until the third look at its limits."""

    def __init__(self) -> None:
        self.ended_fd, self._end = os.pipe()
        self.polls = self.checks = 0
        self.code: int | None = None

    def poll(self) -> int | None:
        self.polls += 1
        return self.code

    def check(self) -> str | None:
        self.checks += 1
        if self.checks == 3:
            self.code = 7
            os.close(self._end)
        return None

    def term(self) -> None:
        raise AssertionError("nobody ends it")

    kill = term


def test_a_command_that_has_closed_its_output_is_waited_for_without_polling() -> None:
    target = Quiet()
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        supervision = Supervision(
            target=target,
            pipes={Stream.STDOUT: pipe},
            on_line=lambda stream, line: None,
            check=target.check,
            cancelled=lambda: False,
            wall_s=60,
            grace_s=1,
        )
        assert supervision.run() == 7
    os.close(target.ended_fd)
    assert target.polls <= target.checks + 2, "once for the pipe, once for each look, once for its end"


def test_a_storm_is_what_lasts_a_second() -> None:
    now = [0.0]
    storm = Sustained(lambda: now[0])
    said = []
    for second, holds in ((0.0, True), (0.9, True), (1.0, False), (1.1, True), (2.0, True), (2.2, True)):
        now[0] = second
        said.append(storm(holds))
    assert said == [False, False, False, False, False, True]


# --- the network namespace


def test_a_sandbox_that_died_before_it_was_joined_is_the_sandboxs_failure() -> None:
    nobody = 2**31 - 1  # above any pid_max
    with pytest.raises(PlatformError) as refused, netns._by_visit(nobody):
        pass
    assert refused.value.reason == "SandboxUnavailable"
