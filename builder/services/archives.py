"""Canonical archives: what a node packs of a checked source, stored by digest for the Job that builds it.

A node may be hostile: an archive counts under the digest that the control side computed, has a bounded size, and a
claim stores few of them. Whoever sent the bytes knows them, so the URL in the answer tells nothing new.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.services.shares import Share
from builder.source.limits import ArchiveLimits, too_large
from builder.stores.folder import SourceStore
from builder.stores.signed import check_lifetime
from builder.text import size as in_words

MOST_OF_CLAIM = 3
"""Different archives that one claim stores in a control process. An honest one stores one."""
MOST_CLAIMS = 10_000
"""Claims that a process remembers."""
AT_ONCE = 2
"""Archives of one build, or downloads of one source, that a process moves at once."""
DOWNLOADS = 32
_SHA256 = re.compile(r"(?:sha256:)?([0-9a-f]{64})")


class Archives:
    """The archives of one control process."""

    def __init__(self, sources: SourceStore) -> None:
        self.sources, self.limit = sources, ArchiveLimits().archive
        self.share, self.downloads = Share("archives", AT_ONCE), Share("downloads", DOWNLOADS)
        self._of: OrderedDict[tuple[str, int], set[str]] = OrderedDict()
        self._lock = threading.Lock()

    def count(self, build_id: str, claim: int, sha256: str) -> None:
        """Count an archive of a claim. Raises `BuildError` FailedPrecondition for one too many."""
        with self._lock:
            known = self._of.setdefault((build_id, claim), set())
            self._of.move_to_end((build_id, claim))
            if sha256 not in known and len(known) >= MOST_OF_CLAIM:
                message = f"this claim has stored {MOST_OF_CLAIM} archives, which is all it may"
                raise BuildError("FailedPrecondition", message, where="sha256")
            known.add(sha256)
            if len(self._of) > MOST_CLAIMS:
                self._of.popitem(last=False)


class ArchiveUpload:
    """One archive that comes. `owned` raises when its claim owns the build no more. Its calls block: for a thread."""

    def __init__(
        self, archives: Archives, owned: Callable[[], object], build_id: str, claim: int, sha256: str, lives_s: int
    ) -> None:
        self._archives, self._owned = archives, owned
        found = _SHA256.fullmatch(sha256)
        if found is None:
            raise BuildError("InvalidRequest", "sha256 takes 64 hexadecimal digits", where="sha256")
        self._sha256, self._lives_s = found[1], check_lifetime(lives_s)
        archives.count(build_id, claim, self._sha256)
        self._incoming = archives.sources.begin(archives.limit)

    def write(self, data: bytes) -> None:
        """Append. Raises `BuildError` ArchiveTooLarge, SourceStoreUnavailable."""
        self._incoming.write(data)

    def finish(self) -> pb.StoredArchive:
        """Everything came. Raises `BuildError` InvalidRequest for other bytes than were announced, and as `owned`."""
        stored = self._incoming.seal()
        if stored.sha256 != self._sha256:
            message = f"the archive that came is sha256:{stored.sha256}, not sha256:{self._sha256}; send it again"
            raise BuildError("InvalidRequest", message, where="sha256")
        self._owned()
        self._incoming.publish()
        url = self._archives.sources.url(stored.sha256, self._lives_s)
        return pb.StoredArchive(
            sha256="sha256:" + stored.sha256, size_bytes=stored.size, url=url.text, expires_at_ms=url.expires_ms
        )

    def close(self) -> None:
        """Drop what is not stored."""
        self._incoming.close()


def check_size(announced: int, limit: int) -> None:
    """Raises `BuildError` ArchiveTooLarge before anything of a body is read."""
    if announced > limit:
        raise too_large(f"an archive of {in_words(announced)}", in_words(limit))
