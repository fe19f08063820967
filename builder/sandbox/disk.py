"""How much disk a run uses, watched while it runs.

Counts blocks, a file at least 4 KiB (100,000 small files are not free), hard links once, and files that are deleted
but still open. A hostile tree may be deep, may change under the scan, and may hold links: none is followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

SMALLEST = 4096
ANCHOR_LENGTH = 3500  # and a name of 255 is still below PATH_MAX, 4096
MOST_ANCHORS = 400
FIRST_LOOK_S = 0.5
OVER_ANY_LIMIT = 1 << 62
FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
LIST_AND_ENTER = stat.S_IRUSR | stat.S_IXUSR
MOST_TRIES = 10


def used(folders: Iterable[Path]) -> int:
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
                total += _tree(folder.name, above, seen)
            finally:
                os.close(above)
    return total


def _tree(name: str, anchor: int, seen: set[tuple[int, int]], anchors: int = 1) -> int:
    """The folder `name` below `anchor` and everything below it; 0 when it is gone."""
    try:
        fd = _folder(name, anchor)
    except PermissionError:
        return 0 if os.geteuid() == 0 else OVER_ANY_LIMIT  # a root without its rights over files sees what it sees
    except OSError:
        return 0
    try:
        return _below(fd, seen, anchors)
    finally:
        os.close(fd)


def _below(anchor: int, seen: set[tuple[int, int]], anchors: int = 1) -> int:
    """Folders are opened relative to an anchor; where that path grows too long, the folder is the next anchor.

    A tree that needs over 400 of them (1.4 MB of path) exists only to blind this count: it is over any limit.
    """
    if anchors > MOST_ANCHORS:
        return OVER_ANY_LIMIT
    total = 0
    waiting = ["."]
    while waiting:
        name = waiting.pop()
        try:
            fd = _folder(name, anchor)
        except PermissionError:
            return OVER_ANY_LIMIT
        except OSError:
            continue
        try:
            if len(os.fsencode(name)) > ANCHOR_LENGTH:
                total += _below(fd, seen, anchors + 1)
                continue
            size, folders = _entries(fd, seen)
            total += size
            waiting += [f"{name}/{folder}" for folder in folders]
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


def _entries(fd: int, seen: set[tuple[int, int]]) -> tuple[int, list[str]]:
    total = 0
    folders = []
    with os.scandir(fd) as entries:
        for entry in entries:
            try:
                info = _info(entry, fd)
            except PermissionError:
                return OVER_ANY_LIMIT, []
            except OSError:
                continue
            if stat.S_ISDIR(info.st_mode):
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


def deleted_but_open(pids: Iterable[int], device: int) -> int:
    """Bytes of files on `device` that have no name any more but are held open by `pids`."""
    found: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    info = os.stat(f"/proc/{pid}/fd/{fd}")
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_dev == device:
                        found[info.st_ino] = info.st_blocks * 512
    return sum(found.values())


class DiskWatch:
    """Looks at the work folder (all of it counts) and the caches (what they grow by) until stopped.

    A look takes time with many files: the pause after it is ten times as long, at least half a second. The thread
    starts with the first look, so a short run has none.
    """

    def __init__(
        self,
        work: Path,
        caches: tuple[Path, ...],
        limit: int,
        pids: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._work, self._caches, self._limit, self._pids = work, caches, limit, pids
        self._first_look = time.monotonic() + FIRST_LOOK_S
        self._baseline: int | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._exceeded = False
        self.peak = 0

    def exceeded(self) -> bool:
        """Whether any look so far found too much. Asked often: it starts the looks when their time has come."""
        if self._thread is None and not self._stopped.is_set() and time.monotonic() >= self._first_look:
            self._thread = threading.Thread(target=self._watch, name="sandbox-disk", daemon=True)
            self._thread.start()
        return self._exceeded

    def stop(self) -> None:
        """End the watch and look once more; caches only when they were looked at before (a short run is cheap)."""
        self._stopped.set()
        if self._thread:
            self._thread.join()
        self._look(with_caches=self._baseline is not None)

    def _watch(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            before = time.monotonic()
            self._look(with_caches=True)
            pause = max(FIRST_LOOK_S, 10 * (time.monotonic() - before))

    def _look(self, with_caches: bool) -> None:
        total = used((self._work,))
        if with_caches and self._caches:
            together = used(self._caches)
            if self._baseline is None:
                self._baseline = together
            total += max(0, together - self._baseline)
        with contextlib.suppress(OSError):
            total += deleted_but_open(self._pids(), self._work.stat().st_dev)
        self.peak = max(self.peak, total)
        self._exceeded = self._exceeded or total > self._limit
