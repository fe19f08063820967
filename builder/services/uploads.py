"""`UploadBuildContext`: a source as a stream of messages, kept by digest for a later CreateBuild."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator

from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.errors import BuildError
from builder.services.auth import Caller, require
from builder.services.parts import Parts
from builder.store import nodes


class Uploads:
    """The streaming half of `BuildService` that takes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def upload_build_context(
        self, caller: Caller, messages: Iterable[pb.UploadBuildContextRequest]
    ) -> pb.UploadBuildContextResponse:
        """Keep a source. Metadata may come first; the scope is judged before the first message is read.

        Raises `BuildError` InvalidRequest for messages in another order or a size that is not the one announced.
        """
        require(caller, "submit")
        parts, context_id = self._parts, "ctx" + uuid.uuid4().hex
        stored = parts.sources.put(_chunks(messages), parts.settings.upload_bytes)
        nodes.add_context(parts.store, context_id, caller.organization, stored.sha256, stored.size)
        return pb.UploadBuildContextResponse(
            context_id=context_id, size_bytes=stored.size, sha256="sha256:" + stored.sha256
        )


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
