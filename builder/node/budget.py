"""The disk budget of a node: bases, toolchains and caches beyond it go, least recently used first.

Removed are caches of an organization, unpacked roots, copies of toolchains and toolchain images, never what a running
build uses (`attempt/uses.py`), and never the image that a base's name points at: bases are small, and without one the
node builds nothing of its runtime. What was removed is fetched, unpacked or compiled again by the build that needs it;
a toolchain image by `runtimes fetch`.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.attempt import results as results_of
from builder.attempt.uses import lock_file, unused, used_at
from builder.images.store import images_of, toolchain_images_of
from builder.logs import logger
from builder.sandbox import remove_tree
from builder.settings import Settings

log = logger("node")
EVICTED = ".evicted-"
PARTIAL = ("bases/rootfs/.partial-*", "toolchains/.partial-*", "components/.partial-*", "caches/*/*/.partial-*")
"""What is made under such a name is renamed when it is whole; a process that was killed leaves it."""
ABANDONED_S = 24 * 3600.0
"""Nothing takes so long to make."""
YOUNG_S = 3600.0
"""What no name points at is younger than this when somebody stores it right now: a blob, a partial result."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What goes as a whole: a folder, or the toolchain image `image`. `name` is that of `attempt/uses.py`."""

    name: str
    path: Path
    bytes: int
    used_at: float
    image: str = ""


def within_budget(settings: Settings) -> tuple[str, ...]:
    """Remove what is beyond `node_disk_bytes`; the names of the units that went. One process at a time looks."""
    node_dir = Path(settings.node_dir)
    if not settings.node_disk_bytes or not node_dir.is_dir():
        return ()
    with lock_file(node_dir, ".budget").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return ()
        _finish(node_dir)
        return tuple(_evict(settings, node_dir))


def _evict(settings: Settings, node_dir: Path) -> Iterator[str]:
    units = sorted(_units(node_dir), key=lambda unit: (unit.used_at, bool(unit.image), unit.name))
    layout = node_dir / "bases/layout"
    folders = sum(unit.bytes for unit in units if not unit.image)
    if folders + _bytes(layout) <= settings.node_disk_bytes:
        return
    images = images_of(node_dir)
    images.collect(_in_use(node_dir), YOUNG_S)  # what no name points at any more
    beyond = folders + _bytes(layout) - settings.node_disk_bytes
    for unit in units:
        if beyond <= 0:
            return
        aside = unit.path.with_name(f"{EVICTED}{unit.path.name}.{os.getpid()}")
        with unused(node_dir, unit.name) as free:
            try:
                if not free:
                    continue
                if unit.image:
                    toolchain_images_of(node_dir).remove(unit.image)
                else:
                    unit.path.rename(aside)
            except OSError as error:  # its owner put it aside meanwhile
                log.warning("not evicted", action="evict-failed", unit=unit.name, error=repr(error))
                continue
        if unit.image:
            images.collect(_in_use(node_dir), YOUNG_S)
        else:
            remove_tree(aside)
        beyond -= unit.bytes
        log.info("evicted", action="evicted", unit=unit.image or unit.name, bytes=unit.bytes)
        yield unit.image or unit.name


def _units(node_dir: Path) -> Iterator[Unit]:
    results = f"*/{results_of.CACHE}"
    for kind, pattern in (("caches", "*/*"), ("caches", f"{results}/*"), ("roots", "*"), ("toolchains", "*")):
        folder = node_dir / "bases/rootfs" if kind == "roots" else node_dir / kind
        for path in sorted(folder.glob(pattern)):
            if any(part.startswith(".") for part in path.relative_to(folder).parts) or not path.is_dir():
                continue
            if pattern == "*/*" and path.match(results):
                continue  # each result goes by itself
            name = f"{kind}/{path.relative_to(folder)}"
            yield Unit(name=name, path=path, bytes=_bytes(path), used_at=_used_at(node_dir, name, path))
    images = toolchain_images_of(node_dir)
    for image in images.names():
        found = images.get(image)
        if found is not None:
            name = f"images/{found.digest}"
            path = found.layers[0].path if found.layers else node_dir
            yield Unit(
                name=name,
                path=path,
                bytes=sum(layer.size for layer in found.layers),
                used_at=_used_at(node_dir, name, path),
                image=image,
            )


def _used_at(node_dir: Path, name: str, path: Path) -> float:
    """The last use; of what no build has used yet the time at which it was made."""
    return used_at(node_dir, name) or path.stat().st_ctime


def _in_use(node_dir: Path) -> Iterator[str]:
    """Digests of images that a running build uses."""
    for path in sorted((node_dir / "uses").glob("images%2F*")):
        digest = path.name.removeprefix("images%2F").replace("%3A", ":")
        with unused(node_dir, f"images/{digest}") as free:
            if not free:
                yield digest


def _finish(node_dir: Path) -> None:
    """Remove what a process that ended put aside, or made in part."""
    results = f"caches/*/{results_of.CACHE}"
    for parent in ("caches/*", results, "bases/rootfs", "toolchains"):
        for path in node_dir.glob(f"{parent}/{EVICTED}*"):
            remove_tree(path)
    for pattern, age_s in (*((each, ABANDONED_S) for each in PARTIAL), (f"{results}/{results_of.PARTIAL}*", YOUNG_S)):
        for path in node_dir.glob(pattern):
            with suppress(FileNotFoundError):  # whoever makes it renames it
                if path.lstat().st_mtime < time.time() - age_s:
                    remove_tree(path)


def _bytes(folder: Path) -> int:
    """What a tree takes on the disk; a file of several names counts once."""
    total, seen, waiting = 0, set[tuple[int, int]](), [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(info.st_mode):
                        waiting.append(entry.path)
                    if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                        if (info.st_dev, info.st_ino) in seen:
                            continue
                        seen.add((info.st_dev, info.st_ino))
                    total += info.st_blocks * 512
    return total
