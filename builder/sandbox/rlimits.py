"""Limits of a step's processes by setrlimit(2), and whether this machine's own leave room for a step."""

from __future__ import annotations

import os
import resource

from builder.errors import BuildError
from builder.sandbox import processes
from builder.sandbox.shapes import Limits

MOST_FILES = 65_536
LEAST_TASKS = 64
"""Processes and threads that a compiler starts on a small machine, whatever its source."""
ENOUGH_TASKS = 4096
"""A limit of a user from which on those that run already are not counted: that is a look at each process."""


def options(limits: Limits, uid: int, grouped: bool) -> dict[str, int]:
    """Options of prlimit(1) and their values. Processes are counted for the whole user: what it has already does not
    count against this run, and bubblewrap's two are free. With control groups this is only the second fence."""
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


def require_tasks(uid: int) -> None:
    """Raise `BuildError` SandboxUnavailable where the limit of this process leaves a step fewer processes and threads
    than compilers start: what those say then reads as the source's fault. `uid`: whom steps of root run as."""
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if most == resource.RLIM_INFINITY or most >= ENOUGH_TASKS:
        return
    left = most - processes.tasks_of_user(os.geteuid() or uid)
    if left < LEAST_TASKS:
        message = f"a build may start {max(left, 0)} processes and threads here, and compilers start {LEAST_TASKS}"
        step = "Raise the limit of processes of this user (ulimit -u), or end some of them."
        raise BuildError("SandboxUnavailable", message, next=step)
