"""How much disk a run uses, watched while it runs, and what is left of the file system beneath it.

A look counts blocks, a file at least 4 KiB (100,000 small files are not free), hard links once, and files that are
deleted but still open. A hostile tree may be deep, may change under the scan, and may have links: none is followed.

A look takes time with many files, and a fast writer needs less. So the file system itself is asked every 20 ms, and
while a look lasts, what is left of it (statvfs(2), which costs nothing). Once it lost what the run may still take, the
run is stopped while the look lasts: whatever else writes there costs it a pause, and it cannot run away from the count.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path, PurePosixPath

SMALLEST = 4096
ANCHOR_LENGTH = 3500  # and a name of 255 is still below PATH_MAX, 4096
MOST_ANCHORS = 400
FIRST_LOOK_S = 0.5
POLL_S = 0.02
SMALLEST_STEP = 16
"""The part of the limit that may be written between two looks at a run that has nearly reached it: a sixteenth."""
FIRST_STEP = 4
"""Before the first look nobody knows how much the work folder already has: a quarter."""
LONGEST_QUIET_S = 0.1
"""How long a run goes on unseen after a look that found another's writing. On tmpfs it writes 100 MB meanwhile."""
STOP_ROUNDS = 4
OVER_ANY_LIMIT = 1 << 62
FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LIST_AND_ENTER = stat.S_IRUSR | stat.S_IXUSR
MOST_TRIES = 10
MOST_WAITING = 200_000
"""Folders that a count has met and not entered, some 75 MB of names; more of them exist only to exhaust its memory."""
ENTRIES_A_GLANCE = 256

Glance = Callable[[], None]
"""What a count of a tree asks in between, once a folder and every 256 entries; it costs a system call or two."""


def used(folders: Iterable[Path], glance: Glance = lambda: None) -> int:
    """Bytes that the trees below `folders` occupy. What vanishes meanwhile counts as far as seen.

    A folder that its owner may not list, when that is this process's own user, gets the owner's rights back. One that
    stays shut is over any limit: else whatever lies below it would be free.
    """
    seen: set[tuple[int, int]] = set()
    total = 0
    for folder in folders:
        with contextlib.suppress(OSError):
            above = os.open(folder.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                total += _tree(folder.name, above, seen, glance)
            finally:
                os.close(above)
    return total


def _tree(name: str, anchor: int, seen: set[tuple[int, int]], glance: Glance) -> int:
    """The folder `name` below `anchor` and everything below it; 0 when it is gone."""
    try:
        fd = _folder(name, anchor)
    except PermissionError:
        return 0 if os.geteuid() == 0 else OVER_ANY_LIMIT  # a root without its rights over files sees what it sees
    except OSError:
        return 0
    try:
        return _below(fd, seen, glance)
    finally:
        os.close(fd)


def _below(anchor: int, seen: set[tuple[int, int]], glance: Glance, anchors: int = 1) -> int:
    """Folders are opened relative to an anchor; where that path grows too long, the folder is the next anchor.

    A tree that needs over 400 of them (1.4 MB of path) exists only to blind this count: it is over any limit.
    """
    if anchors > MOST_ANCHORS:
        return OVER_ANY_LIMIT
    total = 0
    waiting = [("", ".")]  # the path above is one text for all the folders in it: it may be long, and they many
    while waiting:
        name = "".join(waiting.pop())
        try:
            fd = _folder(name, anchor)
        except PermissionError:
            return OVER_ANY_LIMIT
        except OSError:
            continue
        try:
            if len(os.fsencode(name)) > ANCHOR_LENGTH:
                total += _below(fd, seen, glance, anchors + 1)
                continue
            size, folders = _entries(fd, seen, glance)
            total += size
            if len(waiting) + len(folders) > MOST_WAITING:
                return OVER_ANY_LIMIT
            above = f"{name}/"
            waiting += [(above, folder) for folder in folders]
        except OSError:
            continue
        finally:
            os.close(fd)
    return total


def _folder(name: str, anchor: int) -> int:
    """A descriptor that lists a folder of the tree at `anchor`. Raises OSError; PermissionError when it stays shut."""
    for _ in range(MOST_TRIES):
        with contextlib.suppress(PermissionError):
            fd = os.open(name, os.O_RDONLY | FOLDER, dir_fd=anchor)
            mode = os.fstat(fd).st_mode
            if os.geteuid() == 0 or mode & LIST_AND_ENTER == LIST_AND_ENTER:
                return fd
            os.close(fd)  # its entries have names but nothing else
        for above in (*reversed(PurePosixPath(name).parents), name):  # whoever shuts folders may shut all of them
            with contextlib.suppress(PermissionError):
                _open_to_us(str(above), anchor)
    raise PermissionError(name)


def _open_to_us(name: str, anchor: int) -> None:
    """Give the owner's rights to a folder of the tree at `anchor`, while what runs in there may put links in its way.

    The descriptor is the folder whatever its name becomes; a folder whose path is not below the anchor is none of ours.
    """
    if name == ".":  # even this name is looked up with the folder's own permission
        _allow(anchor)
        return
    fd = os.open(name, os.O_PATH | FOLDER, dir_fd=anchor)
    try:
        if f"{_path(fd)}/".startswith(f"{_path(anchor)}/"):
            _allow(fd)
    finally:
        os.close(fd)


def _allow(fd: int) -> None:
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(f"/proc/self/fd/{fd}", mode | stat.S_IRWXU)


def _path(fd: int) -> str:
    return os.readlink(f"/proc/self/fd/{fd}")


def _entries(fd: int, seen: set[tuple[int, int]], glance: Glance) -> tuple[int, list[str]]:
    total = 0
    folders: list[str] = []
    with os.scandir(fd) as entries:
        for number, entry in enumerate(entries):
            if number % ENTRIES_A_GLANCE == 0:
                glance()
            try:
                info = _info(entry, fd)
            except PermissionError:
                return OVER_ANY_LIMIT, []
            except OSError:
                continue
            if stat.S_ISDIR(info.st_mode):
                if len(folders) >= MOST_WAITING:
                    return OVER_ANY_LIMIT, []
                folders.append(entry.name)
            elif info.st_nlink > 1:
                if (info.st_dev, info.st_ino) in seen:
                    continue
                seen.add((info.st_dev, info.st_ino))
            total += max(info.st_blocks * 512, SMALLEST)
    return total, folders


def _info(entry: os.DirEntry[str], folder: int) -> os.stat_result:
    """Raises OSError; PermissionError when the folder is shut again each time that it was opened."""
    for _ in range(MOST_TRIES):
        with contextlib.suppress(PermissionError):
            return entry.stat(follow_symlinks=False)
        _allow(folder)
    raise PermissionError(entry.name)


def deleted_but_open(pids: Iterable[int], *devices: int) -> int:
    """Bytes of files on `devices` that have no name any more but that `pids` have open."""
    found: dict[tuple[int, int], int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{fd}")
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_dev in devices:
                        found[info.st_dev, info.st_ino] = info.st_blocks * 512
    return sum(found.values())


def overlays_of(pids: Iterable[int]) -> set[int]:
    """Devices of the overlays below /cache that these processes see: a file of one is on no other device (proc(5),
    mountinfo)."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
                words = line.split()
                if words[4].startswith("/cache/") and words[words.index("-") + 1] == "overlay":
                    found.add(os.makedev(*map(int, words[2].split(":"))))
    return found


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a file system has left for any user but root. `inodes` is None where it has no fixed number of them."""

    bytes: int
    inodes: int | None

    def least(self, other: Room) -> Room:
        """The lower of each."""
        known = [room.inodes for room in (self, other) if room.inodes is not None]
        return Room(bytes=min(self.bytes, other.bytes), inodes=min(known, default=None))

    def below(self, bytes_: int, inodes: int) -> bool:
        """Whether less is left than these."""
        return self.bytes < bytes_ or (self.inodes is not None and self.inodes < inodes)


def room(folder: Path) -> Room:
    """What the file system of a folder has left. Raises OSError."""
    found = os.statvfs(folder)
    return Room(bytes=found.f_bavail * found.f_frsize, inodes=found.f_favail if found.f_files else None)


@contextmanager
def stopped(pids: Callable[[], Iterable[int]], over: Callable[[], bool]) -> Iterator[None]:
    """Stop these processes (SIGSTOP) while the block lasts; afterwards let them go on, or where it is `over` kill them.

    What they fork meanwhile is stopped in the next round. A number that another process has by now is left alone.
    """
    with ExitStack() as stack:
        known: dict[int, int] = {}
        for _ in range(STOP_ROUNDS):
            fresh = {}
            for pid in set(pids()) - known.keys():
                with contextlib.suppress(OSError):
                    fresh[pid] = stack.enter_context(FileIO(os.pidfd_open(pid), "r")).fileno()
            if not fresh:
                break
            known |= {pid: fresh[pid] for pid in fresh.keys() & set(pids())}  # opened, and still of this run
            for pid in fresh.keys() & known.keys():
                _signal(fresh[pid], signal.SIGSTOP)
        try:
            yield
        finally:
            for descriptor in known.values():
                _signal(descriptor, signal.SIGKILL if over() else signal.SIGCONT)


def _signal(descriptor: int, number: signal.Signals) -> None:
    with contextlib.suppress(OSError):
        signal.pidfd_send_signal(descriptor, number)


class DiskWatch:
    """Looks at the work folder and others of the run (all of it counts) and the caches (what they grow by) until it is
    stopped.

    Looks come by time, with a pause of ten times what one takes and at least half a second, and by what the file
    system loses. A look of the second kind leaves out the caches, where only our own tools write.
    The thread starts with the first look, so a short run that writes little has none.
    """

    def __init__(
        self,
        work: Path | tuple[Path, ...],
        caches: tuple[Path, ...],
        limit: int,
        pids: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._folders = work if isinstance(work, tuple) else (work,)
        self._work, self._caches, self._limit, self._pids = self._folders[0], caches, limit, pids
        self._first_look = time.monotonic() + FIRST_LOOK_S
        self._baseline: int | None = None
        self._cached = self._total = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._exceeded = False
        self.peak = 0
        self.room: Room | None = None
        """The least that the file system of the work folder had left."""
        self._left_at_look = self._left_at_caches = self._left()
        self._step = limit // FIRST_STEP

    def exceeded(self) -> bool:
        """Whether any look so far found too much. It is asked often."""
        if self._thread is None and not self._stopped.is_set() and self._begins():
            self._thread = threading.Thread(target=self._watch, name="sandbox-disk", daemon=True)
            self._thread.start()
        return self._exceeded

    def _begins(self) -> bool:
        return time.monotonic() >= self._first_look or self._lost() >= self._step

    def stop(self) -> None:
        """End the watch and look once more; at caches only when they were looked at before (a short run is cheap) and
        may have grown to the limit since. A look at a compiler's cache takes 30 ms, for which the build would wait."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        self._look(with_caches=self._baseline is not None and self._may_be_over())

    def _may_be_over(self) -> bool:
        """Whether all that the file system lost since the last look at the caches would reach the limit. Of caches on
        another one nothing is known."""
        with contextlib.suppress(OSError):
            device = self._work.stat().st_dev
            if all(cache.stat().st_dev == device for cache in self._caches):
                return self._total + self._lost(self._left_at_caches) > self._limit
        return True

    def _watch(self) -> None:
        due, quiet = self._first_look, 0.0
        while not self._stopped.wait(POLL_S):
            before, lost, had = time.monotonic(), self._lost(), self._total
            if lost >= self._step and before >= quiet:
                with stopped(self._pids, lambda: self._exceeded):
                    self._look(with_caches=False)
                now = time.monotonic()
                others_write = self._total - had < lost // 2
                quiet = now + min(now - before, LONGEST_QUIET_S) if others_write else 0.0
            elif before >= due:
                self._look_beside_it()
                now = time.monotonic()
                due = now + max(FIRST_LOOK_S, 10 * (now - before))

    def _look_beside_it(self) -> None:
        """A look while the command runs on. It is stopped for the rest of the look once it wrote what it may until
        the next one: a look at many files takes longer than a fast writer needs."""
        with ExitStack() as stack:
            halted = False

            def glance() -> None:
                nonlocal halted
                if not halted and (self._total > self._limit // 2 or self._lost() >= self._step):
                    halted = True
                    stack.enter_context(stopped(self._pids, lambda: self._exceeded))

            self._look(with_caches=True, glance=glance)

    def _left(self) -> Room:
        """What the file system has left now. One that does not answer loses nothing."""
        try:
            now = room(self._work)
        except OSError:
            return self.room or Room(bytes=0, inodes=None)
        self.room = now if self.room is None else self.room.least(now)
        return now

    def _lost(self, then: Room | None = None) -> int:
        """What the file system lost since it had so much left, or since the last look, as a look would count it; rather
        more than less."""
        then, now = then or self._left_at_look, self._left()
        files = then.inodes - now.inodes if then.inodes is not None and now.inodes is not None else 0
        return max(0, then.bytes - now.bytes) + max(0, files) * SMALLEST

    def _look(self, with_caches: bool, glance: Glance = lambda: None) -> None:
        left = self._left()
        total = used(self._folders, glance)
        if with_caches and self._caches:
            together = used(self._caches, glance)
            if self._baseline is None:
                self._baseline = together
            self._cached, self._left_at_caches = max(0, together - self._baseline), left
        total += self._cached
        with contextlib.suppress(OSError):
            devices = overlays_of(self._pids()) if len(self._folders) > 1 else set()
            total += deleted_but_open(self._pids(), self._work.stat().st_dev, *devices)
        self._left_at_look, self._total = left, total
        self._step = max(self._limit - total, self._limit // SMALLEST_STEP)
        self.peak = max(self.peak, total)
        self._exceeded = self._exceeded or total > self._limit
