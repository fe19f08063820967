"""What keeps a run within memory and processes: control groups, or counting from outside where there are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from builder.sandbox import cgroups, processes
from builder.sandbox.shapes import Limits

SUSTAINED_S = 1.0
TMPFS = ("/tmp", "/dev/shm")


class Fence(Protocol):
    """`check` is asked while the command runs, `verdict` with its exit code afterwards; both name a reason or None.

    A command that met the process limit and ended well is a success, unless its processes stood at the limit when
    they were last looked at: it left behind what forks without end. `ended`, of the command, is asked after a look:
    then all the others are being killed, and what was seen says nothing.
    """

    def pids(self) -> Iterable[int]: ...

    def check(self) -> str | None: ...

    def verdict(self, code: int) -> str | None: ...

    def peaks(self) -> tuple[int, int]:
        """Memory in bytes, tasks."""
        ...


class Sustained:
    """True once something held without a break for a second: a build that meets the limit once may recover."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: float | None = None

    def __call__(self, holds: bool) -> bool:
        if not holds:
            self._since = None
            return False
        if self._since is None:
            self._since = self._clock()
        return self._clock() - self._since >= SUSTAINED_S


def near(limits: Limits) -> int:
    """How many tasks count as "at the limit": those just being born or reaped are not seen but do count."""
    return limits.pids - max(1, limits.pids // 20)


class GroupFence:
    """The kernel enforces; its counters say what it did."""

    def __init__(self, group: cgroups.Group, limits: Limits, ended: Callable[[], bool]) -> None:
        self._group, self._ended = group, ended
        self._near = near(limits)
        self._refused = 0
        self._full = False
        self._storm = Sustained()

    def pids(self) -> Iterable[int]:
        return self._group.pids()

    def check(self) -> str | None:
        events = self._group.events()
        if events.oom_kills:
            return "OutOfMemory"
        grew, self._refused = events.forks_refused > self._refused, events.forks_refused
        full = grew and self._group.tasks() >= self._near
        self._full = self._full if self._ended() else full
        return "ProcessLimitExceeded" if self._storm(grew) else None

    def verdict(self, code: int) -> str | None:
        events = self._group.events()
        if events.oom_kills:
            return "OutOfMemory"
        return "ProcessLimitExceeded" if events.forks_refused and (code or self._full) else None

    def peaks(self) -> tuple[int, int]:
        return self._group.peaks()


class NoFence:
    """Nothing is counted and nothing is refused."""

    def pids(self) -> Iterable[int]:
        return ()

    def check(self) -> str | None:
        return None

    def verdict(self, code: int) -> str | None:
        return None

    def peaks(self) -> tuple[int, int]:
        return 0, 0


class TreeFence:
    """We count. Processes: the rlimit refuses, this notices. Memory: killed when over, so it may be over for 50 ms;
    an address-space rlimit would be exact but stops Go and Wasm, which reserve far more than they use. System V
    segments that nobody has attached are not seen."""

    def __init__(self, first: int, limits: Limits, ended: Callable[[], bool]) -> None:
        self._first, self._limits, self._ended = first, limits, ended
        self._memory = self._tasks = 0
        self._full = False
        self._storm = Sustained()
        self._near = near(limits)

    def pids(self) -> tuple[int, ...]:
        return processes.tree(self._first)

    def check(self) -> str | None:
        now = processes.usage(self.pids(), self._first, TMPFS)
        tasks = now.tasks - 1  # the namespace's own first process
        self._memory, self._tasks = max(self._memory, now.memory), max(self._tasks, tasks)
        full = tasks >= self._near
        self._full = self._full if self._ended() else full
        if now.memory > self._limits.memory:
            return "OutOfMemory"
        return "ProcessLimitExceeded" if self._storm(full) else None

    def verdict(self, code: int) -> str | None:
        return "ProcessLimitExceeded" if self._full or (code and self._tasks >= self._near) else None

    def peaks(self) -> tuple[int, int]:
        return self._memory, max(0, self._tasks)
