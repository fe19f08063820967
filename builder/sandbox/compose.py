"""The root as bubblewrap's arguments: which parts of an image are bound, which folders are made, what is always ours.

bubblewrap cannot make a mount point inside a read-only bind. So a folder of the image is bound whole, unless
something must appear below it that the image does not have: then the folder is made and its children are bound.

Each bind costs bubblewrap a quarter of a millisecond: a mount, a look at the table of all mounts, a second mount. So
what is small is made anew in the root, which is read-only in the end: folders and links with all that they have, and in
/etc files, by a copy. A copy has the bytes and the mode of the image's file; its time is now, and it is the build
user's, where a bind shows nobody's. Nobody may do more by that: only what an owner and all others may read and execute
alike is made anew. Programs of /usr, an app's own files and whatever else has a time that may matter are bound.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
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
LARGEST_COPY = 128 * 1024
"""Bytes of a file; a larger one is bound."""
NEVER_SMALL = frozenset({"/usr", "/var"})
"""What is not looked into, since hardly an image has it small."""
MOST_OF_A_FOLDER = 8
"""Folders, links and files that a folder is made anew from, itself counted."""
MOST_MADE_ANEW = 32
"""Folders, links and files of an image: a file takes a descriptor, and each takes arguments."""
READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file of an image is opened: a link in its place is not followed, a pipe in its place not waited for."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """One argument group of the root, lowest first: `kind` is "dir", "link", "copy" or "bind"; `mode` is that of what
    is made."""

    kind: str
    dest: str
    source: str = ""
    mode: int = 0o755

    def arguments(self, copied: int | None = None) -> tuple[str, ...]:
        """`copied`: the descriptor that a copy is read from; without one the file is bound."""
        if self.kind == "dir":
            return ("--perms", f"{self.mode:04o}", "--dir", self.dest)
        if self.kind == "link":
            return ("--symlink", self.source, self.dest)
        if self.kind == "copy" and copied is not None:
            return ("--perms", f"{self.mode:04o}", "--file", str(copied), self.dest)
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
    return tuple(_Parts(rootfs, points).below("/"))


def descriptors(bound: Iterable[Bound], stack: ExitStack) -> Mapping[str, int]:
    """What the copies are read from, by their `dest`, closed with `stack`. Left out, and so bound, is a file that we
    may not read or that is no longer what it was, and one in the upper half of the descriptors that we may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found: dict[str, int] = {}
    for part in bound:
        if part.kind != "copy":
            continue
        with contextlib.suppress(OSError), ExitStack() as held:
            fd = os.open(part.source, READING)
            held.callback(os.close, fd)
            same = _copied(part.dest, os.fstat(fd)) == part.mode
            if same and (most == resource.RLIM_INFINITY or fd < most // 2):
                found[part.dest] = fd
                stack.push(held.pop_all())
    return found


def _opened(rootfs: Path, points: frozenset[str]) -> frozenset[str]:
    """Folders that cannot be bound whole."""
    opened = {"/"}
    for point in points:
        if not _is_plain(rootfs, point):
            parts = point.split("/")
            opened.update("/".join(parts[:end]) for end in range(2, len(parts)))
    return frozenset(opened)


def _is_plain(rootfs: Path, point: str) -> bool:
    """Whether the image has at `point` what can be mounted over, and folders above it. A link above it would lead
    whoever looks here, and bubblewrap, to a place of this machine."""
    path = str(rootfs)
    mode = stat.S_IFDIR
    for part in point.split("/")[1:]:
        path += f"/{part}"
        try:
            above, mode = mode, os.lstat(path).st_mode
        except OSError:
            return False
        if not stat.S_ISDIR(above):
            return False
    return stat.S_ISREG(mode) or (stat.S_ISDIR(mode) and point not in OUR_FILES)


class _Parts:
    """The parts of an image where something is mounted at `points`."""

    def __init__(self, rootfs: Path, points: frozenset[str]) -> None:
        self._rootfs, self._points = rootfs, points
        self._opened = _opened(rootfs, points)
        self._room = MOST_MADE_ANEW

    def below(self, folder: str) -> Iterable[Bound]:
        """The parts below a folder that is one of the image. What is opened is a folder of ours, whatever the image has
        there: through a link of it bubblewrap would lay what comes below it elsewhere."""
        for entry in sorted(os.scandir(self._rootfs / folder.lstrip("/")), key=lambda entry: entry.name):
            dest = folder.rstrip("/") + "/" + entry.name
            if dest in NEVER_FROM_IMAGE or (dest in self._points and dest not in self._opened):
                continue
            if dest in self._opened:
                yield Bound(kind="dir", dest=dest)
                if entry.is_dir(follow_symlinks=False):
                    yield from self.below(dest)
            elif entry.is_symlink():
                yield Bound(kind="link", dest=dest, source=os.readlink(entry.path))
            else:
                anew = () if dest in NEVER_SMALL else self._anew(entry, dest)
                self._room -= len(anew)
                yield from anew or (Bound(kind="bind", dest=dest, source=entry.path),)

    def _anew(self, entry: os.DirEntry[str], dest: str) -> Sequence[Bound]:
        """All of a small entry, folders before what they have; nothing of one that is to be bound."""
        most = min(self._room, MOST_OF_A_FOLDER)
        parts: list[Bound] = []
        waiting = [(entry, dest)]
        try:
            while waiting:
                if len(parts) + len(waiting) > most:
                    return ()
                entry, dest = waiting.pop()
                part = _made(entry, dest)
                if part is None:
                    return ()
                parts.append(part)
                if part.kind == "dir":
                    with os.scandir(entry.path) as inside:
                        found = {f"{dest}/{each.name}": each for each in islice(inside, most + len(self._points))}
                    waiting += [(found[each], each) for each in sorted(found.keys() - self._points, reverse=True)]
        except OSError:  # the build user may look where we may not
            return ()
        return parts


def _made(entry: os.DirEntry[str], dest: str) -> Bound | None:
    """An entry by itself, made anew; None for one that is to be bound."""
    if entry.is_symlink():
        return Bound(kind="link", dest=dest, source=os.readlink(entry.path))
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        mode = stat.S_IMODE(status.st_mode)
        wanted = _is_alike(mode) and not mode & (stat.S_ISUID | stat.S_ISGID)  # mkdir(2) makes none of these
        return Bound(kind="dir", dest=dest, mode=mode) if wanted else None
    copied = _copied(dest, status)
    return None if copied is None else Bound(kind="copy", dest=dest, source=entry.path, mode=copied)


def _copied(dest: str, status: os.stat_result) -> int | None:
    """The mode of the copy that stands for a file; None for one that is to be bound."""
    mode = stat.S_IMODE(status.st_mode)
    small = stat.S_ISREG(status.st_mode) and status.st_size <= LARGEST_COPY
    plain = mode & stat.S_IROTH and _is_alike(mode) and mode <= 0o777
    return mode if small and plain and dest.startswith("/etc/") else None


def _is_alike(mode: int) -> bool:
    """Whether an owner may read and execute what all others may."""
    return (mode >> 6) & 0o5 == mode & 0o5
