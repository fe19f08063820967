"""FETCH_SOURCE: the stored bytes by digest, verified, unpacked under limits into the working copy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from builder import pipelines
from builder.build import Claim, Source
from builder.client.api import ApiError, ApiUnreachable
from builder.errors import PlatformError
from builder.node.attempt import Attempt
from builder.source.digest import code_hash
from builder.source.limits import words
from builder.source.tree import DirTree
from builder.source.unpack import Limits, unpack, write_single

AGAIN_S = 0.2
"""Between two tries at the source, as between those of every call of an owner."""


def open_source(attempt: Attempt, claim: Claim) -> Source:
    """Fetch, verify, unpack."""
    blob = attempt.work.with_suffix(".source")
    size = _download(attempt, claim, blob)
    dest = attempt.source
    try:
        if claim.single_file:
            data = blob.read_bytes()
            name = pipelines.single_file_name(claim.request.runtime, data, attempt.node.known)
            write_single(name, data, dest, attempt.owner)
            warnings: tuple[str, ...] = ()
            count = 1
        else:
            unpacked = unpack(blob, dest, Limits(), attempt.owner, attempt.check)
            warnings, count = unpacked.warnings, unpacked.files
    finally:
        blob.unlink(missing_ok=True)
    digest = code_hash(dest)
    summary = f"{count} file{'s' if count != 1 else ''}, {words(size)} packed, {digest}"
    return Source(tree=DirTree(dest), code_hash=digest, summary=summary, warnings=warnings)


def _download(attempt: Attempt, claim: Claim, dest: Path) -> int:
    """Into the file; its size. An API that is away costs no retry of the build: the file begins anew while the claim
    is ours. Only a refusal ends that."""
    path = f"/v1/ignite/worker/builds/{claim.build_id}/source?claim={claim.number}"
    while True:
        attempt.check()
        try:
            digest, size = _download_once(attempt, path, dest)
            break
        except ApiUnreachable:
            attempt.pause(AGAIN_S)
        except ApiError as error:
            raise PlatformError("SourceStoreUnavailable", f"the source could not be fetched: {error}") from error
    if digest != claim.source_sha256.removeprefix("sha256:"):
        raise PlatformError("SourceStoreUnavailable", "the source arrived with another digest than was stored")
    return size


def _download_once(attempt: Attempt, path: str, dest: Path) -> tuple[str, int]:
    """SHA-256 and size of what arrived."""
    hasher, size = hashlib.sha256(), 0
    with dest.open("wb") as out:
        for chunk in attempt.node.api.download(path):
            attempt.check()
            hasher.update(chunk)
            size += len(chunk)
            out.write(chunk)
    return hasher.hexdigest(), size
