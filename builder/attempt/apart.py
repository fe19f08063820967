"""What is made of downloads by code that came with them: each alone, in a work folder of its own, stored write-once.

The step has no network, sees nothing of the build and writes no cache. The node takes the one file that it leaves, and
puts it in the organization's cache under the digest of all that decided it: the downloads, the step and the toolchain.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from itertools import islice
from pathlib import Path

from builder import sandbox
from builder.attempt.attempt import Attempt
from builder.attempt.downloads import CHUNK, named, opened, shared
from builder.attempt.inside import write_in
from builder.attempt.planned import Bound
from builder.attempt.steps import StepResult, execute_step
from builder.errors import BuildError
from builder.key import digest_of
from builder.plan import BUILT, Built, Step
from builder.source import below

CACHE = "built"
FOLDERS = ("fetch", "home", "out", "tmp", "src")
_PLAIN = re.compile(r"[A-Za-z0-9][\w.+!-]{0,200}", re.ASCII)


def build_apart(attempt: Attempt, bound: Bound, step: Step, judge: Callable[[StepResult], None]) -> None:
    """Run the step for each file that is not in the cache yet; `judge` raises what the end of a run means.

    Raises `BuildError` DependencyNotFound for a run that left no such file, DiskQuotaExceeded for one too large.
    """
    found = named(attempt, bound.plan)
    if found is None or not found.built:
        return
    store = shared(attempt, CACHE)
    results: dict[str, dict[str, str]] = {}
    for one in found.built:
        attempt.check()
        key = _key(bound, step, one)
        if (name := _stored(store / key)) is None:
            attempt.log.system(f"{step.name}: {one.name}, alone and without a network")
            judge(_run(attempt, bound, step, one, store, key))
            if (name := _stored(store / key)) is None:
                message = f"building {one.name} left no file *{one.ending}, or several"
                raise BuildError("DependencyNotFound", message, where=one.name)
        else:
            attempt.log.system(f"{step.name}: {one.name} was built before")
        results[one.name] = {"path": f"{key}/{name}", "digest": _digest(store / key / name)}
    write_in(attempt, f"fetch/{BUILT}", json.dumps(results))
    attempt.named = None
    named(attempt, bound.plan)  # writes what the later steps read of it


def _key(bound: Bound, step: Step, one: Built) -> str:
    """All that decides the bytes: what it is made of, how, and by which toolchain."""
    return digest_of(
        {
            "of": list(one.of),
            "argv": [*step.argv, *one.words],
            "env": dict(step.env),
            "files": {file.path: file.content for file in one.files},
            "toolchain": bound.toolchain.digests,
        }
    )[7:]


def _stored(folder: Path) -> str | None:
    """The name of the file that a folder of the cache has; its folder appears whole or not at all."""
    try:
        (name,) = os.listdir(folder)
    except (FileNotFoundError, ValueError):
        return None
    return name


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _run(attempt: Attempt, bound: Bound, step: Step, one: Built, store: Path, key: str) -> StepResult:
    """One run in a folder of its own; what a good one left is in the cache."""
    work = attempt.work.with_suffix(".apart")
    sandbox.remove_tree(work)
    try:
        work.mkdir()
        for name in FOLDERS:
            (work / name).mkdir()
        for file in one.files:
            (work / "fetch" / file.path).write_text(file.content, encoding="utf-8")
        for folder, folders, files in os.walk(work):
            for name in (*folders, *files):
                attempt.chown_to_build_user(Path(folder, name))
        attempt.chown_to_build_user(work)
        result = execute_step(attempt, bound.toolchain, replace(step, argv=(*step.argv, *one.words)), work)
        if result.exit_code == 0 and not result.reason:
            _take(attempt, work, one, store, key)
        return result
    finally:
        sandbox.remove_tree(work)


def _take(attempt: Attempt, work: Path, one: Built, store: Path, key: str) -> None:
    """Copy the one file into the cache, under a name that is plain; whoever comes second changes nothing."""
    with ExitStack() as stack:
        try:
            out_folder = stack.enter_context(below.folder(work, "out"))
            with os.scandir(out_folder) as entries:
                names = list(islice((entry.name for entry in entries if entry.name.endswith(one.ending)), 2))
            if len(names) != 1 or not _PLAIN.fullmatch(names[0]):
                return
            file = stack.enter_context(opened(out_folder, names[0]))
        except (FileNotFoundError, NotADirectoryError):  # a link instead of a folder or file leaves no file
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".partial-", dir=store))
        limit, size, made = attempt.node.settings.disk_bytes, 0, Path(folder, "made")
        made.mkdir()
        with (made / names[0]).open("xb") as out:
            while chunk := file.read(CHUNK):
                attempt.check()
                size += len(chunk)
                if size > limit:
                    message = f"{one.name} is larger than the limit of {limit} bytes on disk"
                    raise BuildError("DiskQuotaExceeded", message, limit=limit, peak=size)
                out.write(chunk)
        (made / names[0]).chmod(0o444)
        made.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IXUSR | 0o055)
        try:
            made.rename(store / key)
        except OSError:
            if _stored(store / key) is None:  # else another build of this organization was first
                raise
