"""Who a process is: its pid and its start time, since a pid alone may name another process later; what it leaves."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

MOST_FILES = 65_536


def process_start(pid: int) -> str:
    """The process's start time in clock ticks (proc(5), field 22); with the pid it names a process for ever.

    Empty for one that has ended. A zombie has: where process 1 reaps no orphans it stays for as long as the container.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()  # the name before may be no text
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (OSError, IndexError):
        return ""


def leave_no_core() -> None:
    """Let this process and its children end without a core file: it would hold the secrets of builds."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_many_files() -> None:
    """Let this process have as many descriptors as it may have at all: the common soft limit is 1,024, for `select`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def settle() -> None:
    """What this process has loaded by now stays to its end: the garbage collector looks through it no more.

    A look through all modules stops every thread of the process for 30 ms and more, which is some build's wait.
    """
    gc.collect()
    gc.freeze()
