"""Run one command in a sandbox, under limits, to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from builder.errors import PlatformError
from builder.sandbox import cgroups, launch, netns, proxy
from builder.sandbox.disk import DiskWatch
from builder.sandbox.fence import Fence, GroupFence, TreeFence
from builder.sandbox.policy import Egress
from builder.sandbox.shapes import Command, Limits, OnLine, Result, Root, Stream
from builder.sandbox.supervise import Supervision, signal_of

GRACE_MS = 10_000
NO_SUCH_PROGRAM = 127
MOST_REFUSALS_SHOWN = 5


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
) -> Result:
    """Run `command` to its end and leave no process behind.

    As root it runs as `uid`/`gid` (above 0, one uid for each build at a time; `work`, caches and mounts must be
    reachable for it: parents 0711); anybody else runs it as himself. `egress` is the one way out, None: no network.
    `cancelled` is asked about twenty times a second. Timeout and cancel: TERM, `grace_ms`, KILL; other limits: KILL.
    `started` gets a maker of sockets inside, before the command runs. Raises `PlatformError` SandboxUnavailable; the
    command's own failure is a `Result`, a program that is not there exit code 127.
    """
    uid, gid = launch.identity(uid, gid)
    env = dict(command.env) | (proxy.environment() if egress else {})
    began = time.monotonic()
    said_by_bwrap: list[bytes] = []

    def keep(stream: Stream, line: bytes) -> None:
        if stream is Stream.STDERR and line.startswith(b"bwrap: ") and len(said_by_bwrap) < 5:
            said_by_bwrap.append(line)
        on_line(stream, line)

    with ExitStack() as stack:
        group = stack.enter_context(_group(limits)) if use_cgroups else None
        sandbox, pipes = stack.enter_context(
            launch.held(command, root, limits, env=env, uid=uid, gid=gid, grouped=group is not None)
        )
        fence: Fence = (
            GroupFence(group, limits, sandbox.ended) if group else TreeFence(sandbox.first, limits, sandbox.ended)
        )
        if group:
            _add(group, sandbox.first)
        if egress or started:
            make = stack.enter_context(netns.sockets_inside(sandbox.first))
            if egress:
                stack.enter_context(proxy.serving(netns.listener_inside(make, proxy.PORT), egress))
            if started:
                started(make)
        watch = DiskWatch(command.work, tuple(command.caches.values()), limits.disk, fence.pids)
        supervision = Supervision(
            target=sandbox,
            pipes=pipes,
            on_line=keep,
            check=lambda: "DiskQuotaExceeded" if watch.exceeded else fence.check(),
            cancelled=cancelled,
            wall_s=limits.wall_ms / 1000,
            grace_s=grace_ms / 1000,
        )
        watch.start()
        try:
            sandbox.release()
            code = supervision.run()
        finally:
            sandbox.end()
            watch.stop()
        reason = supervision.ending.reason or fence.verdict(code)
        reason = reason or ("DiskQuotaExceeded" if watch.exceeded else None)
        memory, tasks = fence.peaks()
        if reason is None and not sandbox.ran():
            code = _never_ran(said_by_bwrap, sandbox.process.returncode)
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
    )


@contextmanager
def _group(limits: Limits) -> Iterator[cgroups.Group | None]:
    """A group of this run where the host lets us make one; entered before the sandbox, so closed after its death."""
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
        pass  # it could not be set up and is gone; what it said follows
    except OSError as error:
        raise PlatformError("SandboxUnavailable", f"the build cannot enter its control group: {error}") from None


def _never_ran(said: list[bytes], code: int) -> int:
    """Exit code of a program that is not there; everything else that stops a sandbox before its command is ours."""
    if any(line.startswith(b"bwrap: execvp") for line in said):
        return NO_SUCH_PROGRAM
    raise launch.setup_failed(b"; ".join(said).decode("utf-8", "replace"), code)
