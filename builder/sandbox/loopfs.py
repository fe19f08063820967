"""A fence around what one build writes: a file system of a fixed size, in a file of the node's disk, on a loop device.

The kernel ends a write beyond it with ENOSPC, however fast it comes. All blocks of the file are reserved before it is
mounted: a node without that room finds out before a build begins, and no write of a build fails beneath, where the
kernel would report it to nobody and the build would read zeros.

mkfs.ext4 runs once for each process that mounts, in memory; the few blocks that it writes are copied into each file.
The file system has no journal and no barriers, for it ends with its build. A build reaches neither file nor device.

Mounts are made in a mount namespace of the worker's own (`enter_namespace`). They and the loop devices, which detach
with the last mount (LO_FLAGS_AUTOCLEAR), end with the last process of the worker, however it ends; the file remains and
is swept (`builder/node/leftovers.py`).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from builder.errors import BuildError, PlatformError
from builder.sandbox import launch
from builder.sandbox.disk import SMALLEST, room

MIB = 1024 * 1024
RESERVE = 20 * MIB
"""Bytes of the file system for the kernel's own reserve (ext4 holds back 4096 blocks) and what counts for no file."""
INODE = 256
MKFS_S = 60.0
MOST_TRIES = 64
TAKEN = frozenset({errno.EBUSY, errno.ENXIO})
"""A free loop device may be another's, or gone, before it is configured."""
CONTROL = "/dev/loop-control"

CLONE_NEWNS = 0x00020000
MS_NOSUID, MS_NODEV, MS_NOATIME, MS_REC, MS_SLAVE = 0x2, 0x4, 0x400, 0x4000, 0x80000
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8
LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A
LO_FLAGS_AUTOCLEAR = 4
LOOP_CONFIG = struct.Struct("=II5Q4I64s64s32s2Q64x")
"""`struct loop_config` of linux/loop.h: descriptor and block size, `struct loop_info64`, what is reserved."""
MOUNT_FLAGS = MS_NOSUID | MS_NODEV | MS_NOATIME
MOUNT_OPTIONS = "noinit_itable,nobarrier"
FEATURES = "^has_journal,^resize_inode"

OFF = "or set disk_fence = off, which leaves the limit to the watch"
_libc = ctypes.CDLL(None, use_errno=True)


def size_for(limit: int) -> int:
    """The size of a file system that takes `limit` bytes of files, also where each of them is the smallest there is.

    The watch counts a file as 4 KiB at least, so there is an inode for each 4 KiB: a sixteenth of it all.
    """
    size = (limit + RESERVE) * SMALLEST // (SMALLEST - INODE)
    size += size // 1024  # bitmaps, descriptors of groups
    return -(-size // MIB) * MIB


def mkfs_argv(program: str, place: str, size: int) -> list[str]:
    """Makes an ext4 that writes no more than a few blocks: the rest of a new file reads as zeros anyway."""
    options = ["-q", "-F", "-t", "ext4", "-b", str(SMALLEST), "-I", str(INODE), "-i", str(SMALLEST), "-m", "0"]
    return [
        program, *options, "-O", FEATURES, "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0", place,
        f"{size // 1024}k",
    ]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Blank:
    """An empty file system: its size, and what of it is not zero, by offset."""

    size: int
    extents: tuple[tuple[int, bytes], ...] = field(repr=False)

    @contextmanager
    def mounted(self, file: Path, folder: Path) -> Iterator[None]:
        """A copy of it in a new file, mounted at a new folder while the context is open; then neither is there.

        Raises OSError where the disk has no room for all of it, `BuildError` SandboxUnavailable where the host refuses.
        """
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb", buffering=0, closefd=True):
                folder.mkdir(mode=0o755)
                self.mount(descriptor, folder)
            yield
        finally:
            unmount(folder)
            with suppress(OSError):
                folder.rmdir()  # it also detaches the copies in mount namespaces of steps that run meanwhile
            with suppress(OSError):
                file.unlink()

    def mount(self, descriptor: int, folder: Path) -> None:
        """Write it to an empty file, and mount that. Raises as `mounted`."""
        _reserve(descriptor, self.size)
        for offset, data in self.extents:
            _write(descriptor, offset, data)
        device, held = _attached(descriptor)
        try:
            _mount(device, folder)
        finally:
            os.close(held)  # mounted or not: the device goes with its last user


def make_blank(limit: int) -> Blank:
    """A file system for `limit` bytes, as mkfs.ext4 makes it in memory. Raises `BuildError` SandboxUnavailable."""
    size = size_for(limit)
    try:
        program = launch.program("mkfs.ext4")
    except PlatformError:
        _refuse("mkfs.ext4 is not installed", f"apt-get install -y e2fsprogs, {OFF}.")
    memory = os.memfd_create("ignite-fence", os.MFD_CLOEXEC)
    with os.fdopen(memory, "r+b", buffering=0):
        os.truncate(memory, size)
        line = mkfs_argv(program, f"/proc/self/fd/{memory}", size)
        try:
            done = subprocess.run(
                line,
                pass_fds=(memory,),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=MKFS_S,
                check=False,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            _refuse(f"mkfs.ext4 does not run: {error}", f"See what it says: {program} -V; {OFF}.")
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip()[-300:]
            _refuse(f"mkfs.ext4 exited {done.returncode}: {said}", f"apt-get install -y e2fsprogs, {OFF}.")
        return Blank(size=size, extents=tuple(_extents(memory)))


def _extents(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of a sparse file, without blocks of zeros."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data behind it
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        for offset in range(start, end, SMALLEST):
            data = os.pread(descriptor, min(SMALLEST, end - offset), offset)
            if data.strip(b"\0"):
                yield offset, data


def enter_namespace() -> None:
    """Give this process, while it has one thread, or this thread a mount namespace of its own.

    What the host mounts and unmounts later still shows; nothing that is mounted here shows to the host. Raises OSError.
    """
    if _libc.unshare(CLONE_NEWNS):
        raise _error("a mount namespace")
    if _libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None):
        raise _error("/")


def tried(folder: Path, limit: int) -> Blank:
    """A file system for `limit` bytes, after one was really mounted from the disk of `folder`.

    A thread mounts it in a namespace that ends with the thread, from a file without a name: nothing of it remains.
    Raises `BuildError` SandboxUnavailable with what is missing and what mends it.
    """
    if os.geteuid() != 0:
        _refuse("only root may mount", f"Run the worker as root, {OFF}.")
    blank = make_blank(limit)
    failures: list[BaseException] = []

    def trial() -> None:
        try:
            _try(blank, folder, limit)
        except BaseException as error:  # raised again in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=trial, name="fence-trial")
    thread.start()
    thread.join()
    if failures:
        if isinstance(failures[0], OSError):
            _refuse(f"{folder}: {failures[0].strerror}", f"Free {blank.size // MIB} MiB there, {OFF}.")
        raise failures[0]
    return blank


def _try(blank: Blank, folder: Path, limit: int) -> None:
    try:
        enter_namespace()
    except OSError as error:
        mend = f"Give the worker CAP_SYS_ADMIN (a privileged container has it), {OFF}."
        _refuse(f"no mount namespace can be made: {error.strerror}", mend)
    place = folder if folder != folder.parent else Path("/proc")  # nobody else is in this namespace
    with tempfile.TemporaryFile(dir=folder) as file:
        blank.mount(file.fileno(), place)
    try:
        left = room(place)
    finally:
        unmount(place)
    if left.below(limit, limit // SMALLEST):
        mend = f"apt-get install -y e2fsprogs, {OFF}."
        _refuse(f"mkfs.ext4 makes a file system that takes {left.bytes} of {limit} bytes", mend)


def unmount(folder: Path) -> None:
    """Detach what is mounted at a folder; a folder where nothing is remains as it is."""
    while _libc.umount2(os.fsencode(folder), MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
        pass


def _reserve(descriptor: int, size: int) -> None:
    """Take all blocks of a file from the disk's free ones. Raises OSError ENOSPC where there are too few.

    fallocate(2) would first take those that are left, and whatever else writes there would meet a full disk meanwhile.
    """
    space = os.fstatvfs(descriptor)
    if space.f_bavail * space.f_frsize < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "the file of a fence")
    if not _libc.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
        return
    error = _error("the file of a fence")
    if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        mend = f"Put node_dir on ext4 or XFS, {OFF}."
        _refuse("the file system of node_dir reserves no blocks for a file (fallocate)", mend)
    raise error


def _write(descriptor: int, offset: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _attached(descriptor: int) -> tuple[str, int]:
    """A loop device over a file: its path, and a descriptor that it lasts as long as.

    The descriptor is for reading: some kernels mount no device that anybody has open for writing.
    """
    tries = 0
    try:
        with _opened(CONTROL) as control:
            while True:
                tries += 1
                try:
                    return _configured(fcntl.ioctl(control, LOOP_CTL_GET_FREE), descriptor)
                except OSError as error:
                    if error.errno not in TAKEN or tries == MOST_TRIES:
                        raise
    except OSError as error:
        _refuse(f"{error.filename or CONTROL} cannot be used: {error.strerror}", _LOOP)


def _configured(number: int, descriptor: int) -> tuple[str, int]:
    device = _node_of(number)
    with _opened(device) as writing:
        fcntl.ioctl(writing, LOOP_CONFIGURE, loop_config(descriptor))
        return device, os.open(device, os.O_RDONLY | os.O_CLOEXEC)


_LOOP = f"modprobe loop; in a container pass {CONTROL} and allow its block devices 7:*, {OFF}."


def loop_config(descriptor: int) -> bytes:
    """The argument of LOOP_CONFIGURE: this file, whole, until nobody uses the device any more."""
    nothing = bytes(64)
    return LOOP_CONFIG.pack(
        descriptor, SMALLEST, 0, 0, 0, 0, 0, 0, 0, 0, LO_FLAGS_AUTOCLEAR, nothing, nothing, nothing[:32], 0, 0
    )


def _node_of(number: int) -> str:
    """The path of a loop device. Where /dev is none of the kernel's, a device that was just made has no node there."""
    device = f"/dev/loop{number}"
    if not os.path.exists(device):
        major, minor = Path(f"/sys/block/loop{number}/dev").read_text(encoding="ascii").split(":")
        with suppress(FileExistsError):
            os.mknod(device, stat.S_IFBLK | 0o600, os.makedev(int(major), int(minor)))
    return device


@contextmanager
def _opened(device: str) -> Iterator[int]:
    descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _mount(device: str, folder: Path) -> None:
    flags = ctypes.c_ulong(MOUNT_FLAGS)
    if not _libc.mount(device.encode(), os.fsencode(folder), b"ext4", flags, MOUNT_OPTIONS.encode()):
        return
    error = _error(device)
    mend = "modprobe ext4" if error.errno == errno.ENODEV else "`dmesg` names what the kernel refused"
    _refuse(f"{device} cannot be mounted: {error.strerror}", f"{mend}; {OFF}.")


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def _refuse(what: str, mend: str) -> NoReturn:
    raise BuildError("SandboxUnavailable", f"no disk fence: {what}", next=mend)
