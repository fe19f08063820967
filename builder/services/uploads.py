"""`UploadBuildContext`: a source that comes piece by piece, stored by digest for a later CreateBuild."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.services.archives import check_size
from builder.services.auth import Caller, require
from builder.services.errors import QuotaExceeded
from builder.services.parts import Parts
from builder.services.shares import Share
from builder.store import nodes
from builder.stores.folder import Incoming, Stored
from builder.text import size as in_words

FULL_RETRY_S = 60  # uploads that nothing names go by age


class Upload:
    """One upload. `close` drops what `finish` has not recorded. Its calls may block: for a thread."""

    def __init__(self, parts: Parts, caller: Caller, announced: int = 0) -> None:
        """Raises `QuotaExceeded` where what is announced finds no room, `BuildError` SourceStoreUnavailable, and
        ArchiveTooLarge where it is more than any source may have."""
        check_size(announced, parts.settings.upload_bytes)
        self._parts, self._organization = parts, caller.organization
        self._room(nodes.unused_bytes(parts.store, caller.organization, self._since_ms()), max(1, announced))
        self._incoming: Incoming = parts.sources.begin(parts.settings.upload_bytes)

    def write(self, data: bytes) -> None:
        """Append. Raises `BuildError` ArchiveTooLarge, SourceStoreUnavailable."""
        self._incoming.write(data)

    def finish(self) -> pb.UploadBuildContextResponse:
        """Everything came. Raises `BuildError` SourceEmpty, `QuotaExceeded`.

        Recorded before it is in the store: nobody knows the id before the answer, and a refused one leaves no file.
        """
        stored = self._incoming.seal()
        if not stored.size:
            raise BuildError("SourceEmpty", "the upload has no bytes", where="body")
        context_id = "ctx" + uuid.uuid4().hex
        self._record(context_id, stored)
        self._incoming.publish()
        return pb.UploadBuildContextResponse(
            context_id=context_id, size_bytes=stored.size, sha256="sha256:" + stored.sha256
        )

    def close(self) -> None:
        """Drop what is not recorded."""
        self._incoming.close()

    def _record(self, context_id: str, stored: Stored) -> None:
        quota = self._parts.settings.kept_upload_bytes
        kept = nodes.add_context(
            self._parts.store, context_id, self._organization, stored.sha256, stored.size, self._since_ms(), quota
        )
        self._room(kept, stored.size)

    def _room(self, kept: int, more: int) -> None:
        quota = self._parts.settings.kept_upload_bytes
        if kept + more > quota:
            message = f"uploads that no build names take up {in_words(kept)} of {in_words(quota)}, this one is too much"
            raise QuotaExceeded(message, FULL_RETRY_S)

    def _since_ms(self) -> int:
        """How old an upload that nothing names may be: what is older is the next run's of the retention."""
        settings = self._parts.settings
        return int(settings.keep_uploads_days * 86_400_000) + settings.retention_ms


class Uploads:
    """The streaming half of `BuildService` that receives. `share`: of uploads that are open."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.share = Share("uploads", parts.settings.open_uploads)

    def begin(self, caller: Caller, announced: int = 0) -> Upload:
        """An upload within its organization's share, which the caller counts. `announced`: its bytes, where known."""
        require(caller, "submit")
        return Upload(self._parts, caller, announced)

    def upload_build_context(
        self, caller: Caller, messages: Iterable[pb.UploadBuildContextRequest]
    ) -> pb.UploadBuildContextResponse:
        """Keep a source. Metadata may come first; scope and quotas are judged before the first message is read.

        Raises `BuildError` InvalidRequest for messages in another order or a size that is not the one announced.
        """
        require(caller, "submit")
        with self._open(caller) as upload:
            for chunk in _chunks(messages):
                upload.write(chunk)
            return upload.finish()

    @contextmanager
    def _open(self, caller: Caller) -> Iterator[Upload]:
        with self.share.one(caller.organization), closing(self.begin(caller)) as upload:
            yield upload


def _chunks(messages: Iterable[pb.UploadBuildContextRequest]) -> Iterator[bytes]:
    """The bytes of a stream: one metadata at most, before every chunk."""
    size, announced = 0, 0
    for index, message in enumerate(messages):
        part = message.WhichOneof("part")
        if part == "metadata" and index == 0:
            announced = message.metadata.expected_size_bytes
        elif part == "chunk":
            size += len(message.chunk)
            yield message.chunk
        else:
            found = part or "nothing"
            raise BuildError("InvalidRequest", f"message {index + 1} holds {found}, a chunk is needed", where="part")
    if announced not in (0, size):
        message_text = f"{size} bytes came, metadata announced {announced}; send all of them"
        raise BuildError("InvalidRequest", message_text, where="metadata.expectedSizeBytes")
