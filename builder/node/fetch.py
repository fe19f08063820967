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
    hasher, size = hashlib.sha256(), 0
    path = f"/v1/ignite/worker/builds/{claim.build_id}/source?claim={claim.number}"
    try:
        with dest.open("wb") as out:
            for chunk in attempt.node.api.download(path):
                attempt.check()
                hasher.update(chunk)
                size += len(chunk)
                out.write(chunk)
    except (ApiUnreachable, ApiError) as error:
        raise PlatformError("SourceStoreUnavailable", f"the source could not be fetched: {error}") from error
    if hasher.hexdigest() != claim.source_sha256.removeprefix("sha256:"):
        raise PlatformError("SourceStoreUnavailable", "the source arrived with another digest than was stored")
    return size
