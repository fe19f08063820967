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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from io import FileIO
from typing import IO

from builder.errors import PlatformError
from builder.sandbox import argv, launch, rlimits
from builder.sandbox.fence import Fence, NoFence
from builder.sandbox.shapes import Command, Limits, Root, Stream

WARNING = b"WARNING: this step runs WITHOUT a sandbox: it can read, reach and change what the worker's user can"


def translated(command: Command, root: Root) -> Command:
    """The same command with the sandbox's paths (`/work`, `/cache/<name>`, mounts) turned into the host's."""
    shared = {**command.caches, **command.stores, **{name: each.upper for name, each in command.overlays.items()}}
    places = {"/work": str(command.work), **{f"/cache/{name}": str(path) for name, path in shared.items()}}
    places |= {mount.dest: str(mount.source) for mount in root.mounts}
    longest_first = "|".join(re.escape(place) for place in sorted(places, key=len, reverse=True))
    pattern = re.compile(rf"(?<![\w.-])(?<![\w.-]/)({longest_first})(?=[/:=,]|$)")

    def turned(text: str) -> str:
        return pattern.sub(lambda match: places[match[1]], text)

    env: Mapping[str, str] = {name: turned(value) for name, value in command.env.items()}
    return replace(command, argv=tuple(map(turned, command.argv)), env=env, cwd=turned(command.cwd))


@dataclass(kw_only=True)
class _Process:
    """A command of the host's; it runs from its start and has no wall of any kind."""

    process: subprocess.Popen[bytes]
    pipes: Mapping[Stream, IO[bytes]]
    ended_fd: int
    fence: Fence = field(default_factory=NoFence)
    notices: tuple[bytes, ...] = (WARNING,)
    network: int | None = None

    def release(self) -> None:
        pass

    def poll(self) -> int | None:
        return launch.exit_code(self.process)

    def term(self) -> None:
        _signal(self.process, signal.SIGTERM)

    def kill(self) -> None:
        _signal(self.process, signal.SIGKILL)

    def end(self) -> None:
        _end(self.process)

    def ran(self) -> bool:
        return True


@contextmanager
def on_host(
    command: Command, root: Root, limits: Limits, *, uid: int, gid: int, use_cgroups: bool, proxied: bool
) -> Iterator[_Process]:
    """A launcher without the sandbox. A `Root` with a rootfs cannot be honoured and is refused."""
    if root.rootfs is not None:
        raise PlatformError("SandboxUnavailable", "this toolchain needs a root of its own, hence a sandbox")
    here = translated(command, root)
    wanted = {name: value for name, value in rlimits.options(limits, uid, grouped=True).items() if name != "nproc"}
    line = [*argv.limiting(launch.program("prlimit"), wanted), *here.argv]
    with ExitStack() as stack:
        process = launch.start(line, here.env, here.cwd, (), (uid, gid))
        pipes = launch.pipes_of(process, stack)
        stack.callback(_end, process)  # also where there is no descriptor left to watch it by
        ended_fd = stack.enter_context(FileIO(os.pidfd_open(process.pid), "r")).fileno()
        yield _Process(process=process, pipes=pipes, ended_fd=ended_fd)


def _end(process: subprocess.Popen[bytes]) -> None:
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
