"""The explicit way to run without a sandbox, for one's own code on one's own machine. Never for strangers' code.

What it keeps: the uid, rlimits on files and cores, the clock, cancel, the disk watch. What it does not have: any wall
around the network, the host's files and other processes; limits on memory and processes; an end of processes that
leave their process group.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from builder.errors import PlatformError
from builder.sandbox import launch
from builder.sandbox.disk import DiskWatch
from builder.sandbox.policy import Egress
from builder.sandbox.run import GRACE_MS, NO_SUCH_PROGRAM
from builder.sandbox.shapes import Command, Limits, OnLine, Result, Root, Stream
from builder.sandbox.supervise import Supervision, signal_of

WARNING = b"WARNING: this step runs WITHOUT a sandbox: it can read, reach and change what the worker's user can"


def on_host(command: Command, root: Root) -> Command:
    """The same command with the sandbox's paths (`/work`, `/cache/<name>`, mounts) turned into the host's."""
    places = {"/work": str(command.work), **{f"/cache/{name}": str(path) for name, path in command.caches.items()}}
    places |= {mount.dest: str(mount.source) for mount in root.mounts}
    longest_first = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w./-])({longest_first})(?=[/:=,]|$)")

    def turned(text: str) -> str:
        return pattern.sub(lambda match: places[match[1]], text)

    env: Mapping[str, str] = {name: turned(value) for name, value in command.env.items()}
    return replace(command, argv=tuple(map(turned, command.argv)), env=env, cwd=turned(command.cwd))


@dataclass
class _Process:
    process: subprocess.Popen[bytes]

    def poll(self) -> int | None:
        code = self.process.poll()
        return None if code is None else (code if code >= 0 else 128 - code)

    def term(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


class Unsandboxed:
    """Has the same `run`; each run says loudly, as a SYSTEM line, what it is."""

    @staticmethod
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
        grace_ms: int = GRACE_MS,
    ) -> Result:
        """As `builder.sandbox.run`, without the sandbox. A `Root` with a rootfs cannot be honoured and is refused."""
        if root.rootfs is not None:
            raise PlatformError("SandboxUnavailable", "this toolchain needs a root of its own, hence a sandbox")
        on_line(Stream.SYSTEM, WARNING)
        uid, gid = launch.identity(uid, gid)
        here = on_host(command, root)
        began = time.monotonic()
        rlimits = launch.rlimits(limits, uid, grouped=True)
        line = [launch.program("prlimit")]
        line += [f"--{name}={value}:{value}" for name, value in rlimits.items() if name != "nproc"]
        as_root = os.geteuid() == 0
        try:
            process = subprocess.Popen(
                [*line, "--", *here.argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(here.env),
                cwd=here.cwd,
                user=uid if as_root else None,
                group=gid if as_root else None,
                extra_groups=[] if as_root else None,
                umask=0o002,
                start_new_session=True,
            )
        except OSError as error:
            on_line(Stream.STDERR, str(error).encode())
            return Result(
                exit_code=NO_SUCH_PROGRAM,
                signal=None,
                reason=None,
                peak_memory=0,
                peak_disk=0,
                peak_pids=0,
                duration_ms=0,
            )
        target = _Process(process)
        watch = DiskWatch(command.work, tuple(command.caches.values()), limits.disk)
        with process:
            assert process.stdout and process.stderr
            supervision = Supervision(
                target=target,
                pipes={Stream.STDOUT: process.stdout, Stream.STDERR: process.stderr},
                on_line=on_line,
                check=lambda: "DiskQuotaExceeded" if watch.exceeded else None,
                cancelled=cancelled,
                wall_s=limits.wall_ms / 1000,
                grace_s=grace_ms / 1000,
            )
            watch.start()
            try:
                code = supervision.run()
            finally:
                target.kill()
                watch.stop()
        return Result(
            exit_code=code,
            signal=signal_of(code),
            reason=supervision.ending.reason or ("DiskQuotaExceeded" if watch.exceeded else None),
            peak_memory=0,
            peak_disk=watch.peak,
            peak_pids=0,
            duration_ms=int((time.monotonic() - began) * 1000),
        )
