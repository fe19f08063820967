"""The root as bubblewrap's arguments: which parts of an image are bound, which folders are made, what is always ours.

bubblewrap cannot make a mount point inside a read-only bind. So a folder of the image is bound whole, unless
something must appear below it that the image does not have: then the folder is made and its children are bound.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.errors import PlatformError
from builder.sandbox.shapes import Mount, Root

NEVER_FROM_IMAGE = frozenset({"/dev", "/proc", "/sys", "/tmp", "/work", "/cache"})
OUR_FOLDERS = ("/proc", "/dev", "/tmp")
OUR_FILES = frozenset({"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf"})
"""Those of `identity_files`."""
KERNELS_OWN = frozenset({"dev", "proc", "sys"})
"""What is there is the kernel's: links of /proc lead out of whatever root they are followed in."""
MAX_LINKS = 40


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One argument group of the root, lowest first: `kind` is "dir", "link" or "bind"."""

    kind: str
    dest: str
    source: str = ""

    def arguments(self) -> tuple[str, ...]:
        if self.kind == "dir":
            return ("--dir", self.dest)
        if self.kind == "link":
            return ("--symlink", self.source, self.dest)
        return ("--ro-bind", self.source, self.dest)


def identity_files(uid: int, gid: int, home: str = "/work/home") -> Mapping[str, bytes]:
    """The files of /etc that are ours, so that nothing of the host's names, users or resolvers shows."""
    plain = home if home.isprintable() and ":" not in home else "/"
    return {
        "/etc/passwd": f"root:x:0:0::/:/bin/sh\nbuild:x:{uid}:{gid}::{plain}:/bin/sh\n".encode(),
        "/etc/group": f"root:x:0:\nbuild:x:{gid}:\n".encode(),
        "/etc/hosts": b"127.0.0.1 localhost ignite\n::1 localhost ignite\n",
        "/etc/resolv.conf": b"",
    }


def settled(root: Root) -> Root:
    """The same root with each mount's `dest` free of the image's own links, parents before children.

    Raises `PlatformError` SandboxUnavailable for a relative `dest`, a missing source, the host's `/` as image, or links
    of the image that lead a mount round in circles or into /proc, /dev or /sys.
    """
    if root.rootfs is not None and root.rootfs.resolve() == Path("/"):
        raise PlatformError("SandboxUnavailable", "the host's own / cannot be the sandbox's root")
    mounts = []
    for mount in root.mounts:
        if not mount.dest.startswith("/") or ".." in PurePosixPath(mount.dest).parts:
            raise PlatformError("SandboxUnavailable", f"mount destination is not an absolute path: {mount.dest}")
        if not mount.source.exists():
            raise PlatformError("SandboxUnavailable", f"mount source is not there: {mount.source}")
        try:
            dest = resolve_inside(root.rootfs, mount.dest)
        except OSError as error:
            message = f"the links of the image lead nowhere at {mount.dest}: {os.strerror(error.errno or 0)}"
            raise PlatformError("SandboxUnavailable", message) from None
        if dest.split("/")[1] in KERNELS_OWN:
            raise PlatformError(
                "SandboxUnavailable", f"a mount at {mount.dest} is led to {dest}, which is the kernel's"
            )
        mounts.append(Mount(source=mount.source, dest=dest, writable=mount.writable))
    mounts.sort(key=lambda mount: PurePosixPath(mount.dest).parts)
    return Root(rootfs=root.rootfs, mounts=tuple(mounts))


def resolve_inside(rootfs: Path | None, dest: str) -> str:
    """Where `dest` is once the links of the image's folders are followed, as a program inside would follow them.

    No part of the answer is a link. Raises `OSError` ELOOP for more than `MAX_LINKS`, as the kernel does, and whatever
    else looking at one raises (a name that is too long).
    """
    waiting = [part for part in dest.split("/") if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = None if rootfs is None else rootfs.joinpath(*done, part)
        if here is None or not here.is_symlink():
            done.append(part)
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), dest)
        target = os.readlink(here)
        done = [] if target.startswith("/") else done
        waiting = [piece for piece in target.split("/") if piece not in ("", ".")] + waiting
    return "/" + "/".join(done)


def layers(rootfs: Path | None, needed: Iterable[str]) -> tuple[Bound, ...]:
    """How the image becomes `/` so that every path of `needed` can be a mount point. Reads the image's folders."""
    if rootfs is None:
        return ()
    points = frozenset(needed)
    opened = _opened(rootfs, points)
    return tuple(_children(rootfs, "/", opened, points))


def _opened(rootfs: Path, points: frozenset[str]) -> frozenset[str]:
    """Folders that cannot be bound whole."""
    opened = {"/"}
    for point in points:
        if not _is_plain(rootfs, point):
            opened.update(map(str, PurePosixPath(point).parents))
    return frozenset(opened)


def _is_plain(rootfs: Path, point: str) -> bool:
    """Whether the image has at `point` what can be mounted over, and folders above it. A link above it would lead
    whoever looks here, and bubblewrap, to a place of this machine."""
    path = rootfs
    mode = stat.S_IFDIR
    for part in PurePosixPath(point).parts[1:]:
        path /= part
        try:
            above, mode = mode, path.lstat().st_mode
        except OSError:
            return False
        if not stat.S_ISDIR(above):
            return False
    return stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and point not in OUR_FILES)


def _children(rootfs: Path, folder: str, opened: frozenset[str], points: frozenset[str]) -> Iterable[Bound]:
    """The parts below a folder that is one of the image. What is opened is a folder of ours, whatever the image has
    there: through a link of it bubblewrap would lay what comes below it elsewhere."""
    for entry in sorted(os.scandir(rootfs / folder.lstrip("/")), key=lambda entry: entry.name):
        dest = folder.rstrip("/") + "/" + entry.name
        if dest in NEVER_FROM_IMAGE or (dest in points and dest not in opened):
            continue
        if dest in opened:
            yield Bound(kind="dir", dest=dest)
            if entry.is_dir(follow_symlinks=False):
                yield from _children(rootfs, dest, opened, points)
        elif entry.is_symlink():
            yield Bound(kind="link", dest=dest, source=os.readlink(entry.path))
        else:
            yield Bound(kind="bind", dest=dest, source=entry.path)
