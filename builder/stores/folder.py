"""Where sources are kept, by the sha256 of their stored bytes."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from builder.errors import BuildError, PlatformError
from builder.source.limits import too_large
from builder.text import size as in_words

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A stored source: hex digest and size in bytes."""

    sha256: str
    size: int


class SourceStore(Protocol):
    """Content-addressed sources; a `sha256` is 64 lower-case hexadecimal digits."""

    def put(self, stream: Iterable[bytes], limit: int) -> Stored:
        """Keep a stream of at most `limit` bytes. Raises ArchiveTooLarge, SourceStoreUnavailable, and as `stream`."""
        ...

    def open(self, sha256: str) -> BinaryIO:
        """Read one; the caller compares the digest. Raises SourceNotFound, SourceStoreUnavailable."""
        ...

    def path(self, sha256: str) -> Path:
        """Where it is, or would be, on this disk. Raises SourceNotFound for what is no digest."""
        ...


class FolderStore:
    """A folder: `<root>/sha256/ab/<digest>`. A file appears whole, on the disk, or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, stream: Iterable[bytes], limit: int) -> Stored:
        hasher, size = hashlib.sha256(), 0
        with _ours():
            self._root.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=self._root, prefix=".partial-")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in stream:
                    size += len(chunk)
                    if size > limit:
                        raise too_large(f"the source has more than {in_words(limit)}", in_words(limit))
                    hasher.update(chunk)
                    with _ours():
                        file.write(chunk)
                with _ours():
                    file.flush()
                    os.fsync(file.fileno())
            with _ours():
                self._publish(temporary, self.path(hasher.hexdigest()))
        finally:
            temporary.unlink(missing_ok=True)
        return Stored(sha256=hasher.hexdigest(), size=size)

    def open(self, sha256: str) -> BinaryIO:
        try:
            return self.path(sha256).open("rb")
        except FileNotFoundError:
            raise BuildError("SourceNotFound", f"there is no source sha256:{sha256}") from None
        except OSError as error:
            raise PlatformError("SourceStoreUnavailable", f"the source could not be read: {error.strerror}") from error

    def path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise BuildError("SourceNotFound", "a source is named by 64 hexadecimal digits")
        return self._root / "sha256" / sha256[:2] / sha256

    def _publish(self, temporary: Path, final: Path) -> None:
        """Give the file its name. The same bytes twice are the same file; the names above survive a crash too."""
        if final.exists():
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(final)
        for folder in (final.parent, final.parent.parent, self._root):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _ours() -> Iterator[None]:
    """The disk's failures; those of the stream (a client that went away) stay what they are."""
    try:
        yield
    except OSError as error:
        raise PlatformError("SourceStoreUnavailable", f"the source could not be kept: {error.strerror}") from error
