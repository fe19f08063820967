"""The small parts: line splitting, the filter (run by a little interpreter), control-group files, disk and storms."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.sandbox import Limits, cgroups, seccomp
from builder.sandbox.disk import SMALLEST, used
from builder.sandbox.fence import Sustained
from builder.sandbox.lines import LineSplitter
from builder.sandbox.supervise import signal_of

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


def judged(number: int, *args: int, arch: int = seccomp.AUDIT_ARCH_X86_64) -> str:
    """What the filter says about a call: a classic-BPF machine with the five instructions it uses."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *(*args, *[0] * (6 - len(args))))
    code = seccomp.program()
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


@pytest.mark.parametrize("name", seccomp.DENIED)
def test_denied_calls(name: str) -> None:
    assert judged(seccomp.DENIED[name]) == "EPERM"


def test_every_other_call_is_allowed() -> None:
    special = {seccomp.CLONE3, seccomp.SOCKET, *seccomp.DENIED.values()}
    assert {judged(number) for number in range(0, 600) if number not in special} == {ALLOWED}


@pytest.mark.parametrize(
    ("number", "args", "verdict"),
    [
        (seccomp.CLONE, (0x11,), ALLOWED),
        (seccomp.CLONE, (seccomp.CLONE_NEWUSER | 0x11,), "EPERM"),
        (seccomp.CLONE, (1 << 32 | seccomp.CLONE_NEWUSER,), "EPERM"),
        (seccomp.UNSHARE, (0x400,), ALLOWED),
        (seccomp.UNSHARE, (seccomp.CLONE_NEWUSER,), "EPERM"),
        (seccomp.CLONE3, (), "ENOSYS"),
        (seccomp.IOCTL, (0, seccomp.TIOCSTI), "EPERM"),
        (seccomp.IOCTL, (0, 1 << 32 | seccomp.TIOCSTI), "EPERM"),
        (seccomp.IOCTL, (0, seccomp.TIOCLINUX), "EPERM"),
        (seccomp.IOCTL, (0, 0x5401), ALLOWED),
        (seccomp.SOCKET, (1,), ALLOWED),
        (seccomp.SOCKET, (2,), ALLOWED),
        (seccomp.SOCKET, (10,), ALLOWED),
        (seccomp.SOCKET, (16,), ALLOWED),
        (seccomp.SOCKET, (17,), "EAFNOSUPPORT"),
        (seccomp.SOCKET, (40,), "EAFNOSUPPORT"),
        (seccomp.X32_BIT | 1, (), "EPERM"),
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
    assert ("pids", "pids.max", "101") in v1_files
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


def test_disk_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    assert used((tmp_path / "gone",)) == 0


def test_a_storm_is_what_lasts_a_second() -> None:
    now = [0.0]
    storm = Sustained(lambda: now[0])
    said = []
    for second, holds in ((0.0, True), (0.9, True), (1.0, False), (1.1, True), (2.0, True), (2.2, True)):
        now[0] = second
        said.append(storm(holds))
    assert said == [False, False, False, False, False, True]
