"""Whose fault it is: trouble of this node's disk and caches is never the user's, a host that policy refuses never ours.

Two questions, each asked in one place of the line: what an error that is no `BuildError` means (`of_error`), and what a
failed step means before its output is read (`of_step`). Whether a full disk ended git is asked where git runs
(`of_room`), and whether a limit of this machine ended anything at the end of the line (`of_limit`).
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from builder.attempt.attempt import DISCARDED, Attempt
from builder.claims.outcome import Outcome
from builder.errors import BuildError, ErrorClass, PlatformError, limit_of
from builder.pipelines.base import Manifested
from builder.pipelines.private import PORT
from builder.plan import Diagnosis, Plan, Step
from builder.sandbox import Room, room
from builder.source.tree import DirTree

if TYPE_CHECKING:
    from builder.attempt.steps import StepResult

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EUCLEAN, errno.ESTALE})
NOTHING_LEFT = (1024 * 1024, 64)
"""Bytes and inodes. Where less was left, a failed step need not name it: a tool may die of it in silence."""
NEARLY = 2
"""Part of a limit, one in so many: less is left where a tool names a full disk. It removes what it did not finish."""
LINE_LIMIT = 2000
SEARCH_LIMIT = 4 * 1024 * 1024

_FULL = re.compile(
    r"no space left on device|disk quota exceeded|\bENOSPC\b|\bEDQUOT\b|os error (?:28|122)\b|errno (?:28|122)\b",
    re.IGNORECASE,
)
_IN_CACHE = re.compile(r"(?<![\w.@+~-])/cache/")
"""A cache of the sandbox; a folder `cache` in what was downloaded is none."""
_OF_SOURCE = re.compile(r":[0-9]{1,9}(?::[0-9]{1,9})?: ")
"""What a compiler says of a line. Go takes the name of its file from the source, which may write any (`//line`)."""
_BROKEN = re.compile(
    r"input/output error|permission denied|read-only file system|structure needs cleaning|stale file handle|"
    r"not a directory|is a directory|os error (?:5|13|20|21|30|116|117)\b|not a valid zip file|unexpected eof|"
    r"failed to deserialize|invalid zip|bad magic|corrupt",
    re.IGNORECASE,
)


def of_error(attempt: Attempt, error: Exception) -> BuildError | None:
    """The reason of a disk, a cache or a limit that ended our own code; None for any other error.

    Nothing here recurses but readers of the source, so an end of the stack is the source's.
    """
    for each in _chain(error):
        if isinstance(each, RecursionError):
            return BuildError("ManifestInvalid", "a file of the source is nested too deeply to be read")
        if limit := limit_of(each):
            return limit
        if not isinstance(each, OSError):
            continue
        if each.errno in FULL or (isinstance(each, shutil.Error) and _FULL.search(str(each)[:LINE_LIMIT])):
            return _full(attempt, "a file of the build could not be written")
        if each.errno in BROKEN and _in_caches(attempt, each):
            discard_caches(attempt)
            return broken_cache(f"a cache of this node cannot be used: {each.strerror}")
    return None


def of_fault(attempt: Attempt, error: Exception) -> Outcome:
    """The outcome of an error that is no `BuildError`: a fault of the builder or of its node, never the user's."""
    if known := of_error(attempt, error):
        known.phase = attempt.log.phase_name
        return Outcome(failure=known, unexpected=repr(error))
    why = f" ({os.strerror(error.errno)})" if isinstance(error, OSError) and error.errno else ""  # the kernel's words
    message = f"{type(error).__name__}{why} in the builder; the worker's own log has the trace"
    return Outcome(failure=BuildError("Internal", message), unexpected=repr(error))


def of_limit(error: BuildError) -> BuildError:
    """The same error, or the limit of this process or machine that ended what it is of: whoever met it first has the
    kernel's words, or a reason of their own."""
    found = [limit for each in _chain(error) if (limit := limit_of(each))]
    if not found or error.error_class is not ErrorClass.PLATFORM:
        return error
    found[0].phase = error.phase
    return found[0]


def of_sandbox(attempt: Attempt, error: PlatformError) -> PlatformError:
    """The same error, or that of a cache which cannot be mounted: its path is in the words of whoever mounts it."""
    if error.reason == "SandboxUnavailable" and f"{caches_of(attempt)}/" in error.message and discard_caches(attempt):
        return broken_cache(f"a cache of this node cannot be mounted: {error.message[:LINE_LIMIT]}")
    return error


def of_step(attempt: Attempt, step: Step, result: StepResult) -> BuildError | None:
    """The reason of a failed step that this node's disk or caches made fail; None where its own output decides."""
    lines = [line[:LINE_LIMIT] for line in result.tail]
    if full := of_room(attempt, f"step {step.name}", result.exit_code, result.room, lines):
        return full
    if closed := _closed(step, result):
        message = f"{closed} is not a public host, and private modules are there"
        hint = "Name a host with a public address, or ask the operator to list it in git_hosts."
        return BuildError("GitUrlRefused", message, where="buildArgs.private", next=hint)
    ours = step.caches and not step.runs_source  # what code of the source prints proves nothing about a cache
    about = [line for line in lines if _IN_CACHE.search(line) and not _OF_SOURCE.search(line)] if ours else []
    broken = next((line for line in about if _BROKEN.search(line)), "")
    if broken and discard_caches(attempt):
        return broken_cache(f"step {step.name} could not use a cache of this node: {broken.strip()[:200]}", (broken,))
    return None


def _closed(step: Step, result: StepResult) -> str:
    """A host of private modules that the egress policy refused: its name alone was allowed, its address was not."""
    names = {f"{host}:{PORT}" for host in step.private.hosts} if step.private else set()
    return next((one for one in result.refused if one in names), "")


def of_room(attempt: Attempt, what: str, exit_code: int, left: Room | None, lines: Sequence[str]) -> BuildError | None:
    """The reason of a command that failed where its disk was full: the node, or with a fence the build's own limit.

    `left` is the least that the file system of the work folder had left. `lines`, which the command wrote, count where
    little was left alone.
    """
    said = next((line for line in (each[:LINE_LIMIT] for each in lines) if _FULL.search(line)), "")
    settings = attempt.node.settings
    own = left if attempt.fence is not None else None
    node = left if attempt.fence is None else _room_of_node(attempt)
    if own is not None and is_full(own, node):
        return _quota(attempt, what, exit_code, said)
    floor = (settings.node_free_bytes, settings.node_free_inodes)
    if node is not None and (node.below(*NOTHING_LEFT) or (said and node.below(*floor))):
        return _full(attempt, f"{what} exited {exit_code}", node, said)
    if own is not None and said and own.below(settings.disk_bytes // NEARLY, NOTHING_LEFT[1]):
        return _quota(attempt, what, exit_code, said)
    return None


def is_full(own: Room, node: Room | None) -> bool:
    """Whether the file system of a build is full, and not the disk of the node, which has its file."""
    return own.below(*NOTHING_LEFT) and not (node is not None and node.below(*NOTHING_LEFT))


def of_full(attempt: Attempt, error: BuildError) -> BuildError:
    """A disk that was full beneath our own code, where it is the build's own: its limit, and never the node."""
    if attempt.fence is None or error.reason != "NodeDiskFull":
        return error
    try:
        own = room(attempt.fence)
    except OSError:
        return error
    if not is_full(own, _room_of_node(attempt)):
        return error
    quota = _quota(attempt, "what it writes", error.exit_code)
    quota.phase = error.phase
    return quota


def of_refused(attempt: Attempt, plan: Plan, result: StepResult, found: Diagnosis) -> BuildError | None:
    """The reason of a step whose connection the egress policy refused, where its output names nothing better.

    A refusal stays one however often it is tried, so it is never retried.
    """
    if not result.refused or found.reason not in ("StepFailed", "PackageIndexUnavailable"):
        return None
    tree = DirTree(attempt.source)
    pipeline = next((one for one in attempt.node.known if plan.detection.runtime == one.NAME), None)
    manifests = pipeline.MANIFESTS if isinstance(pipeline, Manifested) else ()
    names = tuple(dict.fromkeys((*plan.materials, *manifests)))
    for host, where in ((one, where) for one in result.refused if (where := _named(tree, names, one))):
        message = f"{where} leads to {host}, which is none of the package indexes of this builder"
        next_step = "Take the package by name and version from a configured index, or ask the operator for this host."
        break
    else:
        host, where = result.refused[0], ""
        message = f"{host} was refused: it is none of the package indexes of this builder, and no manifest names it"
        next_step = "An index led there. An operator names an index that serves its files itself: index_env."
        if any(step.private for step in plan.steps):
            name = host.removesuffix(f":{PORT}")
            message = f"{host} was refused: it is no package index of this builder, and private does not name it"
            where, next_step = "buildArgs.private", f"If private modules are there, add it: private=...,{name}"
            if ":" in name:
                next_step = f"A path of private has no port: serve the modules at port {PORT}, or vendor them."
    return BuildError(
        "ManifestInvalid",
        message,
        where=where,
        said=found.said,
        next=next_step,
        exit_code=result.exit_code,
        error_class=ErrorClass.CLIENT,
    )


def discard_caches(attempt: Attempt) -> bool:
    """Put the caches of the build's organization aside, so that the next try begins without.

    They are moved into the work folder, where the node removes them once nothing has them mounted. False: this build
    has already begun with empty ones here, so that the trouble is none of theirs.
    """
    folder = caches_of(attempt)
    mark = folder.with_name(f".{folder.name}.discarded")
    with suppress(OSError):
        if os.readlink(mark) == attempt.lease.build_id:
            return False
    with suppress(OSError):  # what cannot even be moved is avoided: another node tries first
        folder.rename(attempt.beside(DISCARDED))
        mark.unlink(missing_ok=True)
        mark.symlink_to(attempt.lease.build_id)
    return True


def caches_of(attempt: Attempt) -> Path:
    """The folder of the caches of the build's organization."""
    return attempt.node.folder / "caches" / attempt.grant.organization_name


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _in_caches(attempt: Attempt, error: OSError) -> bool:
    caches = f"{attempt.node.folder / 'caches'}/"
    return any(os.fsdecode(name).startswith(caches) for name in (error.filename, error.filename2) if name)


def _room_of_node(attempt: Attempt) -> Room | None:
    """What the disk has left on which the files of fences lie."""
    with suppress(OSError):
        return room(attempt.private.parent)
    return None


def _quota(attempt: Attempt, what: str, exit_code: int, said: str = "") -> BuildError:
    """The limit of a build on disk, as the kernel ended it: nothing more could be written."""
    limit = attempt.node.settings.disk_bytes
    message = f"{what}: reached its limit of {limit // (1024 * 1024)} MiB on disk"
    lines = (said.strip(),) if said else ()
    return BuildError("DiskQuotaExceeded", message, exit_code=exit_code, limit=limit, peak=limit, said=lines)


def _full(attempt: Attempt, what: str, left: Room | None = None, said: str = "") -> PlatformError:
    if left is None:
        with suppress(OSError):
            left = room(attempt.node.folder)
    free = f" ({left.bytes // (1024 * 1024)} MiB, {left.inodes} inodes free)" if left else ""
    said_lines = (said.strip(),) if said else ()
    return PlatformError("NodeDiskFull", f"{what}: the disk of this node is full{free}", said=said_lines)


def broken_cache(message: str, said: Sequence[str] = ()) -> PlatformError:
    """The error of a build that a cache of its node made fail."""
    lines = tuple(line.strip() for line in said)
    return PlatformError("CacheUnavailable", f"{message}; the next try begins without it", said=lines)


def _named(tree: DirTree, names: Sequence[str], where: str) -> str:
    """file:line of the first mention of a refused `host:port`; empty when no manifest has it."""
    host = where.rpartition(":")[0] or where
    mention = re.compile(rf"(?<![\w.-]){re.escape(host)}(?![\w-]|\.\w)", re.IGNORECASE)
    for name in names:
        with suppress(BuildError, OSError):  # a step may have left anything there
            if not tree.has(name):
                continue
            for number, line in enumerate(tree.read_text(name, SEARCH_LIMIT).splitlines(), 1):
                if mention.search(line[: LINE_LIMIT * 8]):
                    return f"{name}:{number}"
    return ""
