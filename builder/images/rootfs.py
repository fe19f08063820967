"""Layers → a folder: for `run` and as a sandbox root. The only place that extracts an image.

Every entry is resolved inside the new root as a container's kernel would resolve it (links included, `..` stops at the
root), then opened folder by folder with O_NOFOLLOW: nothing is written outside, whatever a layer holds. Owners, times,
devices, set-user-id bits and extended attributes are not restored.
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from builder.errors import BuildError, PlatformError
from builder.images.gather import shown
from builder.images.layer import MEDIA_TYPE, PLAIN_TYPE, Layer
from builder.images.tar import ByteReader, Damaged, Entry, Tar
from builder.text import visible

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS = 40
MAX_PARTS = 256
MAX_STEPS = 1024
"""How many names the links of one path may come to."""
CHUNK = 1024 * 1024
WHITEOUT = ".wh."
MOST_UNPACKED = 16 * 1024 * CHUNK
"""Bytes that an image may unpack into where nobody says another number."""
ENTRY_BYTES = 512
"""What a file, folder or link counts beside its bytes: so many of them fill a disk as well."""
BESIDE = 16 * CHUNK
"""Bytes of tar beside those of entries, where there is hardly one: padding up to a block of ten KiB or one MiB."""
MOST_ENTRIES = 2_000_000
MOST_NAMES = 256 * CHUNK
"""What one layer puts: it is in memory until the layer is done. The largest images have a tenth of it."""
OPAQUE = ".wh..wh..opq"
IS_PACKED = {MEDIA_TYPE: True, PLAIN_TYPE: False}
"""The kinds of layers that can be unpacked, and whether gzip is around the tar."""
UNPLACEABLE = (errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP, errno.EILSEQ)
_isal_error = cast(type[Exception], isal_zlib.IsalError)
_gunzip = cast(Callable[[IO[bytes]], IO[bytes]], igzip.open)
DAMAGED = (Damaged, EOFError, zlib.error, gzip.BadGzipFile, _isal_error)


class LayerDamaged(PlatformError):
    """A layer is no tar, or not what its `diff_id` says. Whose fault that is knows who has the image from whom."""


class TooMany(BuildError):
    """ArtifactTooLarge for the number of entries, whatever room they may take."""


def require_kinds(layers: Iterable[Layer], image: str) -> None:
    """Raise `BuildError` ImageContractViolated for a layer that is compressed in another way than by gzip."""
    for layer in layers:
        if layer.media_type not in IS_PACKED:
            kind = visible(str(layer.media_type), limit=100)
            raise BuildError(
                "ImageContractViolated",
                f"{image} has a layer of the kind {kind}; tar and tar+gzip are taken",
                where=f"layer {layer.digest}",
                next="Push it again with layers of gzip. With buildx: --output type=image,compression=gzip,"
                "force-compression=true,push=true",
            )


def unpack_image(
    layers: Iterable[Layer], root: Path, *, limit: int = MOST_UNPACKED, reader: tuple[int, int] | None = None
) -> None:
    """Extract `layers` (lowest first) into `root`, which is made and must not exist. `limit` in bytes of all layers:
    what one writes counts, also where a later one removes it, and each entry `ENTRY_BYTES` more.

    `reader`: the uid and gid that the root is for. Since no owner is restored, whoever reads it is nobody's owner:
    what this user may read and enter in the image, all others may in the root.

    Raises `BuildError` ArchiveUnsafe (an entry that cannot be placed), ArtifactTooLarge, ImageContractViolated (as
    `require_kinds`), `PlatformError` NodeDiskFull, `LayerDamaged` (also for another `diff_id`), Internal. What was
    extracted so far is removed then.
    """
    layers = tuple(layers)
    require_kinds(layers, "the image")
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    room = _Room(left=limit, unread=3 * limit + BESIDE)
    try:
        for layer in layers:
            with layer.path.open("rb") as blob:
                packed = IS_PACKED[layer.media_type]
                _unpack(blob, root, room, packed=packed, diff_id=layer.diff_id, reader=reader)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def unpack_tar(blob: IO[bytes], root: Path, *, packed: bool, keep_links: bool = False) -> None:
    """Extract one tar (gzip when `packed`) over `root`; whiteouts remove what lower layers left.

    `keep_links`: a folder entry leaves a link to a folder as it is (Debian packages on a merged /usr), where an image's
    layer replaces it. Raises as `unpack_image`.
    """
    _unpack(blob, root, _Room(left=None, unread=None), packed=packed, keep_links=keep_links)


def _unpack(
    blob: IO[bytes],
    root: Path,
    room: _Room,
    *,
    packed: bool,
    diff_id: str = "",
    keep_links: bool = False,
    reader: tuple[int, int] | None = None,
) -> None:
    place = _Place(root, room, keep_links, reader)
    hashed = _Hashed(_gunzip(blob) if packed else blob, room)
    try:
        tar = Tar(hashed)
        for entry in tar:
            try:
                place.put(tar, entry)
            except (OSError, ValueError) as error:  # an empty or endless name or target, a NUL in it
                if isinstance(error, OSError) and error.errno == errno.EMLINK:
                    raise _unsafe(entry.name, "is one hard link too many to the same file") from None
                if isinstance(error, OSError) and error.errno not in UNPLACEABLE:
                    raise
                raise _unsafe(entry.name, "cannot have this name or target") from None
        while hashed.read(CHUNK):
            pass
    except DAMAGED as error:
        raise LayerDamaged("Internal", f"a layer is damaged: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError("NodeDiskFull", "an image could not be unpacked: the disk is full") from error
        raise PlatformError("Internal", f"an image could not be unpacked: {error.strerror}") from error
    finally:
        place.close()
    if diff_id and diff_id != "sha256:" + hashed.hasher.hexdigest():
        raise LayerDamaged("Internal", f"a layer is damaged: its content is not {visible(str(diff_id), limit=100)}")


@dataclass
class _Room:
    """What the layers of one image may still write, and may still be read of them, in bytes; None for any.

    What is read of them is an entry's header and its data, padded to a block: at most twice of what it counts. As much
    again may be headers that describe entries, and entries that are left out.
    """

    left: int | None
    unread: int | None

    def spend(self, size: int) -> None:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise BuildError("ArtifactTooLarge", "the image takes more room unpacked than it may")

    def read(self, size: int) -> None:
        if self.unread is not None:
            self.unread -= size
            if self.unread < 0:
                raise BuildError("ArtifactTooLarge", "the image has more bytes of tar than its files may")


class _Hashed:
    """A stream that is hashed and counted as it is read."""

    def __init__(self, inner: ByteReader, room: _Room) -> None:
        self.inner = inner
        self.room = room
        self.hasher = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self.inner.read(size)
        self.hasher.update(data)
        self.room.read(len(data))
        return data


class _Place:
    """The folder that is filled. Keeps what this layer wrote, and the folders of it, since an opaque whiteout spares
    them, and which folders were emptied so: what is in one then is of this layer."""

    def __init__(self, root: Path, room: _Room, keep_links: bool, reader: tuple[int, int] | None) -> None:
        self.fd = os.open(root, FOLDER_FLAGS)
        self.reader = reader
        self.keep_links = keep_links
        self.room = room
        self.fresh: set[str] = set()
        self.emptied: set[str] = set()
        self.names = 0

    def close(self) -> None:
        os.close(self.fd)

    def put(self, tar: Tar, entry: Entry) -> None:
        parts = _parts(entry.name)
        if not parts:
            return
        self.room.spend(ENTRY_BYTES)
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
                self._put_into(parent, [*folders, name], tar, entry)
        finally:
            os.close(parent)

    def _put_into(self, parent: int, path: list[str], tar: Tar, entry: Entry) -> None:
        name = path[-1]
        if entry.kind == "folder":
            if self.keep_links and _target(parent, name) is not None:
                return
            _make_folder(parent, name, self._mode(entry))
        elif entry.kind == "file":
            self.room.spend(entry.size)
            _remove(parent, name)
            with open(os.open(name, NEW_FILE_FLAGS, 0o600, dir_fd=parent), "wb") as file:
                for data in tar.data():
                    file.write(data)
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
                    self.room.spend(ENTRY_BYTES)
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
