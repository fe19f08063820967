"""The worker's main process watches its children: whoever lost its claim and does not return is killed.

A child that hangs (in a call that holds Python's lock, or stopped by a signal) loses its claim and cannot notice. Its
slot would be gone until somebody ends it. Celery replaces the killed child, and the build goes on by its next claim.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from billiard import Array

from builder.logs import logger

log = logger("node")
MOST_CHILDREN = 1024
_PID, _UNTIL, ROW = 0, 1, 2


class Watch:
    """Memory that the main process shares with its children: for each its pid, and until when its claim counts.

    Without a lock: a child that is killed would keep it. Each child writes its own row, and the pid last.
    """

    def __init__(self, grace_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self._rows = Array("d", ROW * MOST_CHILDREN, lock=False)
        self._grace_s, self._now = grace_s, now
        self._late: dict[int, float] = {}
        """Row of a child that should have returned → since when this process sees that."""

    def claimed(self, index: int, until: float) -> None:
        """The child `index`, which calls this, has a claim; without further news it counts until then."""
        at = index % MOST_CHILDREN * ROW
        self._rows[at + _UNTIL] = until
        self._rows[at + _PID] = os.getpid()

    def returned(self, index: int) -> None:
        """The child `index` has no claim."""
        self._rows[index % MOST_CHILDREN * ROW + _PID] = 0

    def look(self) -> tuple[int, ...]:
        """Kill each child that should have returned for the whole grace; the pids. Call it in a loop.

        The grace begins when it is seen: after a pause of the whole worker each child has time to hear of its claim.
        """
        now, killed = self._now(), []
        for index in range(MOST_CHILDREN):
            at = index * ROW
            pid = int(self._rows[at + _PID])
            if not pid or now <= self._rows[at + _UNTIL]:
                self._late.pop(index, None)
            elif now - self._late.setdefault(index, now) > self._grace_s:
                del self._late[index]
                self.returned(index)
                if _is_child(pid):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                        killed.append(pid)
                        log.error("a child lost its claim and did not return", action="child-killed", pid=pid)
        return tuple(killed)


def _is_child(pid: int) -> bool:
    """Whether this process started `pid`: a number may belong to another by now (proc(5), stat)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1]) == os.getpid()
    except (OSError, LookupError):
        return False
