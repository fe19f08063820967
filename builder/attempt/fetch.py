"""FETCH_SOURCE: the stored bytes by digest, verified, and unpacked by the reader into the working copy."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.attempt.attempt import Attempt
from builder.attempt.reader import Reading
from builder.claims.calls import Refused, Unanswered
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.contract.request import repository_of
from builder.errors import BuildError, PlatformError
from builder.key import digest_of
from builder.text import size as in_words

if TYPE_CHECKING:
    from builder.git.commands import Commit

AGAIN_S = 0.2
"""Between two tries at the source, as between those of every call of an owner."""


@dataclass(frozen=True, kw_only=True)
class FetchedSource:
    """The unpacked source: its canonical digest, and a line for people."""

    code_hash: str
    summary: str
    warnings: tuple[str, ...] = ()
    commit: Commit | None = None
    """The commit that was fetched of a repository."""

    @property
    def provenance(self) -> pb.SourceProvenance | None:
        """As the record has it."""
        if self.commit is None:
            return None
        return pb.SourceProvenance(
            commit_sha=self.commit.sha,
            author=self.commit.author,
            branch=self.commit.branch,
            source_timestamp_ms=self.commit.time_ms,
        )


@contextmanager
def reading_source(attempt: Attempt) -> Iterator[Reading]:
    """A reader of this build's source, which `open_source` fetches."""
    descriptor = os.open(attempt.blob, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with attempt.reading(descriptor) as reading:
            yield reading
    finally:
        os.close(descriptor)


def open_source(attempt: Attempt, reading: Reading) -> FetchedSource:
    """Fetch, verify, unpack."""
    commit: Commit | None = None
    try:
        if repository := repository_of(attempt.grant.request):
            from builder.attempt.git import fetch_commit  # with git and SSH, for few builds

            commit = fetch_commit(attempt, repository)
            size = attempt.blob.stat().st_size
        else:
            size = _download(attempt, attempt.blob)
        done = reading.unpack(attempt.request.single_file, attempt.request.runtime, lift=commit is None)
    finally:
        attempt.blob.unlink(missing_ok=True)
    if commit is not None and (pointers := reading.lfs_pointers()).count:
        are = (
            "are pointers of Git LFS, whose files are"
            if pointers.count > 1
            else "is a pointer of Git LFS, whose file is"
        )
        raise BuildError("LfsUnavailable", f"{pointers} {are} not fetched", where=pointers.paths[0])
    code_hash, warnings = done.code_hash, done.warnings
    if commit is not None and commit.history is not None:
        from builder.attempt.git import place_history

        place_history(attempt, commit.history)
        code_hash = digest_of({"code_hash": code_hash, "history": commit.history.digest})
        attempt.log.system(f".git has the history of the commit, and {len(commit.history.tags)} tags")
        warnings = (*warnings, *commit.history.warnings)
    count = f"{done.files} file{'s' if done.files != 1 else ''}"
    summary = f"{count}, {in_words(size)} packed, {code_hash}"
    warnings = (*warnings, *((commit.warning,) if commit and commit.warning else ()))
    return FetchedSource(code_hash=code_hash, summary=summary, warnings=warnings, commit=commit)


def _download(attempt: Attempt, dest: Path) -> int:
    """Write the source to `dest`; returns its size. A small one came with the claim. While the control side is away the
    download starts anew.

    A try that fails and the pause after it are a wait for the control side. Only a refusal ends the build.
    """
    wanted = attempt.grant.source.sha256.removeprefix("sha256:")
    if (content := attempt.grant.source.content) and hashlib.sha256(content).hexdigest() == wanted:
        attempt.check()
        return dest.write_bytes(content)
    while True:
        attempt.check()
        began = attempt.now()
        try:
            digest, size = _download_once(attempt, dest)
            break
        except Unanswered:
            attempt.time_limit.wait(began)
            try:
                attempt.pause(AGAIN_S)
            finally:
                attempt.time_limit.resume(attempt.now())
        except Refused as error:
            raise PlatformError("SourceStoreUnavailable", f"the source could not be fetched: {error}") from error
    if digest != wanted:
        raise PlatformError("SourceStoreUnavailable", "the source arrived with another digest than was stored")
    return size


def _download_once(attempt: Attempt, dest: Path) -> tuple[str, int]:
    """SHA-256 and size of what arrived."""
    hasher, size = hashlib.sha256(), 0
    with dest.open("wb") as out:
        for chunk in attempt.node.calls.open_source(attempt.lease.build_id, attempt.lease.claim):
            attempt.check()
            hasher.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return hasher.hexdigest(), size
