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
import tarfile
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

from isal import igzip, isal_zlib

from builder.errors import BuildError, PlatformError
from builder.images.gather import shown
from builder.images.layer import Layer

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
NEW_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_LINKS = 40
MAX_PARTS = 256
CHUNK = 1024 * 1024
WHITEOUT = ".wh."
MOST_UNPACKED = 16 * 1024 * CHUNK
"""Bytes that an image may unpack into where nobody says another number."""
ENTRY_BYTES = 512
"""What a file, folder or link counts beside its bytes: so many of them fill a disk as well."""
OPAQUE = ".wh..wh..opq"
UNPLACEABLE = (errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
_isal_error = cast(type[Exception], isal_zlib.IsalError)
_gunzip = cast(Callable[[IO[bytes]], IO[bytes]], igzip.open)
DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, _isal_error)


def unpack_image(layers: Iterable[Layer], root: Path, *, limit: int = MOST_UNPACKED) -> None:
    """Extract `layers` (lowest first) into `root`, which is made and must not exist. `limit` in bytes of all layers:
    what one writes counts, also where a later one removes it, and each entry `ENTRY_BYTES` more.

    Raises `BuildError` ArchiveUnsafe (an entry that cannot be placed), ArtifactTooLarge, `PlatformError` NodeDiskFull,
    Internal (a layer that is damaged: its `diff_id` is checked). What was extracted so far is removed then.
    """
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    try:
        left: int | None = limit
        for layer in layers:
            with layer.path.open("rb") as blob:
                left = unpack_tar(blob, root, packed=True, limit=left, diff_id=layer.diff_id)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise


def unpack_tar(
    blob: IO[bytes],
    root: Path,
    *,
    packed: bool,
    limit: int | None = None,
    diff_id: str = "",
    keep_links: bool = False,
) -> int | None:
    """Extract one tar (gzip when `packed`) over `root`; whiteouts remove what lower layers left.

    `keep_links`: a folder entry leaves a link to a folder as it is (Debian packages on a merged /usr), where an image's
    layer replaces it. Returns what is left of `limit`; raises as `unpack_image`.
    """
    place = _Place(root, limit, keep_links)
    hashed = _Hashed(_gunzip(blob) if packed else blob)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], hashed), mode="r|", bufsize=CHUNK, errors="surrogateescape") as tar:
            for member in tar:
                try:
                    place.put(tar, member)
                except (OSError, ValueError) as error:  # an empty or endless name or target, a NUL in it
                    if isinstance(error, OSError) and error.errno not in UNPLACEABLE:
                        raise
                    raise _unsafe(member.name[:200], "cannot have this name or target") from None
        while hashed.read(CHUNK):
            pass
    except DAMAGED as error:
        raise PlatformError("Internal", f"a layer is damaged: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError("NodeDiskFull", "an image could not be unpacked: the disk is full") from error
        raise PlatformError("Internal", f"an image could not be unpacked: {error.strerror}") from error
    finally:
        place.close()
    if diff_id and diff_id != "sha256:" + hashed.hasher.hexdigest():
        raise PlatformError("Internal", f"a layer is damaged: its content is not {diff_id}")
    return place.left


class _Hashed:
    """A stream that is hashed as it is read."""

    def __init__(self, inner: IO[bytes]) -> None:
        self.inner = inner
        self.hasher = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.inner.read(size)
        self.hasher.update(data)
        return data


class _Place:
    """The folder that is filled. Keeps what this layer wrote, since an opaque whiteout spares it."""

    def __init__(self, root: Path, limit: int | None, keep_links: bool) -> None:
        self.fd = os.open(root, FOLDER_FLAGS)
        self.keep_links = keep_links
        self.left = limit
        self.fresh: set[str] = set()

    def close(self) -> None:
        os.close(self.fd)

    def put(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        parts = _parts(member.name)
        if not parts:
            return
        self._spend(ENTRY_BYTES)
        *above, name = parts
        folders = self.resolve(above)
        parent = self.open_folder(folders)
        try:
            if name == OPAQUE:
                self._empty(parent, folders)
            elif name.startswith(WHITEOUT):
                hidden = name.removeprefix(WHITEOUT)
                if hidden in ("", ".", ".."):
                    raise _unsafe(member.name, "deletes nothing that has a name")
                _remove(parent, hidden)
            else:
                self._put_into(parent, [*folders, name], tar, member)
        finally:
            os.close(parent)

    def _put_into(self, parent: int, path: list[str], tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        name = path[-1]
        if member.isdir() and self.keep_links and self._link_target(path[:-1], name) is not None:
            return
        if member.isdir():
            _make_folder(parent, name, member.mode)
        elif member.isreg():
            self._spend(member.size)
            _remove(parent, name)
            source = tar.extractfile(member)
            assert source is not None
            with open(os.open(name, NEW_FILE_FLAGS, 0o600, dir_fd=parent), "wb") as file:
                shutil.copyfileobj(source, file, CHUNK)
                os.fchmod(file.fileno(), _file_mode(member.mode))
        elif member.issym():
            _remove(parent, name)
            os.symlink(member.linkname, name, dir_fd=parent)
        elif member.islnk():
            self._link(parent, name, member)
        else:
            return  # devices, sockets, pipes: a root for a sandbox has none of its own
        self.fresh.add("/".join(path))

    def _link(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        """A hard link to an earlier entry; the target is found inside the root and is no link itself."""
        target = _parts(member.linkname)
        if not target:
            raise _unsafe(member.name, "is a hard link to the root")
        folder = self.open_folder(self.resolve(target[:-1]))
        try:
            if not stat.S_ISREG(os.stat(target[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                raise _unsafe(member.name, "is a hard link to something that is no file")
            if os.path.samestat(os.fstat(folder), os.fstat(parent)) and target[-1] == name:
                return
            _remove(parent, name)
            os.link(target[-1], name, src_dir_fd=folder, dst_dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            raise _unsafe(member.name, "is a hard link to nothing") from None
        finally:
            os.close(folder)

    def _spend(self, size: int) -> None:
        if self.left is not None:
            self.left -= size
            if self.left < 0:
                raise BuildError("ArtifactTooLarge", "the image takes more room unpacked than it may")

    def _empty(self, parent: int, folders: list[str]) -> None:
        """Opaque: what lower layers left in this folder goes, what this layer put there stays."""
        for name in os.listdir(parent):
            path = "/".join((*folders, name))
            if path not in self.fresh and not any(kept.startswith(path + "/") for kept in self.fresh):
                _remove(parent, name)

    def resolve(self, parts: list[str]) -> list[str]:
        """The real folders behind `parts`, links followed inside the root. Missing ones stay as spelled."""
        pending, real, links = list(reversed(parts)), list[str](), 0
        while pending:
            part = pending.pop()
            if part == "..":
                real = real[:-1]
                continue
            target = self._link_target(real, part)
            if target is None:
                real.append(part)
            else:
                links += 1
                if links > MAX_LINKS:
                    raise _unsafe("/".join(parts), "leads through too many links")
                if target.startswith("/"):
                    real = []
                pending += reversed([step for step in target.split("/") if step not in ("", ".")])
            if len(real) > MAX_PARTS:
                raise _unsafe("/".join(parts)[:200], f"is deeper than {MAX_PARTS} folders")
        return real

    def _link_target(self, real: list[str], part: str) -> str | None:
        folder = self._open_existing(real)
        if folder is None:
            return None
        try:
            return os.readlink(part, dir_fd=folder)
        except OSError:
            return None
        finally:
            os.close(folder)

    def _open_existing(self, real: list[str]) -> int | None:
        try:
            return self._descend(real, make=False)
        except FileNotFoundError:
            return None

    def open_folder(self, real: list[str]) -> int:
        """A descriptor of a folder whose path holds no links; missing ones are made."""
        return self._descend(real, make=True)

    def _descend(self, real: list[str], *, make: bool) -> int:
        fd = os.dup(self.fd)
        try:
            for part in real:
                if make:
                    with suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=fd)
                        os.chmod(part, 0o755, dir_fd=fd)
                        self._spend(ENTRY_BYTES)
                inner = os.open(part, FOLDER_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = inner
        except (OSError, BuildError) as error:
            os.close(fd)
            if isinstance(error, OSError) and error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise _unsafe("/".join(real), "has a parent that is no folder") from None
            raise
        return fd


def _parts(name: str) -> list[str]:
    """A member's name as steps. Raises `BuildError` ArchiveUnsafe for `..` and for more than MAX_PARTS."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _unsafe(name, "leads out of its folder")
    if len(parts) > MAX_PARTS:
        raise _unsafe(name[:200], f"is deeper than {MAX_PARTS} folders")
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
    return BuildError("ArchiveUnsafe", f"{shown(os.fsencode(name))} {why}")
