"""Start one sandbox and hold it before its command runs, so that it can be limited and wired first.

Whoever dies in between, and at whatever line, the command does not run and nothing stays:

- The hold ends with a byte, never with an end of file: the pipe that bubblewrap waits on is open for writing inside,
  too, so a worker that dies leaves it waiting.
- bubblewrap is process 1 of a PID namespace of its own, so the kernel kills whatever it started when it dies, also
  what it has not yet bound to itself (`--die-with-parent` binds the inner first process only once it is released).
- bubblewrap dies with the thread that started it, and where it was too late to ask for that, of the status pipe that
  nobody reads. It asks for the one before it writes to the other.

Making that PID namespace takes CAP_SYS_ADMIN. Without it the first rule holds alone: what a killed worker leaves held
waits for ever, runs nothing, and is ended by the node's next look (`builder/node/leftovers.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import IO

from builder.errors import PlatformError
from builder.sandbox import argv, compose, processes, seccomp
from builder.sandbox.shapes import Command, Limits, Root, Stream

FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
SETUP_TIMEOUT_S = 30.0
DEATH_TIMEOUT_S = 10.0
MOST_FILES = 65_536
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWPID = 0x20000000
INSTALL = "apt-get install -y bubblewrap"


@dataclass
class Sandbox:
    """A started sandbox. `first` is its PID namespace's first process as seen from here; its death is everybody's."""

    process: subprocess.Popen[bytes]
    first: int
    first_fd: int
    block_fd: int
    status_fd: int
    status: bytes = b""

    def release(self) -> None:
        """Let the command run."""
        with contextlib.suppress(OSError):
            os.write(self.block_fd, b"x")

    def poll(self) -> int | None:
        code = self.process.poll()
        return None if code is None else (code if code >= 0 else 128 - code)

    def term(self) -> None:
        """TERM to the command's session; the first process itself ignores it (pid_namespaces(7))."""
        with contextlib.suppress(OSError):
            if not _readable(self.first_fd, 0):
                os.killpg(self.first, signal.SIGTERM)

    def kill(self) -> None:
        """KILL the first process: the kernel kills all others of the namespace before it is gone."""
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.first_fd, signal.SIGKILL)

    def end(self) -> None:
        """Kill what is left and wait until nothing of it lives. Raises `PlatformError` when that takes over 10 s."""
        self.kill()
        self.process.kill()
        dead = _readable(self.first_fd, DEATH_TIMEOUT_S)
        try:
            self.process.wait(timeout=DEATH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            dead = False
        if dead:
            with contextlib.suppress(ChildProcessError):  # bubblewrap was quicker
                os.waitpid(self.first, 0)
        if not dead:
            raise PlatformError("SandboxUnavailable", "processes of a sandbox survive SIGKILL")

    def ended(self) -> bool:
        """Whether the command has ended, or will never start; what it left behind may live a moment longer."""
        return _readable(self.status_fd, 0)

    def ran(self) -> bool:
        """After the end: whether the command was started at all."""
        while _readable(self.status_fd, 1.0) and (data := os.read(self.status_fd, 4096)):
            self.status += data
        return b'"exit-code"' in self.status


class _Adopting:
    """Makes orphans below this process its own children while a sandbox runs (prctl(2), PR_SET_CHILD_SUBREAPER).

    bubblewrap goes before the namespace's first process does. Whoever is process 1 here may reap that late (a
    container's may never), and until then it counts as a process of the build user.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0

    def __enter__(self) -> None:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._set(1)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._set(0)

    def _set(self, value: int) -> None:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, value, 0, 0, 0)


_adopting = _Adopting()


def program(name: str) -> str:
    """Where a program is. Raises `PlatformError` SandboxUnavailable, with how to install it."""
    for folder in FOLDERS:
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK):
            return path
    package = {"bwrap": "bubblewrap", "prlimit": "util-linux", "unshare": "util-linux"}.get(name, name)
    raise PlatformError("SandboxUnavailable", f"{name} is not installed: apt-get install -y {package}")


def identity(uid: int, gid: int) -> tuple[int, int]:
    """Who the command runs as: what was asked for when we are root (never root itself), else ourselves."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    if uid <= 0 or gid <= 0:
        raise PlatformError("SandboxUnavailable", "a build never runs as root: give it a uid and gid above 0")
    return uid, gid


def rlimits(limits: Limits, uid: int, grouped: bool) -> dict[str, int]:
    """prlimit's options. Processes are counted for the whole user: what it has already does not count against this
    run, and bubblewrap's two are free. With control groups this is only the second fence."""
    tasks = limits.pids * 2 + 64 if grouped else limits.pids + 2
    tasks += processes.tasks_of_user(uid) if os.geteuid() != 0 else 0
    wanted = {
        "nproc": (resource.RLIMIT_NPROC, tasks),
        "core": (resource.RLIMIT_CORE, 0),
        "fsize": (resource.RLIMIT_FSIZE, limits.disk),
        "nofile": (resource.RLIMIT_NOFILE, MOST_FILES),
    }
    most = {name: resource.getrlimit(which)[1] for name, (which, _) in wanted.items()}
    unlimited = resource.RLIM_INFINITY
    return {name: value if most[name] == unlimited else min(value, most[name]) for name, (_, value) in wanted.items()}


@contextmanager
def held(
    command: Command, root: Root, limits: Limits, *, env: Mapping[str, str], uid: int, gid: int, grouped: bool
) -> Iterator[tuple[Sandbox, dict[Stream, IO[bytes]]]]:
    """A sandbox that waits for `release`; when the block ends nothing of it lives.

    Raises `PlatformError` SandboxUnavailable with bubblewrap's own words where it cannot be made.
    """
    programs = argv.Programs(bwrap=program("bwrap"), prlimit=program("prlimit"), unshare=program("unshare"))
    root = compose.settled(root)
    files = compose.identity_files(uid, gid)
    needed = {*compose.OUR_FOLDERS, *files, "/work", *(f"/cache/{name}" for name in command.caches)}
    bound = compose.layers(root.rootfs, needed | {mount.dest for mount in root.mounts})
    with ExitStack() as stack:
        stack.enter_context(_adopting)
        block = stack.enter_context(FileIO(_endless_pipe(), "r+"))
        status_read, status_write = _pipe(stack)
        filtered = seccomp.supported(os.uname().machine)
        fds = argv.Descriptors(
            args=_memory_file(stack, b""),
            status=status_write.fileno(),
            block=block.fileno(),
            seccomp=_memory_file(stack, seccomp.program()) if filtered else -1,
            files={dest: _memory_file(stack, data) for dest, data in files.items()},
        )
        arguments = argv.inner(root=root, bound=bound, command=command, limits=limits, env=env, fds=fds)
        os.write(fds.args, b"\0".join(os.fsencode(text) for text in arguments) + b"\0")
        os.lseek(fds.args, 0, os.SEEK_SET)
        inherited = [fds.args, fds.status, fds.block, *fds.files.values(), *([fds.seccomp] if filtered else [])]
        with _children_in_a_pid_namespace() as nested:
            who = (uid, gid) if nested else None
            line = argv.outer(programs, rlimits(limits, uid, grouped), fds, command.argv, who)
            process = _start(line, inherited, None if nested else (uid, gid))
        assert process.stdout and process.stderr
        pipes: dict[Stream, IO[bytes]] = {Stream.STDOUT: process.stdout, Stream.STDERR: process.stderr}
        stack.enter_context(process.stdout)
        stack.enter_context(process.stderr)
        status_write.close()
        try:
            first, status = _first_process(process, status_read.fileno(), nested)
            first_fd = FileIO(os.pidfd_open(first), "r")
        except PlatformError:
            process.kill()
            process.wait()
            raise
        except OSError:
            raise _gone(process) from None
        stack.enter_context(first_fd)
        sandbox = Sandbox(process, first, first_fd.fileno(), block.fileno(), status_read.fileno(), status)
        try:
            yield sandbox, pipes
        finally:
            sandbox.end()


def _start(line: list[str], inherited: list[int], who: tuple[int, int] | None) -> subprocess.Popen[bytes]:
    """`who`: whom to become; None: `line` does it itself."""
    as_root = os.geteuid() == 0
    uid, gid = who if who and as_root else (None, None)
    try:
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},  # /proc/1/environ inside is bubblewrap's own
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=[] if as_root else None,
            umask=0o002,
            start_new_session=True,
            pass_fds=inherited,
        )
    except OSError as error:
        raise PlatformError("SandboxUnavailable", f"the sandbox does not start: {error}") from None


@contextmanager
def _children_in_a_pid_namespace() -> Iterator[bool]:
    """The next process this thread starts is process 1 of a PID namespace (unshare(2)); other threads are not touched.

    Gives whether it could be arranged.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        nested = libc.unshare(CLONE_NEWPID) == 0
        try:
            yield nested
        finally:
            if nested and libc.setns(own, CLONE_NEWPID):
                raise PlatformError("SandboxUnavailable", f"PID namespace: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(own)


def _first_process(process: subprocess.Popen[bytes], status_fd: int, nested: bool) -> tuple[int, bytes]:
    """Host pid of the namespace's first process, once bubblewrap's status line says that there is one.

    The line's own number is that of bubblewrap's PID namespace. Raises OSError when both are gone already.
    """
    status = b""
    end = time.monotonic() + SETUP_TIMEOUT_S
    while b"\n" not in status:
        if not _readable(status_fd, end - time.monotonic()):
            raise PlatformError("SandboxUnavailable", "bubblewrap did not answer for 30 s")
        data = os.read(status_fd, 4096)
        if not data:
            raise _gone(process)
        status += data
    if not nested:
        return int(json.loads(status.split(b"\n")[0])["child-pid"]), status
    children = processes.tree(process.pid)[1:]
    if not children:
        raise ProcessLookupError(process.pid)
    return children[0], status


def _gone(process: subprocess.Popen[bytes]) -> PlatformError:
    """What a bubblewrap that ended by itself has to say."""
    code = process.wait()
    said = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
    return setup_failed(said, code)


def setup_failed(said: str, code: int) -> PlatformError:
    """What bubblewrap or prlimit complained about before the command ran, and how it ended (as `Popen` counts)."""
    ended = f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
    words = f"{said[-500:]} ({ended})" if said else f"bubblewrap {ended} without a word"
    return PlatformError("SandboxUnavailable", f"the sandbox cannot be made: {words}")


def _pipe(stack: ExitStack) -> tuple[FileIO, FileIO]:
    """Both ends as objects: closing one twice must not close a number that another thread has meanwhile."""
    read, write = os.pipe()
    return stack.enter_context(FileIO(read, "r")), stack.enter_context(FileIO(write, "w"))


def _endless_pipe() -> int:
    """Both ends of a pipe as one descriptor: whoever reads it waits for a byte and never sees an end of file."""
    read, write = os.pipe()
    try:
        return os.open(f"/proc/self/fd/{read}", os.O_RDWR | os.O_CLOEXEC)
    finally:
        os.close(read)
        os.close(write)


def _memory_file(stack: ExitStack, data: bytes) -> int:
    file = stack.enter_context(FileIO(os.memfd_create("ignite"), "r+"))
    file.write(data)
    file.seek(0)
    return file.fileno()


def _readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, int(timeout_s * 1000))))
