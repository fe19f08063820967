"""Start one sandbox and hold it before its command runs, so that it can be limited and wired first.

bubblewrap waits twice. At the gate, an empty second `--args` whose end of file lets it go on, it has no child yet: the
control group that it is moved into there holds for all that it starts. Where the kernel lets a process enter by itself
(cgroup v1), what becomes bubblewrap has entered first. At the hold the sandbox is complete.

Whoever dies in between, and at whatever line, the command does not run and nothing stays:

- The hold ends with a byte, never with an end of file: the pipe that bubblewrap waits on is open for writing inside,
  too, so a worker that dies leaves it waiting. The gate may end with an end of file, for the hold is behind it.
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
import functools
import json
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from typing import IO

from builder.errors import PlatformError
from builder.sandbox import argv, cgroups, compose, overlay, processes, proxy, rlimits, seccomp
from builder.sandbox.fence import Fence, GroupFence, TreeFence
from builder.sandbox.shapes import Command, Limits, Root, Stream

FOLDERS = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
SETUP_TIMEOUT_S = 30.0
DEATH_TIMEOUT_S = 10.0
PR_SET_CHILD_SUBREAPER = 36
CLONE_NEWPID = 0x20000000
INSTALL = "apt-get install -y bubblewrap"
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(kw_only=True)
class Sandbox:
    """A started sandbox. `first` is its PID namespace's first process as seen from here; its death is everybody's."""

    process: subprocess.Popen[bytes]
    pipes: Mapping[Stream, IO[bytes]]
    fence: Fence
    ended_fd: int
    first: int
    first_fd: int
    block_fd: int
    status_fd: int
    status: bytes = b""
    notices: tuple[bytes, ...] = ()

    @property
    def network(self) -> int | None:
        """A process in the command's own network namespace."""
        return self.first

    def release(self) -> None:
        """Let the command run."""
        with contextlib.suppress(OSError):
            os.write(self.block_fd, b"x")

    def poll(self) -> int | None:
        return exit_code(self.process)

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
        _libc.prctl(PR_SET_CHILD_SUBREAPER, value, 0, 0, 0)


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


@contextmanager
def in_sandbox(
    command: Command,
    root: Root,
    limits: Limits,
    *,
    uid: int,
    gid: int,
    use_cgroups: bool,
    proxied: bool,
) -> Iterator[Sandbox]:
    """A launcher: the command in a sandbox that waits for `release`; when the block ends nothing of it lives.

    Raises `PlatformError` SandboxUnavailable with bubblewrap's own words where it cannot be made.
    """
    root = compose.settled(root)
    files = compose.identity_files(*(command.user or (uid, gid)), command.env.get("HOME", "/work/home"))
    needed = {*compose.OUR_FOLDERS, *files, "/work", *(f"/cache/{name}" for name in _caches(command))}
    bound = compose.layers(root.rootfs, needed | {mount.dest for mount in root.mounts})
    env = dict(command.env) | (proxy.environment() if proxied else {})
    overlays = tuple(command.overlays.values())
    mounted = overlay.can_mount(overlays)
    with ExitStack() as stack:
        group = stack.enter_context(_group(limits)) if use_cgroups else None  # closed last: after the sandbox's death
        stack.enter_context(_adopting)
        block = stack.enter_context(FileIO(_endless_pipe(), "r+"))
        status_read, status_write = _pipe(stack)
        gate_read, gate_write = _pipe(stack)
        filtered = seccomp.supported(os.uname().machine)
        handed = stack.enter_context(ExitStack())  # what bubblewrap alone reads
        fds = argv.Descriptors(
            args=_memory_file(handed, b""),
            gate=gate_read.fileno(),
            status=status_write.fileno(),
            block=block.fileno(),
            seccomp=_memory_file(handed, seccomp.program()) if filtered else -1,
            files={dest: _memory_file(handed, data) for dest, data in files.items()},
            copies=compose.descriptors(bound, handed),
        )
        arguments = argv.inner(
            root=root, bound=bound, command=command, limits=limits, env=env, fds=fds, mounted=mounted
        )
        os.write(fds.args, b"\0".join(os.fsencode(text) for text in arguments) + b"\0")
        os.lseek(fds.args, 0, os.SEEK_SET)
        limited = rlimits.options(limits, uid, grouped=group is not None)
        with _children_in_a_pid_namespace() as nested:
            who = (uid, gid) if nested else None
            if mounted and not nested:
                raise PlatformError("SandboxUnavailable", "overlays can be mounted here, and no PID namespace be made")
            line = argv.outer(_programs(), limited, fds, command.argv, who, overlays if mounted else ())
            entrances = group.entrances() if group and nested else ()  # whoever starts as the build user may not
            process = start(argv.entering(entrances, line), {}, "/", fds.inherited(), None if nested else (uid, gid))
        handed.close()
        pipes = pipes_of(process, stack)
        try:
            if group and not entrances:
                _add(group, process.pid)
            for end in (gate_read, gate_write, status_write):
                end.close()
            first, status = _first_process(process, status_read.fileno(), nested)
            ended_fd, first_fd = (_pidfd(stack, pid) for pid in (process.pid, first))
        except ProcessLookupError:
            raise _gone(process) from None
        except BaseException:
            process.kill()
            process.wait()
            raise
        status_fd = status_read.fileno()
        ended = functools.partial(_readable, status_fd, 0)
        sandbox = Sandbox(
            process=process,
            pipes=pipes,
            fence=GroupFence(group, limits, ended) if group else TreeFence(first, limits, ended),
            ended_fd=ended_fd,
            first=first,
            first_fd=first_fd,
            block_fd=block.fileno(),
            status_fd=status_fd,
            status=status,
        )
        try:
            yield sandbox
        finally:
            sandbox.end()


def _caches(command: Command) -> tuple[str, ...]:
    return (*command.caches, *command.stores, *command.overlays)


@contextmanager
def _group(limits: Limits) -> Iterator[cgroups.Group | None]:
    """A group of this run where the host lets us make one."""
    hierarchy = cgroups.available()
    if hierarchy is None:
        yield None
        return
    try:
        group = cgroups.Group(hierarchy, limits)
    except OSError as error:
        raise PlatformError("SandboxUnavailable", f"no control group for the build: {error}") from None
    try:
        yield group
    finally:
        group.close()


def _add(group: cgroups.Group, pid: int) -> None:
    try:
        group.add(pid)
    except ProcessLookupError:
        pass  # it could not start bubblewrap and is gone; `_first_process` finds its complaint
    except OSError as error:
        raise PlatformError("SandboxUnavailable", f"the build cannot enter its control group: {error}") from None


def _programs() -> argv.Programs:
    return argv.Programs(bwrap=program("bwrap"), prlimit=program("prlimit"), unshare=program("unshare"))


def start(
    line: list[str], env: Mapping[str, str], cwd: str, inherited: Collection[int], who: tuple[int, int] | None
) -> subprocess.Popen[bytes]:
    """Start a line in a session of its own. `who`: as whom; None: as we are, and `line` changes that itself.

    Its environment is all that it gets: /proc/1/environ inside a sandbox is bubblewrap's own.
    Without `who` this is vfork(2): fork(2) copies the page tables of a large worker.
    """
    uid, gid = who if who and os.geteuid() == 0 else (None, None)
    try:
        return subprocess.Popen(
            line,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=cwd,
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
            umask=0o002,
            start_new_session=True,
            pass_fds=tuple(inherited),
        )
    except OSError as error:
        raise PlatformError("SandboxUnavailable", f"the command does not start: {error}") from None


def pipes_of(process: subprocess.Popen[bytes], stack: ExitStack) -> Mapping[Stream, IO[bytes]]:
    """Both outputs, closed with `stack`."""
    assert process.stdout and process.stderr
    return {
        Stream.STDOUT: stack.enter_context(process.stdout),
        Stream.STDERR: stack.enter_context(process.stderr),
    }


def exit_code(process: subprocess.Popen[bytes]) -> int | None:
    """As a shell counts: 128 and the signal; None while it runs."""
    code = process.poll()
    return None if code is None else (code if code >= 0 else 128 - code)


@contextmanager
def _children_in_a_pid_namespace() -> Iterator[bool]:
    """The next process this thread starts is process 1 of a PID namespace (unshare(2)); other threads are not touched.

    Gives whether it could be arranged.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        nested = _libc.unshare(CLONE_NEWPID) == 0
        try:
            yield nested
        finally:
            if nested and _libc.setns(own, CLONE_NEWPID):
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
    children = processes.children(process.pid)
    if not children:
        raise ProcessLookupError(process.pid)
    return children[0], status


def _gone(process: subprocess.Popen[bytes]) -> PlatformError:
    """The failure of a bubblewrap that ended by itself."""
    code = process.wait()
    complaint = process.stderr.read().decode("utf-8", "replace").strip() if process.stderr else ""
    return setup_failed(complaint, code)


def setup_failed(complaint: str, code: int) -> PlatformError:
    """The complaint of bubblewrap or prlimit before the command ran, and how it ended (as `Popen` counts)."""
    ended = f"ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
    words = f"{complaint[-500:]} ({ended})" if complaint else f"bubblewrap {ended} without a word"
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


def _pidfd(stack: ExitStack, pid: int) -> int:
    return stack.enter_context(FileIO(os.pidfd_open(pid), "r")).fileno()


def _readable(fd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, int(timeout_s * 1000))))
