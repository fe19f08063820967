"""Where a registry already has a base image's layers, so that a new repository takes them from there.

A cross-repository mount (distribution-spec v1.1, "Mounting a blob from another repository") needs the name of a
repository that has the blob and that our login may read. That is one of the same organization's, to which this node
pushed the layer before: neither a shared repository nor another organization's is ever named.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.images.destination import REPOSITORY


@dataclass(frozen=True, kw_only=True)
class Mounts:
    """What this node pushed to the registry `host` for `organization`, one small file a layer below `folder`.

    A note may be wrong (the repository was deleted since): the registry then asks for the bytes. A folder that cannot
    be written costs an upload, never a build.
    """

    folder: Path
    host: str
    organization: str

    def source(self, digest: str) -> str:
        """A repository that has the blob; empty when none is known."""
        try:
            repository = self._note(digest).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return repository if REPOSITORY.fullmatch(repository) else ""

    def remember(self, digest: str, repository: str) -> None:
        """`repository` has the blob from now on."""
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            fd, partial = tempfile.mkstemp(prefix=".partial-", dir=self.folder)
            try:
                with open(fd, "w", encoding="utf-8") as file:
                    file.write(repository)
                os.rename(partial, self._note(digest))
            except BaseException:
                os.unlink(partial)
                raise

    def _note(self, digest: str) -> Path:
        key = "\0".join((self.host, self.organization, digest))
        return self.folder / hashlib.sha256(key.encode()).hexdigest()
