"""Run one command under limits, to its end, in the launcher's surroundings."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import IO, Protocol

from builder.sandbox import launch, netns, proxy
from builder.sandbox.disk import DiskWatch
from builder.sandbox.fence import Fence
from builder.sandbox.policy import Egress
from builder.sandbox.shapes import Command, Limits, OnLine, Result, Root, Stream
from builder.sandbox.supervise import Supervision, Target, signal_of

GRACE_MS = 10_000
NO_SUCH_PROGRAM = 127
MOST_REFUSALS_SHOWN = 5
MOST_COMPLAINTS = 5


class Started(Target, Protocol):
    """A command that waits for `release`. `notices` are for its log; `fence` limits what it uses."""

    process: subprocess.Popen[bytes]
    pipes: Mapping[Stream, IO[bytes]]
    fence: Fence
    notices: tuple[bytes, ...]

    @property
    def network(self) -> int | None:
        """A process in the command's own network namespace; None: it shares the host's."""
        ...

    def release(self) -> None: ...

    def end(self) -> None:
        """Kill what is left and wait for it."""
        ...

    def ran(self) -> bool:
        """After the end: whether the command was started at all."""
        ...


class Launcher(Protocol):
    """Starts a command; when the block ends it has ended. `proxied`: it finds a proxy at 127.0.0.1:3128."""

    def __call__(
        self, command: Command, root: Root, limits: Limits, *, uid: int, gid: int, use_cgroups: bool, proxied: bool
    ) -> AbstractContextManager[Started]: ...


def run(
    command: Command,
    root: Root,
    limits: Limits,
    *,
    uid: int,
    gid: int,
    egress: Egress | None,
    on_line: OnLine,
    cancelled: Callable[[], bool],
    use_cgroups: bool = True,
    grace_ms: int = GRACE_MS,
    started: Callable[[netns.MakeSocket], None] | None = None,
    placed: Callable[[int], None] | None = None,
    released: Callable[[], None] = lambda: None,
    launcher: Launcher = launch.in_sandbox,
) -> Result:
    """Run `command` to its end and leave no process behind.

    As root it runs as `uid`/`gid` (above 0, one uid for each build at a time; `work`, caches and mounts must be
    reachable for it: parents 0711); anybody else runs it as himself. `egress` is the one way out, None: no network.
    `cancelled` is asked about twenty times a second. Timeout and cancel: TERM, `grace_ms`, KILL; other limits: KILL.
    `placed` gets a process inside, and `started` a maker of sockets inside, before the command runs; `released` is
    called once it does. `launcher` is `in_sandbox`, or `on_host`, which has no wall.
    Raises `PlatformError` SandboxUnavailable; the command's own failure is a `Result`, a program that is not there
    exit code 127.
    """
    uid, gid = launch.identity(uid, gid)
    began = time.monotonic()
    complaints: list[bytes] = []

    def keep(stream: Stream, line: bytes) -> None:
        if stream is Stream.STDERR and line.startswith(b"bwrap: ") and len(complaints) < MOST_COMPLAINTS:
            complaints.append(line)
        on_line(stream, line)

    with ExitStack() as stack:
        target = stack.enter_context(
            launcher(command, root, limits, uid=uid, gid=gid, use_cgroups=use_cgroups, proxied=egress is not None)
        )
        for notice in target.notices:
            on_line(Stream.SYSTEM, notice)
        if target.network is not None and placed:
            placed(target.network)
        if target.network is not None and (egress or started):
            make = stack.enter_context(netns.sockets_inside(target.network))
            if egress:
                stack.enter_context(proxy.serving(netns.listener_inside(make, proxy.PORT), egress))
            if started:
                started(make)
        written = (command.work, *(each.folder for each in command.overlays.values()))
        watch = DiskWatch(written, tuple(command.caches.values()), limits.disk, target.fence.pids)
        supervision = Supervision(
            target=target,
            pipes=target.pipes,
            on_line=keep,
            check=lambda: "DiskQuotaExceeded" if watch.exceeded() else target.fence.check(),
            cancelled=cancelled,
            wall_s=limits.wall_ms / 1000,
            grace_s=grace_ms / 1000,
        )
        try:
            target.release()
            released()
            code = supervision.run()
        finally:
            target.end()
            watch.stop()
        reason = supervision.ending.reason or target.fence.verdict(code)
        reason = reason or ("DiskQuotaExceeded" if watch.exceeded() else None)
        memory, tasks = target.fence.peaks()
        if reason is None and not target.ran():
            code = _never_ran(complaints, target.process.returncode)
    for refused in sorted(egress.refused())[:MOST_REFUSALS_SHOWN] if egress else ():
        on_line(Stream.SYSTEM, f"network: {refused} was refused; only package indexes can be reached".encode())
    return Result(
        exit_code=code,
        signal=signal_of(code),
        reason=reason,
        peak_memory=memory,
        peak_disk=watch.peak,
        peak_pids=tasks,
        duration_ms=int((time.monotonic() - began) * 1000),
        room=watch.room,
    )


def _never_ran(complaints: list[bytes], code: int) -> int:
    """Exit code of a program that is not there; everything else that stops a sandbox before its command is ours."""
    if any(line.startswith(b"bwrap: execvp") for line in complaints):
        return NO_SUCH_PROGRAM
    raise launch.setup_failed(b"; ".join(complaints).decode("utf-8", "replace"), code)
