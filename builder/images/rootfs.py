"""The root file system that layers are applied to, one entry after another (OCI image-spec, "Applying Changesets").

Every entry is resolved inside the root as a container's kernel would resolve it (links included, `..` stops at the
root), then opened folder by folder with O_NOFOLLOW: nothing is written outside, whatever a layer holds. Owners, times,
devices, set-user-id bits and extended attributes are not restored.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path

from builder.errors import BuildError
from builder.images.gather import shown
from builder.images.tar import Entry

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS = 40
MAX_PARTS = 256
MAX_STEPS = 1024
"""How many names the links of one path may come to."""
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
ENTRY_BYTES = 512
"""What a file, folder or link counts beside its bytes: so many of them fill a disk as well."""
MOST_ENTRIES = 2_000_000
MOST_NAMES = 256 * 1024 * 1024
"""What one layer puts: it is in memory until the layer is done. The largest images have a tenth of it."""
UNPLACEABLE = (errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ)


class TooMany(BuildError):
    """ArtifactTooLarge for the number of entries, whatever room they may take."""


class Rootfs:
    """The folder that one layer fills. Keeps what this layer wrote, and the folders of it, since an opaque whiteout
    spares them, and which folders were emptied so: what is in one then is of this layer.

    `spend` takes the bytes of each file and folder and may raise. `keep_links` and `reader`: see `unpack.py`.
    """

    def __init__(
        self, root: Path, spend: Callable[[int], None], *, keep_links: bool, reader: tuple[int, int] | None
    ) -> None:
        self.fd = os.open(root, FOLDER_FLAGS)
        self.reader = reader
        self.keep_links = keep_links
        self.spend = spend
        self.fresh: set[str] = set()
        self.emptied: set[str] = set()
        self.names = 0

    def close(self) -> None:
        os.close(self.fd)

    def put(self, entry: Entry, data: Iterable[memoryview]) -> None:
        """Place an entry; `data` is what a file holds. Raises `BuildError` ArchiveUnsafe, `TooMany`, `OSError`, and
        whatever reading `data` raises."""
        try:
            self._put(entry, data)
        except (OSError, ValueError) as error:  # an empty or endless name or target, a NUL in it
            if isinstance(error, OSError) and error.errno == errno.EMLINK:
                raise _unsafe(entry.name, "is one hard link too many to the same file") from None
            if isinstance(error, OSError) and error.errno not in UNPLACEABLE:
                raise
            raise _unsafe(entry.name, "cannot have this name or target") from None

    def _put(self, entry: Entry, data: Iterable[memoryview]) -> None:
        parts = _parts(entry.name)
        if not parts:
            return
        self.spend(ENTRY_BYTES)
        *above, name = parts
        folders = self.resolve(above)
        parent = self.open_folder(folders)
        try:
            if name == OPAQUE:
                self._empty(parent, folders)
            elif name.startswith(WHITEOUT):
                hidden = name.removeprefix(WHITEOUT)
                if hidden in ("", ".", ".."):
                    raise _unsafe(entry.name, "deletes nothing that has a name")
                _remove(parent, hidden)
            else:
                self._put_into(parent, [*folders, name], entry, data)
        finally:
            os.close(parent)

    def _put_into(self, parent: int, path: list[str], entry: Entry, data: Iterable[memoryview]) -> None:
        name = path[-1]
        if entry.kind == "folder":
            if self.keep_links and _target(parent, name) is not None:
                return
            _make_folder(parent, name, self._mode(entry))
        elif entry.kind == "file":
            self.spend(entry.size)
            _remove(parent, name)
            with open(os.open(name, NEW_FILE_FLAGS, 0o600, dir_fd=parent), "wb") as file:
                for part in data:
                    file.write(part)
                os.fchmod(file.fileno(), _file_mode(self._mode(entry)))
        elif entry.kind == "link":
            _remove(parent, name)
            os.symlink(entry.target, name, dir_fd=parent)
        elif entry.kind == "hard":
            self._link(parent, name, entry)
        elif entry.kind == "sparse":
            raise _unsafe(entry.name, "is a sparse file, which tools read in different ways")
        else:
            return  # devices, sockets, pipes: a root for a sandbox has none of its own
        self._note(path)

    def _mode(self, entry: Entry) -> int:
        """The entry's mode, by which all others may read and enter what the reader may in the image."""
        if self.reader is None:
            return entry.mode
        uid, gid = self.reader
        if entry.uid == uid:
            return entry.mode | entry.mode >> 6 & 0o5
        return entry.mode | entry.mode >> 3 & 0o5 if entry.gid == gid else entry.mode

    def _note(self, path: list[str]) -> None:
        """Remember what was put, and the folders above it."""
        for end in range(len(path), 0, -1):
            known = "/".join(path[:end])
            if known in self.fresh:
                return
            self.names += len(known)
            if len(self.fresh) >= MOST_ENTRIES or self.names > MOST_NAMES:
                names = f"{MOST_NAMES >> 20} MiB of their names"
                raise TooMany(
                    "ArtifactTooLarge",
                    f"a layer has more than {MOST_ENTRIES} files and folders, or {names}",
                    next="Leave files out of the image, or put them into several layers.",
                )
            self.fresh.add(known)

    def _link(self, parent: int, name: str, entry: Entry) -> None:
        """A hard link to an earlier entry; the target is found inside the root and is no link itself."""
        target = _parts(entry.target)
        if not target:
            raise _unsafe(entry.name, "is a hard link to the root")
        folder = self.open_folder(self.resolve(target[:-1]))
        try:
            if not stat.S_ISREG(os.stat(target[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                raise _unsafe(entry.name, "is a hard link to something that is no file")
            if os.path.samestat(os.fstat(folder), os.fstat(parent)) and target[-1] == name:
                return
            _remove(parent, name)
            os.link(target[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise _unsafe(entry.name, "is a hard link to nothing") from None
        finally:
            os.close(folder)

    def _empty(self, parent: int, folders: list[str]) -> None:
        """Opaque: what lower layers left in this folder goes, what this layer put there stays."""
        here = "/".join(folders)
        if here in self.emptied:
            return
        self.emptied.add(here)
        for name in os.listdir(parent):
            if "/".join((*folders, name)) not in self.fresh:
                _remove(parent, name)

    def resolve(self, parts: list[str]) -> list[str]:
        """The real folders behind `parts`, links followed inside the root. Missing ones stay as spelled."""
        pending, links, steps = list(reversed(parts)), 0, 0
        with closing(_Walk(self.fd)) as walk:
            while pending:
                steps += 1
                if steps > MAX_STEPS:
                    raise _unsafe("/".join(parts), "leads through too many links")
                part = pending.pop()
                target = walk.step(part)
                if target is not None:
                    links += 1
                    if links > MAX_LINKS:
                        raise _unsafe("/".join(parts), "leads through too many links")
                    if target.startswith("/"):
                        walk.to_root()
                    pending += reversed([step for step in target.split("/") if step not in ("", ".")])
                if len(walk.real) > MAX_PARTS:
                    raise _unsafe("/".join(parts), f"is deeper than {MAX_PARTS} folders")
            return walk.real

    def open_folder(self, real: list[str]) -> int:
        """A descriptor of a folder whose path holds no links; missing ones are made."""
        fd = os.dup(self.fd)
        try:
            for part in real:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=fd)
                    os.chmod(part, 0o755, dir_fd=fd)
                    self.spend(ENTRY_BYTES)
                inner = os.open(part, FOLDER_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = inner
        except (OSError, BuildError) as error:
            os.close(fd)
            if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise _no_folder(real) from None
            raise
        return fd


class _Walk:
    """A way below a root, one descriptor long however deep it leads; `real` are the folders that it led through."""

    def __init__(self, root: int) -> None:
        self.root = root
        self.real: list[str] = []
        self._fd = os.dup(root)
        self._there = 0  # how many of `real` there are; the descriptor is of the last one

    def close(self) -> None:
        os.close(self._fd)

    def to_root(self) -> None:
        self.real, self._there = [], 0
        self._move(os.dup(self.root))

    def step(self, part: str) -> str | None:
        """Go into a folder, or up (the root's is itself). What a link leads to where `part` is one: then stay."""
        if part == "..":
            if self.real:
                self._up()
            return None
        if self._there == len(self.real):
            if (target := _target(self._fd, part)) is not None:
                return target
            try:
                self._move(os.open(part, FOLDER_FLAGS, dir_fd=self._fd))
                self._there += 1
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):
                    raise _no_folder([*self.real, part]) from None
                raise
        self.real.append(part)
        return None

    def _up(self) -> None:
        self.real.pop()
        if self._there > len(self.real):  # nobody else moves a folder of the root, so that this one is still above it
            self._move(os.open("..", FOLDER_FLAGS, dir_fd=self._fd))
            self._there -= 1

    def _move(self, fd: int) -> None:
        os.close(self._fd)
        self._fd = fd


def _target(folder: int, name: str) -> str | None:
    """What a link leads to; None for what is none, or is not there."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def _no_folder(real: list[str]) -> BuildError:
    return _unsafe("/".join(real), "has a parent that is no folder")


def _parts(name: str) -> list[str]:
    """An entry's name as steps. Raises `BuildError` ArchiveUnsafe for `..` and for more than MAX_PARTS."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _unsafe(name, "leads out of its folder")
    if len(parts) > MAX_PARTS:
        raise _unsafe(name, f"is deeper than {MAX_PARTS} folders")
    return parts


def _make_folder(parent: int, name: str, mode: int) -> None:
    """A folder stays when it is there; anything else with its name goes."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, dir_fd=parent)
    except FileNotFoundError:
        os.mkdir(name, dir_fd=parent)
    fd = os.open(name, FOLDER_FLAGS, dir_fd=parent)
    try:
        # The owner is whoever unpacks, so a folder must stay open to them; only /tmp's sticky bit stays.
        os.fchmod(fd, (mode & 0o1777) | 0o700)
    finally:
        os.close(fd)


def _file_mode(mode: int) -> int:
    return (mode & 0o777) | 0o400


def _remove(parent: int, name: str) -> None:
    """Remove whatever has this name, folders with all that is in them; links are not followed."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        shutil.rmtree(name, dir_fd=parent)


def _unsafe(name: str, why: str) -> BuildError:
    return BuildError("ArchiveUnsafe", f"{shown(os.fsencode(name[:200]))} {why}")
