"""FETCH_SOURCE: the stored bytes by digest, verified, unpacked under limits into the working copy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from builder import pipelines
from builder.attempt.attempt import Attempt
from builder.claims.calls import Refused, Unanswered
from builder.errors import PlatformError
from builder.source.digest import code_hash
from builder.source.tree import DirTree, Tree
from builder.source.unpack import Limits, unpack, write_single
from builder.text import size as in_words

AGAIN_S = 0.2
"""Between two tries at the source, as between those of every call of an owner."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The unpacked source: a read-only view, its canonical digest, and a line for people."""

    tree: Tree
    code_hash: str
    summary: str
    warnings: tuple[str, ...] = ()


def open_source(attempt: Attempt) -> Source:
    """Fetch, verify, unpack."""
    blob = attempt.work.with_suffix(".source")
    dest = attempt.source
    warnings: tuple[str, ...] = ()
    try:
        size = _download(attempt, blob)
        if attempt.request.single_file:
            data = blob.read_bytes()
            name = pipelines.single_file_name(attempt.request.runtime, data, attempt.node.known)
            write_single(name, data, dest, attempt.build_user)
            count = 1
        else:
            unpacked = unpack(blob, dest, Limits(), attempt.build_user, attempt.check)
            warnings, count = unpacked.warnings, unpacked.files
    finally:
        blob.unlink(missing_ok=True)
    digest = code_hash(dest)
    summary = f"{count} file{'s' if count != 1 else ''}, {in_words(size)} packed, {digest}"
    return Source(tree=DirTree(dest), code_hash=digest, summary=summary, warnings=warnings)


def _download(attempt: Attempt, dest: Path) -> int:
    """Write the source to `dest`; returns its size. While the control side is away the download starts anew.

    A try that fails and the pause after it are a wait for the control side. Only a refusal ends the build.
    """
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
    if digest != attempt.grant.source.sha256.removeprefix("sha256:"):
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
