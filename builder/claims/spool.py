"""The lines of one claim, on disk before they are sent, numbered from 0.

A line leaves the spool only when the API has kept it. The file is JSON lines; after a crash a restarted worker sends
what it finds (`left_behind`). At the size cap the head stays and the newest lines push out the middle: one marker
line stands for the rest, and the build never waits.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

LINE_BYTES = 16 * 1024


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `index` is dense within the claim; `stream` is STDOUT, STDERR or SYSTEM."""

    index: int
    timestamp_ms: int
    phase: str
    stream: str
    text: str


class Spool:
    """Append on any thread, send on one. `now_ms` is the node's clock: it only dates lines, it decides nothing."""

    def __init__(self, path: Path, now_ms: Callable[[], int], cap_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("a", encoding="utf-8")
        self._now_ms = now_ms
        self._cap = cap_bytes
        self._written = 0
        self._dropped = 0
        self._count = 0
        self._pending: list[Line] = []
        self._tail: list[Line] = []
        self._tail_bytes = 0
        self._changed = threading.Condition()
        self._closed = False

    @property
    def count(self) -> int:
        """How many lines this claim has numbered so far."""
        return self._count

    @property
    def closed(self) -> bool:
        """Whether no line will come any more."""
        return self._closed

    def add(self, phase: str, stream: str, text: str) -> None:
        """Number, write and queue one line. Beyond the cap only the last lines (a tenth of it) are held for the end."""
        with self._changed:
            line = Line(index=-1, timestamp_ms=self._now_ms(), phase=phase, stream=stream, text=text)
            size = len(text) + 64
            # Once a line is held, all that follow are: a shorter one kept before it would stand out of order.
            if self._tail or self._written + size > self._cap - self._cap // 10:
                self._hold(line, size)
                return
            self._keep(line, size)

    def _keep(self, line: Line, size: int) -> None:
        numbered = Line(**{**asdict(line), "index": self._count})
        self._count += 1
        self._written += size
        self._file.write(json.dumps(asdict(numbered)) + "\n")
        self._file.flush()
        self._pending.append(numbered)
        self._changed.notify_all()

    def _hold(self, line: Line, size: int) -> None:
        self._tail.append(line)
        self._tail_bytes += size
        while self._tail_bytes > self._cap // 10 and len(self._tail) > 1:
            gone = self._tail.pop(0)
            self._tail_bytes -= len(gone.text) + 64
            self._dropped += 1

    def close(self) -> int:
        """No more lines; the held tail is numbered after its marker. Returns the number of lines of the claim."""
        with self._changed:
            if self._closed:
                return self._count
            if self._dropped:
                text = f"... {self._dropped} lines left out: the log reached its limit of {self._cap} bytes ..."
                self._keep(Line(index=-1, timestamp_ms=self._now_ms(), phase="", stream="SYSTEM", text=text), 0)
            for line in self._tail:
                self._keep(line, 0)
            self._tail.clear()
            self._closed = True
            self._file.close()
            self._changed.notify_all()
            return self._count

    def batch(self, limit: int, wait_s: float) -> tuple[Line, ...]:
        """The oldest lines not yet kept, at most `limit`; waits up to `wait_s` for the first."""
        with self._changed:
            if not self._pending and not self._closed:
                self._changed.wait(wait_s)
            return tuple(self._pending[:limit])

    def kept(self, until_index: int) -> None:
        """The API has every line below `until_index`."""
        with self._changed:
            self._pending = [line for line in self._pending if line.index >= until_index]

    def again(self, from_index: int) -> int:
        """The API turns out to lack the lines from here on: queue them again, read back from the disk. How many."""
        with self._changed:
            lines = read_lines(self.path)
            self._pending = [line for line in lines if line.index >= from_index]
            self._changed.notify_all()
            return len(self._pending)

    def remove(self) -> None:
        """Forget the claim: all its lines are kept, or nobody wants them any more."""
        self._file.close()
        self.path.unlink(missing_ok=True)
        self.path.with_suffix(".pid").unlink(missing_ok=True)


def spool_path(folder: Path, build_id: str, claim: int) -> Path:
    """`<folder>/<build_id>.<claim>.jsonl`"""
    return folder / f"{build_id}.{claim}.jsonl"


def read_lines(path: Path) -> tuple[Line, ...]:
    """The lines of a spool's file, up to the first that is torn or is no line."""
    lines: list[Line] = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(Line(**json.loads(text)))
        except (ValueError, TypeError):
            break
    return tuple(lines)


def left_behind(folder: Path) -> Iterator[tuple[str, int, tuple[Line, ...], Path]]:
    """Spools of claims whose process is gone: (build_id, claim, lines, path). A torn last line is dropped."""
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        build_id, _, claim = path.stem.partition(".")
        if not claim.isdigit() or is_owned(path):
            continue
        yield build_id, int(claim), read_lines(path), path


def forget_dead_owners(folder: Path) -> None:
    """Remove the identities of processes that are gone and left no spool: killed before it, or while removing it."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        spool = path.with_suffix(".jsonl")
        if path.suffix == ".pid" and not is_owned(spool) and not spool.exists():
            path.unlink(missing_ok=True)


def is_owned(path: Path) -> bool:
    """Whether the spool's claim has a live process: its pid stands beside it; a stranger with that pid is not it."""
    try:
        pid, start = os.readlink(path.with_suffix(".pid")).split()
        return process_start(int(pid)) == start
    except (OSError, ValueError):
        return False


def process_start(pid: int) -> str:
    """The process's start time in clock ticks (proc(5), field 22); with the pid it names a process for ever."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return ""


def own(path: Path) -> None:
    """Write this process's identity beside the spool, as a link's target: one system call, never half there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = path.with_suffix(".pid")
    mark.unlink(missing_ok=True)
    os.symlink(f"{os.getpid()} {process_start(os.getpid())}", mark)
