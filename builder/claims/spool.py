"""The lines of one claim, on disk before they are sent, numbered from 0.

A line leaves the spool only when the control side acknowledged it. The file is JSON lines; after a crash the restarted
process sends what it finds (`left_behind`). At the size cap the first lines stay and the newest push out the middle:
one marker line stands for the rest, and the build never waits.

A disk that takes no more lines fails no build for it: they go on from memory, and only a crash of the process loses
those that were not yet acknowledged.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import secrets
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from builder.process import process_start

BATCH_LINES = 500
"""Lines that travel together, at most."""
LAST_BYTES = 256 * 1024
"""What lines may take up that travel with another call: it takes far more, also beside an artifact's materials."""
CROWD = 200
"""So many lines wait for no more to travel with them."""
MARK, UNDER_WAY = ".pid", ".mark"
"""What the names of an owner's mark beside its spool end with, and of one that is being made."""
OWN = "SYSTEM"
"""The stream of the builder's own lines."""
LINE_OVERHEAD = 64
"""What a line counts beside its text, so that empty lines are bounded too."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line: `index` is dense within the claim; `stream` is STDOUT, STDERR or SYSTEM."""

    index: int
    timestamp_ms: int
    phase: str
    stream: str
    text: str


class Spool:
    """Any thread may add; one loop sends. `changed` guards it and is notified at each change; spools may share one."""

    def __init__(self, path: Path, cap_bytes: int, changed: threading.Condition | None = None) -> None:
        self.path = path
        self.changed = changed or threading.Condition()
        self._file: BinaryIO | None = None
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        self._cap = cap_bytes
        self._written = 0
        self._dropped = 0
        self._count = 0
        self._pending: deque[Line] = deque()
        self._tail: deque[Line] = deque()
        self._tail_bytes = 0
        self._closed = False
        self._leaves = False
        self._under_way = False
        self._awaiting = 0
        self._printed = 0
        self.stirred = threading.Event()
        """Set while a line of a command waits, or the lines are urgent: those of the builder itself can wait longer."""
        self.urgent = threading.Event()
        """Set while whoever gathers lines sends those that there are: somebody waits for them, there are many, or no
        more will come. An event beside `changed`, which each line notifies."""

    @property
    def count(self) -> int:
        """How many lines this claim has numbered so far."""
        return self._count

    @property
    def acknowledged(self) -> bool:
        """Whether the control side has every line numbered so far."""
        return not self._pending

    @contextmanager
    def awaiting(self) -> Iterator[None]:
        """Inside somebody waits until every line is acknowledged."""
        with self.changed:
            self._awaiting += 1
            self._judge()
        try:
            yield
        finally:
            with self.changed:
                self._awaiting -= 1
                self._judge()

    def _judge(self) -> None:
        urgent = self._closed or self._awaiting > 0 or len(self._pending) >= CROWD
        for event, due in ((self.urgent, urgent), (self.stirred, urgent or self._printed > 0)):
            if due != event.is_set():
                (event.set if due else event.clear)()

    def add(self, timestamp_ms: int, phase: str, stream: str, text: str) -> None:
        """Number, write and queue one line. Beyond the cap only the last lines (a tenth of it) wait for the end."""
        size = len(text) + LINE_OVERHEAD
        with self.changed:
            line = Line(index=self._count, timestamp_ms=timestamp_ms, phase=phase, stream=stream, text=text)
            # Once a line is in the tail, all that follow are: a shorter one numbered before it would be out of order.
            if self._tail or self._written + size > self._cap - self._cap // 10:
                self._add_to_tail(line, size)
            else:
                self._append(line, size)

    def _number(self, line: Line, size: int) -> None:
        self._append(replace(line, index=self._count), size)

    def _append(self, line: Line, size: int) -> None:
        self._count += 1
        self._written += size
        self._write(json.dumps(vars(line)).encode() + b"\n")
        self._pending.append(line)
        self._printed += line.stream != OWN
        self._judge()
        self.changed.notify_all()

    def _write(self, data: bytes) -> None:
        """Append to the file, for as long as its disk takes all of it: a torn line ends what a reader finds."""
        try:
            whole = self._file is None or self._file.write(data) == len(data)
        except OSError:
            whole = False
        if not whole:
            self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _add_to_tail(self, line: Line, size: int) -> None:
        self._tail.append(line)
        self._tail_bytes += size
        while self._tail_bytes > self._cap // 10 and len(self._tail) > 1:
            gone = self._tail.popleft()
            self._tail_bytes -= len(gone.text) + LINE_OVERHEAD
            self._dropped += 1

    def close(self) -> int:
        """End the log; the tail is numbered after its marker. Returns the number of lines of the claim."""
        with self.changed:
            if self._closed:
                return self._count
            if self._dropped:
                text = f"... {self._dropped} lines left out: the log reached its limit of {self._cap} bytes ..."
                self._number(replace(self._tail[0], phase="", stream=OWN, text=text), 0)
            for line in self._tail:
                self._number(line, 0)
            self._tail.clear()
            self._closed = True
            self._close_file()
            self._judge()
            self.changed.notify_all()
            return self._count

    @property
    def is_due(self) -> bool:
        """Whether there are lines for the sender: not acknowledged, and not those that `leave` keeps from it."""
        return bool(self._pending) and not (self._leaves and self._is_one_batch())

    @property
    def is_left(self) -> bool:
        """Whether all lines but one batch are acknowledged, and the sender is at none."""
        return not self._under_way and self._is_one_batch()

    def _is_one_batch(self) -> bool:
        if len(self._pending) > BATCH_LINES:
            return False
        return sum(len(line.text) + LINE_OVERHEAD for line in self._pending) <= LAST_BYTES

    def leave(self, leaves: bool) -> None:
        """Whether the last batch is left to whoever calls about the claim next, and sends it with that call."""
        with self.changed:
            self._leaves = leaves
            self.changed.notify_all()

    def begin(self) -> tuple[Line, ...]:
        """The next batch for the sender, which says `ended` once it is answered or is not; empty when none is due."""
        with self.changed:
            lines = self.batch() if self.is_due else ()
            self._under_way = bool(lines)
            return lines

    def ended(self) -> None:
        """The sender's call has ended, however that was."""
        with self.changed:
            self._under_way = False
            self.changed.notify_all()

    def batch(self, limit: int = BATCH_LINES) -> tuple[Line, ...]:
        """The oldest lines not yet acknowledged, at most `limit`."""
        with self.changed:
            return tuple(itertools.islice(self._pending, limit))

    def acknowledge(self, until_index: int) -> None:
        """The control side has every line below `until_index`."""
        with self.changed:
            while self._pending and self._pending[0].index < until_index:
                self._printed -= self._pending.popleft().stream != OWN
            self._judge()
            self.changed.notify_all()

    def again(self, from_index: int) -> int:
        """Queue the lines from here on once more, read back from the disk. Returns how many there are."""
        with self.changed:
            stored: tuple[Line, ...] = ()
            with suppress(OSError):  # the disk was full and has none
                stored = read_lines(self.path)
            first = self._pending[0].index if self._pending else self._count
            lines = [*(line for line in stored if line.index < first), *self._pending]
            found = deque(line for line in lines if line.index >= from_index)
            self._pending = found if found and found[0].index == from_index else deque()
            self._printed = sum(line.stream != OWN for line in self._pending)
            self._judge()
            self.changed.notify_all()
            return len(self._pending)

    def remove(self) -> None:
        """Remove file and mark: the claim is settled."""
        with self.changed:
            self._closed = True
            self._close_file()
        forget(self.path)
        disown(self.path)


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
    """Spools of claims whose process is gone: (build_id, claim, lines, path). A torn last line is dropped.

    Several processes may settle one folder at once: what another has removed meanwhile is passed over.
    """
    for path in sorted(folder.glob("*.jsonl")) if folder.is_dir() else ():
        build_id, _, claim = path.stem.partition(".")
        if not claim.isdigit() or is_owned(path):
            continue
        try:
            lines = read_lines(path)
        except FileNotFoundError:
            continue
        yield build_id, int(claim), lines, path


def forget(path: Path) -> None:
    """Remove a spool and the mark of its owner."""
    path.unlink(missing_ok=True)
    path.with_suffix(MARK).unlink(missing_ok=True)


def forget_dead_owners(folder: Path) -> None:
    """Remove the marks of processes that are gone and left no spool: killed before it, or while removing it."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        lone = path.suffix == MARK and not path.with_suffix(".jsonl").exists()
        if (lone or path.suffix == UNDER_WAY) and not _is_held(path):
            path.unlink(missing_ok=True)


def is_owned(path: Path) -> bool:
    """Whether the spool's claim has a live process."""
    return _is_held(path.with_suffix(MARK))


def own(path: Path) -> None:
    """Mark the spool as this process's, until `disown` or its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark, under_way = path.with_suffix(MARK), path.with_suffix(f".{secrets.token_hex(4)}{UNDER_WAY}")
    while True:
        lock = os.open(under_way, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(under_way, mark)  # so a mark is there with its lock, or not at all
        except FileNotFoundError:  # who looked before it had its lock removed it
            os.close(lock)
            continue
        except BaseException:
            os.close(lock)
            raise
        break
    disown(path)
    _held[path] = lock


def disown(path: Path) -> None:
    """This process has to do with the spool no more."""
    if (lock := _held.pop(path, None)) is not None:
        os.close(lock)


_held: dict[Path, int] = {}
"""The locks of the marks of this process."""


def _is_held(mark: Path) -> bool:
    """Whether the process that made a mark lives: it holds a lock on it, which ends with it. That tells across PID
    namespaces, where one number names two processes. What cannot be seen counts as held."""
    try:
        file = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno != errno.ELOOP or _names_a_process(mark)
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once find no owner
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def _names_a_process(mark: Path) -> bool:
    """Whether a mark of an earlier version, a link to "<pid> <start time>", names one that lives."""
    try:
        pid, start = os.readlink(mark).split()
        return process_start(int(pid)) == start
    except (OSError, ValueError):
        return False
