"""The root as bubblewrap's arguments: which parts of an image are bound, which folders are made, what is always ours.

bubblewrap cannot make a mount point inside a read-only bind. So a folder of the image is bound whole, unless
something must appear below it that the image does not have: then the folder is made and its children are bound.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from builder.errors import PlatformError
from builder.sandbox.shapes import Mount, Root

NEVER_FROM_IMAGE = frozenset({"/dev", "/proc", "/sys", "/tmp", "/work", "/cache"})
OUR_FOLDERS = ("/proc", "/dev", "/tmp")
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

    Raises `PlatformError` SandboxUnavailable for a relative `dest`, a missing source, or the host's `/` as image.
    """
    if root.rootfs is not None and root.rootfs.resolve() == Path("/"):
        raise PlatformError("SandboxUnavailable", "the host's own / cannot be the sandbox's root")
    mounts = []
    for mount in root.mounts:
        if not mount.dest.startswith("/") or ".." in PurePosixPath(mount.dest).parts:
            raise PlatformError("SandboxUnavailable", f"mount destination is not an absolute path: {mount.dest}")
        if not mount.source.exists():
            raise PlatformError("SandboxUnavailable", f"mount source is not there: {mount.source}")
        dest = resolve_inside(root.rootfs, mount.dest)
        mounts.append(Mount(source=mount.source, dest=dest, writable=mount.writable))
    mounts.sort(key=lambda mount: PurePosixPath(mount.dest).parts)
    return Root(rootfs=root.rootfs, mounts=tuple(mounts))


def resolve_inside(rootfs: Path | None, dest: str) -> str:
    """Where `dest` is once the links of the image's folders are followed, as a program inside would follow them."""
    waiting = [part for part in dest.split("/") if part not in ("", ".")]
    done: list[str] = []
    links = 0
    while waiting:
        part = waiting.pop(0)
        if part == "..":
            done = done[:-1]
            continue
        here = None if rootfs is None else rootfs.joinpath(*done, part)
        if here is not None and here.is_symlink() and links < MAX_LINKS:
            links += 1
            target = os.readlink(here)
            done = [] if target.startswith("/") else done
            waiting = [piece for piece in target.split("/") if piece not in ("", ".")] + waiting
        else:
            done.append(part)
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
        missing = PurePosixPath(point)
        if _is_plain(rootfs / point.lstrip("/")):
            continue
        for parent in missing.parents:
            opened.add(str(parent))
    return frozenset(opened)


def _is_plain(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return False
    return stat.S_ISDIR(mode) or stat.S_ISREG(mode)


def _children(rootfs: Path, folder: str, opened: frozenset[str], points: frozenset[str]) -> Iterable[Bound]:
    host = rootfs / folder.lstrip("/")
    if not host.is_dir() or host.is_symlink():
        return
    for entry in sorted(os.scandir(host), key=lambda entry: entry.name):
        dest = folder.rstrip("/") + "/" + entry.name
        if dest in NEVER_FROM_IMAGE or (dest in points and dest not in opened):
            continue
        if dest in opened and entry.is_dir(follow_symlinks=False):
            yield Bound(kind="dir", dest=dest)
            yield from _children(rootfs, dest, opened, points)
        elif entry.is_symlink():
            yield Bound(kind="link", dest=dest, source=os.readlink(entry.path))
        else:
            yield Bound(kind="bind", dest=dest, source=entry.path)
