"""One run in a real sandbox: its lines, its limits with and without control groups, its end, what it leaves."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder import sandbox
from builder.errors import PlatformError
from builder.sandbox import cgroups
from builder.sandbox.argv import entering
from builder.sandbox.disk import stopped, used
from tests.sandbox_fixtures import MIB, PYTHON, UID, alive, all_reaped, limits, run, until, work_folder

pytestmark = pytest.mark.e2e

BOTH = pytest.mark.parametrize("use_cgroups", [True, False], ids=["cgroups", "without"])
FORK_BOMB = """
import os, time
while True:
    try:
        if os.fork() == 0:
            continue
    except OSError:
        time.sleep(0.001)
"""
SMALL_FILES = """
import os
for folder in range(100):
    os.mkdir(f"/work/{folder}")
    for number in range(1000):
        with open(f"/work/{folder}/{number}", "w") as file:
            file.write("x")
"""
LARGE_FILES = """
block = b"x" * (1 << 20)
for number in range(64):
    with open(f"/work/large{number}", "wb", 0) as out:
        for _ in range(60):
            out.write(block)
"""
FORTY_THOUSAND = """
import os
for folder in range(40):
    os.mkdir(f"/work/{folder}")
    for number in range(1000):
        open(f"/work/{folder}/{number}", "w").close()
"""
DELETED_FILES = """
import os, time
held = []
for number in range(16):
    file = open("/work/gone", "wb")
    os.unlink("/work/gone")
    file.write(b"x" * (8 << 20))
    file.flush()
    held.append(file)
time.sleep(60)
"""


@pytest.fixture
def work() -> Iterator[Path]:
    with work_folder() as folder:
        yield folder


@pytest.fixture(autouse=True)
def no_group_left() -> Iterator[None]:
    yield
    hierarchy = cgroups.available()
    for parent in set(hierarchy.parents.values()) if hierarchy else ():
        assert list(parent.glob(f"ignite-{os.getpid()}-*")) == []


# --- lines and exit codes


def test_lines_stay_apart_and_none_is_lost(work: Path) -> None:
    script = "for i in $(seq 5000); do echo line $i; done; echo oops >&2; printf 'no newline'"
    ran = run(work, "/bin/sh", "-c", script)
    assert ran.text().splitlines() == [*(f"line {number}" for number in range(1, 5001)), "no newline"]
    assert ran.text("STDERR") == "oops"
    assert (ran.result.exit_code, ran.result.signal, ran.result.reason) == (0, None, None)


def test_a_long_line_is_split_at_16_kib(work: Path) -> None:
    ran = run(work, PYTHON, "-c", "print('x' * 40_000)")
    assert [len(line) for _, line in ran.lines] == [16384, 16384, 40_000 - 2 * 16384]


@pytest.mark.parametrize(("script", "code", "killed_by"), [("exit 3", 3, None), ("kill -SEGV $$", 139, signal.SIGSEGV)])
def test_exit_code(work: Path, script: str, code: int, killed_by: int | None) -> None:
    result = run(work, "/bin/sh", "-c", script).result
    assert (result.exit_code, result.signal, result.reason) == (code, killed_by, None)


def test_a_missing_program_is_127(work: Path) -> None:
    ran = run(work, "/bin/no-such-program")
    assert ran.result.exit_code == 127
    assert "No such file" in ran.text("STDERR")


def test_what_stops_the_sandbox_itself_is_ours(work: Path) -> None:
    with pytest.raises(PlatformError, match=r"cannot be made.*chdir") as caught:
        sandbox.run(
            sandbox.Command(argv=("/bin/true",), work=work, cwd="/nowhere"),
            sandbox.host_root(),
            limits(),
            uid=UID,
            gid=UID,
            egress=None,
            on_line=lambda stream, line: None,
            cancelled=lambda: False,
        )
    assert caught.value.reason == "SandboxUnavailable"


def test_a_program_that_closes_its_output_is_still_waited_for(work: Path) -> None:
    result = run(work, "/bin/sh", "-c", "exec >&- 2>&-; sleep 0.3; exit 5").result
    assert result.exit_code == 5
    assert result.duration_ms >= 300


def test_a_listener_that_raises_ends_the_command(work: Path) -> None:
    marker = secrets.token_hex(8)

    def broken(stream: sandbox.Stream, line: bytes) -> None:
        raise RuntimeError("the log is gone")

    with pytest.raises(RuntimeError, match="the log is gone"):
        sandbox.run(
            sandbox.Command(argv=("/bin/sh", "-c", f"echo x; sleep 60 # {marker}"), work=work),
            sandbox.host_root(),
            limits(),
            uid=UID,
            gid=UID,
            egress=None,
            on_line=broken,
            cancelled=lambda: False,
        )
    assert alive(marker) == []


# --- what it leaves and sees


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_are_owned_outside_by_the_build_user(work: Path) -> None:
    run(work, "/bin/sh", "-c", "id -u > who; mkdir d; ln -s x d/link")
    assert (work / "who").read_text().strip() == str(UID)
    owners = {path.lstat().st_uid for path in (work / "who", work / "d", work / "d/link")}
    assert owners == {UID}
    assert (work / "who").stat().st_mode & 0o777 == 0o664


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to ask for root")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has groups to lose")
def test_the_workers_own_groups_stay_outside(work: Path) -> None:
    before = os.getgroups()
    os.setgroups([4, 27])
    try:
        assert run(work, "/usr/bin/id", "-G").text() == str(UID)
    finally:
        os.setgroups(before)


def test_a_build_never_runs_as_root(work: Path) -> None:
    with pytest.raises(PlatformError, match="never runs as root"):
        sandbox.run(
            sandbox.Command(argv=("/bin/true",), work=work),
            sandbox.host_root(),
            limits(),
            uid=0,
            gid=0,
            egress=None,
            on_line=lambda stream, line: None,
            cancelled=lambda: False,
        )


def test_caches_are_kept_and_writable(work: Path) -> None:
    with work_folder() as cache:
        run(work, "/bin/sh", "-c", "echo kept > /cache/go/file", caches={"go": cache})
        assert run(work, "/bin/cat", "/cache/go/file", caches={"go": cache}).text() == "kept"


def test_a_store_is_read_only_and_of_the_work_folder_only_what_is_named_shows(work: Path) -> None:
    for name in ("fetch", "src"):
        (work / name).mkdir()
        (work / name).chmod(0o777)
    (work / "src/secret").write_text("x")
    with work_folder() as store:
        (store / "file").write_text("verified")
        script = "ls /work; cat /cache/wheels/file; echo x > /cache/wheels/file; touch /work/fetch/made /work/beside"
        ran = run(work, "/bin/sh", "-c", script, folders=("fetch",), stores={"wheels": store})
        assert (store / "file").read_text() == "verified"
    assert ran.text().startswith("fetch\nverified") and "src" not in ran.text()
    assert (work / "fetch/made").exists() and not (work / "beside").exists()


def test_the_root_of_an_image_with_mounts_it_has_no_place_for(work: Path, tmp_path: Path) -> None:
    """An image with merged /usr links, its own /etc/passwd, and no /opt: a toolchain appears at /opt/ignite/go."""
    rootfs = work.parent / "rootfs"
    rootfs.mkdir(mode=0o755)
    for folder in ("usr/bin", "usr/lib", "etc/ssl", "root", "run"):
        (rootfs / folder).mkdir(parents=True)
    shell = Path("/bin/sh").resolve()
    for path in (shell, Path("/bin/cat"), Path("/bin/ls")):
        copied(path, rootfs)
    (rootfs / "usr/bin/sh").symlink_to(shell.name)
    for name in ("bin", "lib"):
        (rootfs / name).symlink_to(f"usr/{name}")
    (rootfs / "lib64").symlink_to("usr/lib64")
    (rootfs / "etc/passwd").write_text("image:x:1:1::/:/bin/sh\n")
    (rootfs / "etc/release").write_text("the image's own")
    tool = work.parent / "tool"
    tool.mkdir(mode=0o755)
    (tool / "VERSION").write_text("go1.26")
    bundle = work.parent / "ca.crt"
    bundle.write_text("certificates")
    mounts = (
        sandbox.Mount(source=tool, dest="/opt/ignite/go"),
        sandbox.Mount(source=bundle, dest="/etc/ssl/certs/ca.crt"),
        sandbox.Mount(source=tool, dest="/lib/tool"),
    )
    root = sandbox.Root(rootfs=rootfs, mounts=mounts)
    script = "cat /opt/ignite/go/VERSION /usr/lib/tool/VERSION /etc/ssl/certs/ca.crt /etc/release /etc/passwd; ls /"
    ran = run(work, "/bin/sh", "-c", script + "; echo x > /etc/release; echo x > /etc/passwd", root=root)
    said = ran.text()
    assert said.startswith("go1.26go1.26certificatesthe image's ownroot:x:0:0")
    assert "image:x" not in said
    assert ran.text("STDERR").count("Read-only file system") == 2
    assert "tool" not in os.listdir(rootfs / "usr/lib"), "nothing is made inside the image"
    assert sorted(os.listdir(rootfs / "etc")) == ["passwd", "release", "ssl"]


def test_a_link_of_an_image_leads_nothing_of_ours_out_of_it(work: Path, tmp_path: Path) -> None:
    """bubblewrap makes the root while the host's is still at /oldroot, and follows what links it finds."""
    rootfs, host = work.parent / "linked", work.parent / "host"
    for folder in (rootfs, host):
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
    (rootfs / "usr").mkdir()
    shell = Path("/bin/sh").resolve()
    for path in (shell, Path("/bin/cat")):
        copied(path, rootfs)
    (rootfs / "usr/bin/sh").symlink_to(shell.name)
    for name in ("bin", "lib", "lib64"):
        (rootfs / name).symlink_to(f"usr/{name}")
    (rootfs / "etc").symlink_to(f"/oldroot{host}")
    ran = run(work, "/bin/sh", "-c", "cat /etc/passwd", root=sandbox.Root(rootfs=rootfs))
    assert ran.text().startswith("root:x:0:0") and os.listdir(host) == []


def copied(program: Path, rootfs: Path) -> None:
    """A program and the libraries it loads, into `usr/` of the image."""
    listed = subprocess.run(["/usr/bin/ldd", str(program)], capture_output=True, text=True, check=True).stdout
    files = [program] + [Path(word) for line in listed.splitlines() for word in line.split() if word.startswith("/")]
    for file in files:
        inside = str(file).removeprefix("/").removeprefix("usr/")
        target = rootfs / "usr" / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
        target.chmod(0o755)


# --- limits


@BOTH
def test_memory(work: Path, use_cgroups: bool) -> None:
    script = "held = bytearray(900 << 20); import time; time.sleep(30)"
    result = run(work, PYTHON, "-c", script, memory=128 * MIB, use_cgroups=use_cgroups).result
    assert result.reason == "OutOfMemory"
    assert result.peak_memory >= 100 * MIB


MEMORY_FILE = "import os, time; fd = os.memfd_create('x'); [os.write(fd, bytes(1 << 20)) for _ in range(400)]"
SHARED = "import mmap, time; held = mmap.mmap(-1, 400 << 20); held.write(bytes(400 << 20))"


@BOTH
@pytest.mark.parametrize("script", [MEMORY_FILE, SHARED], ids=["memory file", "shared mapping"])
def test_memory_that_is_no_processes_own(work: Path, script: str, use_cgroups: bool) -> None:
    argv = (PYTHON, "-c", script + "; time.sleep(30)")
    result = run(work, *argv, memory=128 * MIB, disk=1024 * MIB, use_cgroups=use_cgroups).result
    assert result.reason == "OutOfMemory"


@BOTH
def test_memory_filled_through_tmp_and_shm_is_bounded(work: Path, use_cgroups: bool) -> None:
    script = "dd if=/dev/zero of=/tmp/x bs=1M; dd if=/dev/zero of=/dev/shm/x bs=1M; sleep 1"
    ran = run(work, "/bin/sh", "-c", script, memory=128 * MIB, disk=256 * MIB, use_cgroups=use_cgroups)
    assert ran.result.reason == "OutOfMemory" or "No space left" in ran.text("STDERR")
    assert ran.result.peak_memory <= 160 * MIB


@BOTH
def test_fork_bomb(work: Path, use_cgroups: bool) -> None:
    assert until(all_reaped), "the host reaps late"
    marker = secrets.token_hex(8)
    result = run(work, PYTHON, "-c", FORK_BOMB, marker, use_cgroups=use_cgroups).result
    assert result.reason == "ProcessLimitExceeded"
    assert 50 <= result.peak_pids <= 66
    assert alive(marker) == []


# The first line leaves the bomb behind; the command itself ends well, after as long as the test says.
BOMB_LEFT_BEHIND = (
    """
import os, sys, time
if os.fork():
    time.sleep(float(sys.argv[1]))
    os._exit(0)
os.setsid()
"""
    + FORK_BOMB
)


@BOTH
@pytest.mark.parametrize(
    ("after_s", "reasons"), [("0", (None, "ProcessLimitExceeded")), ("5", ("ProcessLimitExceeded",))]
)
def test_a_fork_bomb_left_behind_by_a_command_that_ends_well(
    work: Path, after_s: str, reasons: tuple[str | None, ...], use_cgroups: bool
) -> None:
    """All of it is killed at once. At the limit when the command ended, or for long: that is the reason."""
    assert until(all_reaped), "the host reaps late"
    marker = secrets.token_hex(8)
    result = run(work, PYTHON, "-c", BOMB_LEFT_BEHIND, after_s, marker, use_cgroups=use_cgroups, wall_ms=60_000).result
    assert result.exit_code in ((0,) if after_s == "0" else (0, 128 + signal.SIGKILL))
    assert result.reason in reasons
    assert alive(marker) == []


@BOTH
def test_a_command_that_met_the_process_limit_and_went_on_is_a_success(work: Path, use_cgroups: bool) -> None:
    assert until(all_reaped), "the host reaps late"
    script = (
        "import os, time\nmade = []\ntry:\n    while True:\n        pid = os.fork()\n"
        "        if not pid:\n            time.sleep(60)\n        made.append(pid)\n"
        "except OSError:\n    pass\n"
        "for pid in made:\n    os.kill(pid, 9)\n    os.waitpid(pid, 0)\ntime.sleep(1.5)\nprint(len(made))\n"
    )
    ran = run(work, PYTHON, "-c", script, use_cgroups=use_cgroups)
    assert (ran.result.exit_code, ran.result.reason) == (0, None)
    assert 50 <= int(ran.text()) <= 64


@BOTH
def test_a_build_that_meets_the_process_limit_and_fails(work: Path, use_cgroups: bool) -> None:
    assert until(all_reaped), "the host reaps late"
    # Without control groups the limit is seen by looking, 20 times a second: it stays there until it is killed.
    script = (
        "import os, sys, time\ntry:\n    for _ in range(200):\n        os.fork() or time.sleep(60) or os._exit(0)\n"
        "except OSError:\n    time.sleep(float(sys.argv[1]))\n    sys.exit(1)\n"
    )
    stay = "0" if use_cgroups else "30"
    result = run(work, PYTHON, "-c", script, stay, use_cgroups=use_cgroups).result
    assert result.reason == "ProcessLimitExceeded"
    assert result.exit_code in (1, 128 + signal.SIGKILL)  # who stays there for a second is killed


def test_two_runs_in_a_row_do_not_count_each_others_processes(work: Path) -> None:
    """Process 1 of a host may reap late; what it has not reaped counts for the build user."""
    for _ in range(30):
        assert run(work, "/bin/true", use_cgroups=False, pids=8).result.exit_code == 0


@BOTH
def test_many_small_files(work: Path, use_cgroups: bool) -> None:
    result = run(work, PYTHON, "-c", SMALL_FILES, disk=64 * MIB, memory=2048 * MIB, use_cgroups=use_cgroups).result
    assert result.reason == "DiskQuotaExceeded"
    assert result.peak_disk > 64 * MIB


@BOTH
@pytest.mark.parametrize("script", [LARGE_FILES, FORTY_THOUSAND + LARGE_FILES], ids=["large", "many-then-large"])
def test_whoever_writes_to_memory_at_full_speed_is_stopped_at_a_small_part_of_it(
    work: Path, script: str, use_cgroups: bool
) -> None:
    """On tmpfs that is over 1 GB/s, and a count of 40,000 files takes a good part of a second. Of 3840 MiB little more
    than the limit is there on a quiet machine; the watch may wait for a processor as the writer does."""
    result = run(work, PYTHON, "-c", script, disk=256 * MIB, memory=8192 * MIB, use_cgroups=use_cgroups).result
    assert result.reason == "DiskQuotaExceeded"
    assert 256 * MIB < used((work,)) < 1024 * MIB


@BOTH
def test_a_run_whose_file_system_others_fill_ends_well(work: Path, use_cgroups: bool) -> None:
    """Each look that their writing causes stops it for a moment, and it goes on."""
    script = "head -c 1000000 /dev/zero > /work/x; until test -e /work/go; do sleep 0.01; done"
    others = work.parent / "others"

    def fill() -> None:
        with others.open("wb", 0) as out:
            for _ in range(400):
                out.write(bytes(MIB))
        (work / "go").touch()

    filling = threading.Thread(target=fill)
    filling.start()
    result = run(work, "/bin/sh", "-c", script, disk=64 * MIB, use_cgroups=use_cgroups).result
    filling.join()
    assert (result.exit_code, result.reason) == (0, None)
    assert result.peak_disk < 4 * MIB
    assert result.room is not None and result.room.bytes > 0


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]


@pytest.mark.parametrize("over", [False, True])
def test_processes_are_stopped_for_the_time_of_a_look_and_killed_when_it_finds_too_much(over: bool) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        gone = 1 << 22  # no process has this number
        with stopped(lambda: (process.pid, gone), lambda: over):
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            assert state_of(process.pid) == "T"
        process.stdin.close()
        assert process.wait() == (-signal.SIGKILL if over else 0)


def test_one_large_file(work: Path) -> None:
    ran = run(work, "/usr/bin/dd", "if=/dev/zero", "of=/work/x", "bs=1M", "count=4096", disk=32 * MIB)
    assert ran.result.reason == "DiskQuotaExceeded" or ran.result.signal == signal.SIGXFSZ
    assert (work / "x").stat().st_size <= 32 * MIB


def test_deleted_files_that_are_held_open(work: Path) -> None:
    result = run(work, PYTHON, "-c", DELETED_FILES, disk=64 * MIB, memory=2048 * MIB).result
    assert result.reason == "DiskQuotaExceeded"


def test_a_cache_counts_by_its_growth(work: Path) -> None:
    with work_folder() as cache:
        (cache / "old").write_bytes(b"x" * (100 * MIB))
        # The first look at the cache comes half a second in; growth counts from there.
        write = "for i in {}; do sleep 1; dd if=/dev/zero of=/cache/go/$i bs=1M count=25; done; sleep {}"
        fine = run(work, "/bin/sh", "-c", write.format("a b", 1), caches={"go": cache}, memory=2048 * MIB).result
        assert (fine.exit_code, fine.reason) == (0, None)
        many = write.format(" ".join("cdefghijklmn"), 60)
        over = run(work, "/bin/sh", "-c", many, caches={"go": cache}, memory=2048 * MIB).result
        assert over.reason == "DiskQuotaExceeded"


def test_cpu_time_is_shared_out(work: Path) -> None:
    hierarchy = cgroups.available()
    if not hierarchy or "cpu" not in hierarchy.parents:
        pytest.skip("no writable cpu control group")
    script = "import time; end = time.time() + 2\nwhile time.time() < end: pass\nprint(time.process_time())"
    assert float(run(work, PYTHON, "-c", script, cpus=0.25).text()) < 1.0


def test_a_line_runs_once_it_has_entered_every_group(work: Path) -> None:
    """Where it is a file of the kernel, the 0 stands for whoever writes it."""
    entrances = [work / "memory tasks", work / "pids"]
    done = subprocess.run(entering(entrances, ["/bin/echo", "a b", "--"]), capture_output=True, text=True, check=True)
    assert done.stdout == "a b --\n"
    assert [path.read_text() for path in entrances] == ["0\n", "0\n"]


@pytest.mark.parametrize("closed", ["/dev/full", "/nowhere/tasks"])
def test_a_line_does_not_run_outside_of_a_group(work: Path, closed: str) -> None:
    line = entering([work / "memory", Path(closed)], ["/bin/echo", "it runs"])
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr


# --- the end


STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:            # a session of its own
    os.setsid()
    if os.fork() == 0:        # and a double fork
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
        os._exit(0)
    os._exit(0)
print("started", flush=True)
time.sleep(1000)
"""


@BOTH
@pytest.mark.parametrize("how", ["Timeout", "Cancelled"])
def test_nothing_survives_the_end(work: Path, how: str, use_cgroups: bool) -> None:
    marker = secrets.token_hex(8)
    ran = run(
        work,
        PYTHON,
        "-ISc",
        STUBBORN,
        marker,
        cancel_at="started" if how == "Cancelled" else None,
        wall_ms=5000 if how == "Timeout" else 60_000,
        grace_ms=300,
        use_cgroups=use_cgroups,
    )
    assert ran.text() == "started"
    assert ran.result.reason == how
    assert ran.result.duration_ms >= (5300 if how == "Timeout" else 300)  # TERM was ignored, so the grace passed
    assert alive(marker) == []


def test_a_polite_program_gets_its_term_and_may_clean_up(work: Path) -> None:
    script = "trap 'echo cleaned; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    ran = run(work, "/bin/sh", "-c", script, cancel_at="ready", grace_ms=60_000)
    assert (ran.result.reason, ran.result.exit_code, ran.text()) == ("Cancelled", 7, "ready\ncleaned")
    assert ran.result.signal is None  # it ended by itself, not by KILL after the grace


def test_what_the_command_leaves_behind_dies_with_it(work: Path) -> None:
    marker = secrets.token_hex(8)
    ran = run(work, "/bin/sh", "-c", f"(setsid sh -c 'trap \"\" TERM; sleep 1000 # {marker}' &) ; exit 0")
    assert ran.result.exit_code == 0
    assert alive(marker) == []


def test_a_killed_worker_takes_its_sandbox_with_it(work: Path) -> None:
    marker = secrets.token_hex(8)
    code = (
        "import sys; from pathlib import Path; from tests.sandbox_fixtures import run;"
        f"run(Path({str(work)!r}), {PYTHON!r}, '-c', {STUBBORN!r}, {marker!r})"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) as worker:
        assert until(lambda: len(alive(marker)) >= 4), "worker, prlimit/bwrap, command and its orphan"
        worker.kill()
    assert until(lambda: alive(marker) == [])


def test_the_name_of_its_control_group_does_not_show(work: Path) -> None:
    """It holds the worker's process number; bubblewrap enters the group before it makes the control group namespace."""
    text = run(work, "/bin/cat", "/proc/self/cgroup").text()
    assert text
    assert cgroups.PREFIX not in text


# --- without a sandbox, and doctor


def test_unsandboxed_says_so_and_turns_paths(work: Path) -> None:
    lines: list[tuple[str, bytes]] = []
    result = sandbox.run(
        sandbox.Command(argv=("/bin/sh", "-c", "pwd; echo $WHERE"), work=work, env={"WHERE": "/work/a:/work"}),
        sandbox.Root(),
        limits(),
        uid=UID,
        gid=UID,
        egress=None,
        on_line=lambda stream, line: lines.append((stream.value, line)),
        cancelled=lambda: False,
        launcher=sandbox.on_host,
    )
    assert result.exit_code == 0
    assert lines[0][0] == "SYSTEM"
    assert b"WITHOUT a sandbox" in lines[0][1]
    assert [line.decode() for name, line in lines if name == "STDOUT"] == [str(work), f"{work}/a:{work}"]


def test_check_finds_this_host_fit() -> None:
    found = {finding.name: finding for finding in sandbox.check()}
    assert found["sandbox"].ok, found["sandbox"].detail
    assert found["bubblewrap"].ok and found["prlimit"].ok and found["user namespaces"].ok
