"""The root as bubblewrap's arguments: which parts of an image are bound, which folders are made, what is always ours.

bubblewrap cannot make a mount point inside a read-only bind. So a folder of the image is bound whole, unless
something must appear below it that the image does not have: then the folder is made and its children are bound.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.errors import PlatformError
from builder.sandbox.shapes import Mount, Root

NEVER_FROM_IMAGE = frozenset({"/dev", "/proc", "/sys", "/tmp", "/work", "/cache"})
OUR_FOLDERS = ("/proc", "/dev", "/tmp")
OUR_FILES = frozenset({"/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf"})
"""Those of `identity_files`."""
OURS = NEVER_FROM_IMAGE | {"/etc"}
"""Where the image's own link never shows: a folder of ours is there."""
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
    """The same root with each mount's `dest` free of links, the image's own and those of other mounts, parents before
    children.

    Raises `PlatformError` SandboxUnavailable for a relative `dest`, a missing source, the host's `/` as image, or links
    that lead a mount round in circles, or into /proc, /dev or /sys.
    """
    if root.rootfs is not None and root.rootfs.resolve() == Path("/"):
        raise PlatformError("SandboxUnavailable", "the host's own / cannot be the sandbox's root")
    for mount in root.mounts:
        if not mount.dest.startswith("/") or ".." in PurePosixPath(mount.dest).parts:
            raise PlatformError("SandboxUnavailable", f"mount destination is not an absolute path: {mount.dest}")
        if not mount.source.exists():
            raise PlatformError("SandboxUnavailable", f"mount source is not there: {mount.source}")
    mounts = _led(root.rootfs, root.mounts)
    if any(once.dest != again.dest for once, again in zip(mounts, _led(root.rootfs, mounts), strict=True)):
        raise PlatformError("SandboxUnavailable", "the mounts of the sandbox lead each other elsewhere")
    return Root(rootfs=root.rootfs, mounts=mounts)


def _led(rootfs: Path | None, mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """The mounts where links lead each of them once those above it are there, sorted."""
    led: list[Mount] = []
    for mount in sorted(mounts, key=_depth):
        try:
            dest = resolve_inside(rootfs, mount.dest, led, OURS)
        except OSError as error:
            message = f"the links of the image lead nowhere at {mount.dest}: {os.strerror(error.errno or 0)}"
            raise PlatformError("SandboxUnavailable", message) from None
        if dest.split("/")[1] in KERNELS_OWN:
            raise PlatformError(
                "SandboxUnavailable", f"a mount at {mount.dest} is led to {dest}, which is the kernel's"
            )
        led.append(Mount(source=mount.source, dest=dest, writable=mount.writable))
    return tuple(sorted(led, key=_depth))


def _depth(mount: Mount) -> tuple[str, ...]:
    return PurePosixPath(mount.dest).parts


def resolve_inside(
    rootfs: Path | None, dest: str, mounts: Sequence[Mount] = (), ours: frozenset[str] = frozenset()
) -> str:
    """Where `dest` is once the links of the image's folders are followed, as a program inside would follow them, with
    `mounts` over the image (their own `dest` has no links), and folders of ours for links of it at `ours`.

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
        here = _on_host(rootfs, mounts, [*done, part], ours)
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


def _on_host(rootfs: Path | None, mounts: Sequence[Mount], parts: list[str], ours: frozenset[str]) -> Path | None:
    """What of this machine shows at a path inside; None for nothing, or for what is mounted at just that place."""
    place = "/" + "/".join(parts)
    over = [mount for mount in mounts if place == mount.dest or place.startswith(mount.dest.rstrip("/") + "/")]
    if over:
        last = max(over, key=lambda mount: len(mount.dest))
        rest = place.removeprefix(last.dest).lstrip("/")
        return last.source / rest if rest else None
    if rootfs is None:
        return None
    top = f"/{parts[0]}"
    is_ours = top in ours and (top in NEVER_FROM_IMAGE or (rootfs / parts[0]).is_symlink())
    return None if is_ours else rootfs.joinpath(*parts)


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
