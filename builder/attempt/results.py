"""The folder that a step of stubs made, stored write-once by the node for later builds with the same input.

The step runs code that a lock pins by hash, so its result is as hostile as that code, and is laid into no build but of
the same organization, lock, stubs, arguments, environment and toolchain. A build gets a copy: what its own code does to
it ends with the build.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from builder import sandbox
from builder.attempt.attempt import Attempt
from builder.attempt.downloads import named, shared, stubs_of
from builder.attempt.planned import Bound
from builder.key import digest_of
from builder.plan import Step

CACHE = "results"
LONGEST_PATH = 2048
"""The longest path of a folder, in bytes; the copy has another prefix, and both stay below PATH_MAX (4096)."""
PARTIAL = ".partial-"


def place_of(attempt: Attempt, bound: Bound, step: Step) -> Path | None:
    """Where the node stores the result of a step; None for one without. Computed before the step runs, which may change
    what it was computed from."""
    if not step.result:
        return None
    found = named(attempt, bound.plan)
    parts = {
        "digests": dict(bound.toolchain.digests),
        "argv": step.argv,
        "env": step.env,
        "cwd": step.cwd,
        "caches": [cache.name for cache in step.caches],
        "downloads": sorted(f"{one.path} {one.digest}" for one in found.wanted) if found else [],
        **stubs_of(attempt, bound.plan),
    }
    place = shared(attempt, CACHE) / digest_of(parts)[7:]
    attempt.use(str(place.relative_to(attempt.node.folder)))
    return place


def lay(attempt: Attempt, step: Step, place: Path | None) -> bool:
    """Copy a stored result into the work folder; false where there is none."""
    if place is None or not place.is_dir():
        return False
    target = _target(attempt, step)
    sandbox.remove_tree(target)
    for made in _copied(attempt, place, target):
        attempt.chown_to_build_user(made)
    return True


def store(attempt: Attempt, step: Step, place: Path | None) -> None:
    """Store the result of a step that ended well. The first of two builds has the name."""
    source = _target(attempt, step)
    if place is None or place.is_dir() or source.is_symlink() or not source.is_dir():
        return
    if why := _unfit(attempt, source):
        attempt.log.system(f"warning: the result of {step.name} is not stored: {why}")
        return
    partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=place.parent))
    try:
        for _ in _copied(attempt, source, partial / "result"):
            pass
        try:
            (partial / "result").rename(place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unfit(attempt: Attempt, source: Path) -> str:
    """Why a copy of this tree would cost more than the step was allowed, or could not be made; "" for any other tree.

    The limit of a step counts blocks, and a copy writes what the holes of a file stand for.
    """
    left, seen = attempt.node.settings.disk_bytes, set[tuple[int, int]]()
    try:
        for folder, _, files in os.walk(source, onerror=_raise):
            attempt.check()
            if len(os.fsencode(folder)) > LONGEST_PATH:
                return "its folders are too deep"
            for name in files:
                info = Path(folder, name).lstat()
                if (info.st_dev, info.st_ino) not in seen:
                    left -= info.st_size
                if info.st_nlink > 1:
                    seen.add((info.st_dev, info.st_ino))
            if left < 0:
                return "its files are larger than a step may make"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


def _raise(error: OSError) -> None:
    raise error


def _copied(attempt: Attempt, source: Path, target: Path) -> Iterator[Path]:
    """Copy files, folders and links with their times; what is none of these is left out. No process of the step lives.

    A link is copied as its text, and nothing is opened through one.
    """
    names: dict[tuple[int, int], Path] = {}
    for folder, folders, files in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(mode=0o755)
        for name in (*files, *folders):
            attempt.check()
            path, copy = Path(folder, name), here / name
            info = path.lstat()
            if stat.S_ISLNK(info.st_mode):
                copy.symlink_to(os.readlink(path))
                yield copy
            elif stat.S_ISREG(info.st_mode):
                twin = names.setdefault((info.st_dev, info.st_ino), copy) if info.st_nlink > 1 else copy
                if twin != copy:
                    os.link(twin, copy)
                else:
                    shutil.copyfile(path, copy, follow_symlinks=False)
                    copy.chmod(0o755 if info.st_mode & 0o111 else 0o644)
                    os.utime(copy, ns=(info.st_mtime_ns, info.st_mtime_ns))
                yield copy
        yield here


def _target(attempt: Attempt, step: Step) -> Path:
    return attempt.work / step.result.removeprefix("/work/")
