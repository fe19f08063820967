"""The folder that a step of stubs made, stored write-once by the node for later builds with the same input.

The step runs code that a lock pins by hash, so its result is as hostile as that code, and is laid into no build but of
the same organization, lock, stubs, arguments, environment and toolchain. A build gets a copy: what its own code does to
it ends with the build. Where no step has to write it, as it is with sources that are unpacked, it is seen read-only.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from builder import sandbox
from builder.attempt.attempt import Attempt
from builder.attempt.downloads import named, shared, stubs_of
from builder.attempt.inside import folder_in
from builder.attempt.planned import Bound
from builder.attempt.steps import StepResult
from builder.attempt.verdict import FULL, LINE_LIMIT, broken_cache
from builder.key import digest_of
from builder.plan import Step
from builder.source import below

CACHE = "results"
LONGEST_PATH = 2048
"""The longest path of a folder, in bytes; the copy has another prefix, and both stay below PATH_MAX (4096)."""
DEEPEST = 100
"""Folders inside of each other; a copy has two descriptors open for each."""
PIECE = 1 << 26
PARTIAL = ".partial-"
_UNUSABLE = re.compile(
    r"(?i)read-only file system|permission denied|input/output error|structure needs cleaning|stale file handle"
)


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
        "files": {file.path: file.content for file in found.files} if found else {},
        **stubs_of(attempt, bound.plan),
    }
    place = shared(attempt, CACHE) / digest_of(parts)[7:]
    attempt.use(str(place.relative_to(attempt.node.folder)))
    return place


def lay(attempt: Attempt, step: Step, place: Path | None) -> bool:
    """Give a stored result to the later steps; false where there is none."""
    if place is None or not place.is_dir():
        return False
    if not show(attempt, step, place):
        _lay(attempt, step.result, place)
    return True


def show(attempt: Attempt, step: Step, place: Path | None) -> bool:
    """Let the later steps see a stored result, read-only; false where there is none, or nothing can be mounted."""
    if place is None or not (step.shown and place.is_dir()) or attempt.node.settings.unsandboxed:
        return False
    attempt.shown[step.result] = place
    return True


def copy_shown(attempt: Attempt) -> None:
    """Turn what is shown into copies, before a step that makes a result: code that a lock pins then runs as it did
    when nothing was stored yet, and may write beside its own files."""
    require_shown(attempt)
    while attempt.shown:
        _lay(attempt, *attempt.shown.popitem())


def require_shown(attempt: Attempt) -> None:
    """Raises `PlatformError` CacheUnavailable where what is shown is gone: another build found the caches broken."""
    if any(not place.is_dir() for place in attempt.shown.values()):
        raise broken_cache("what an earlier step had in a cache of this node is put aside")


def blames_shown(attempt: Attempt, result: StepResult) -> bool:
    """Whether a failed step names a reason that it would not have over a copy: that it may not write there, or that
    the node cannot read what it stored. A program may write such a line of its own: its step runs twice, no more."""
    if not attempt.shown or not result.exit_code or result.reason:
        return False
    return any(_UNUSABLE.search(line[:LINE_LIMIT]) for line in result.tail)


def _lay(attempt: Attempt, result: str, place: Path) -> None:
    """Copy a stored result into the work folder."""
    above, _, name = _inside(result).rpartition("/")
    with folder_in(attempt, above, make=True) as folder:
        sandbox.remove_in(folder, name)
        os.mkdir(name, 0o755, dir_fd=folder)
        with below.folder(place) as source, below.folder(folder, name) as target:
            _Copy(attempt, target, attempt.chown_to_build_user).all(source)
        attempt.chown_to_build_user(name, folder)


def store(attempt: Attempt, step: Step, place: Path | None) -> None:
    """Store the result of a step that ended well. The first of two builds has the name."""
    if place is None or place.is_dir():
        return
    with ExitStack() as stack:
        try:
            source = stack.enter_context(below.folder(attempt.work, _inside(step.result)))
        except OSError:  # there is none, or a link
            return
        if why := _unfit(attempt, source):
            attempt.log.system(f"warning: the result of {step.name} is not stored: {why}")
            return
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=place.parent))
        stack.callback(shutil.rmtree, partial, ignore_errors=True)
        (partial / "result").mkdir()
        (partial / "result").chmod(0o755)  # whatever the worker's umask: the build user reads what is shown
        try:
            with below.folder(partial / "result") as target:
                _Copy(attempt, target).all(source)
        except OSError as error:
            if error.errno not in FULL:
                raise
            attempt.log.system(f"warning: the result of {step.name} is not stored: {error.strerror}")
            return  # this build has it; whether the disk takes the rest of it shows soon
        try:
            (partial / "result").rename(place)
        except OSError:
            if not place.is_dir():
                raise


def _unfit(attempt: Attempt, source: int) -> str:
    """Why a copy of this tree would cost more than the step was allowed, or could not be made; "" for any other tree.

    The limit of a step counts blocks, and a copy writes what the holes of a file stand for.
    """
    left, seen = attempt.node.settings.disk_bytes, set[tuple[int, int]]()
    try:
        for one in below.walk(source):
            attempt.check()
            if len(os.fsencode(one.path)) > LONGEST_PATH or one.path.count("/") > DEEPEST:
                return "its folders are too deep"
            if not one.name:
                continue
            if stat.S_ISREG(one.mode):  # a step may leave a file that its own user, and so this node, may not read
                os.close(below.regular_file(one.folder, one.name))
            info = os.stat(one.name, dir_fd=one.folder, follow_symlinks=False)
            if (info.st_dev, info.st_ino) not in seen:
                left -= info.st_size
            if info.st_nlink > 1:
                seen.add((info.st_dev, info.st_ino))
            if left < 0:
                return "its files are larger than a step may make"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return ""


class _Copy:
    """Copies files, folders and links, files with their times; what is none of these is left out.

    A link is copied as its text, and nothing is opened through one, on either side. `made` gets the name of each and
    the descriptor of its folder, once it is whole.
    """

    def __init__(self, attempt: Attempt, target: int, made: Callable[[str, int], None] = lambda name, folder: None):
        self._attempt, self._top, self._made = attempt, target, made
        self._names: dict[tuple[int, int], str] = {}

    def all(self, source: int) -> None:
        """Copy what is in a folder, by its descriptor."""
        self._folder(source, self._top, "")

    def _folder(self, source: int, target: int, path: str) -> None:
        for name in os.listdir(source):
            self._attempt.check()
            mode = os.stat(name, dir_fd=source, follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                os.mkdir(name, 0o755, dir_fd=target)
                with below.folder(source, name) as inner, below.folder(target, name) as copy:
                    os.fchmod(copy, 0o755)
                    self._folder(inner, copy, f"{path}{name}/")
            elif stat.S_ISLNK(mode):
                os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
            elif stat.S_ISREG(mode):
                with open(below.regular_file(source, name), "rb", buffering=0) as file:
                    self._file(file.fileno(), target, path, name)
            else:
                continue
            self._made(name, target)

    def _file(self, file: int, target: int, path: str, name: str) -> None:
        info = os.fstat(file)
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and (twin := self._names.setdefault(key, path + name)) != path + name:
            above, _, twins = twin.rpartition("/")
            with below.folder(self._top, above) as folder:
                os.link(twins, name, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False)
            return
        with open(os.open(name, below.NEW, 0o600, dir_fd=target), "wb", buffering=0) as out:
            while os.sendfile(out.fileno(), file, None, PIECE):
                self._attempt.check()
            os.fchmod(out.fileno(), 0o755 if info.st_mode & 0o111 else 0o644)
            os.utime(out.fileno(), ns=(info.st_mtime_ns, info.st_mtime_ns))


def _inside(result: str) -> str:
    """Where a result is below /work."""
    return result.removeprefix("/work/")
