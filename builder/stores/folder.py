"""A folder of sources, by the sha256 of their stored bytes."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from builder.errors import BuildError, PlatformError
from builder.source.limits import too_large
from builder.stores.signed import SignedUrls, check_lifetime
from builder.text import size as in_words

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A stored source: hex digest and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True)
class SourceUrl:
    """Where a source is served until `expires_ms` (Unix time). `text` is a credential: no log has it."""

    text: str = field(repr=False)
    expires_ms: int


class Incoming(Protocol):
    """A source that comes piece by piece. Nothing of it is in the store before `publish`."""

    size: int

    def write(self, data: bytes) -> None:
        """Append. Raises ArchiveTooLarge, SourceStoreUnavailable."""
        ...

    def seal(self) -> Stored:
        """Everything came and is on the disk."""
        ...

    def publish(self) -> None:
        """Put what was sealed into the store."""
        ...

    def close(self) -> None:
        """Drop what was not published."""
        ...


class SourceStore(Protocol):
    """Content-addressed sources; a `sha256` is 64 lower-case hexadecimal digits."""

    def begin(self, limit: int) -> Incoming:
        """Begin a source of at most `limit` bytes. Raises SourceStoreUnavailable."""
        ...

    def put(self, stream: Iterable[bytes], limit: int) -> Stored:
        """Store a stream of at most `limit` bytes. Raises ArchiveTooLarge, SourceStoreUnavailable, and as `stream`."""
        ...

    def open(self, sha256: str) -> BinaryIO:
        """Read one; the caller compares the digest. Raises SourceNotFound, SourceStoreUnavailable."""
        ...

    def at_hand(self, sha256: str, limit: int) -> bytes:
        """All of a source of up to `limit` bytes that is read without asking another machine; else empty.

        It never raises: `open` says what is wrong. The caller compares the digest.
        """
        ...

    def renew(self, sha256: str) -> None:
        """Make it as young as one that was just put: a record is about to name it. Raises SourceNotFound."""
        ...

    def list(self, age_s: float) -> Iterator[str]:
        """The sources that were put or renewed at least so long ago. Raises SourceStoreUnavailable."""
        ...

    def delete(self, sha256: str, age_s: float) -> bool:
        """Delete one, unless it was put or renewed since. Nothing may name it."""
        ...

    def delete_unfinished(self, age_s: float) -> int:
        """Delete what puts that broke off so long ago have left behind."""
        ...

    def url(self, sha256: str, seconds: int) -> SourceUrl:
        """A URL that serves this source, and no other, for so long: whoever has it needs no other credential.

        Raises SourceNotFound, SourceStoreUnavailable, FailedPrecondition where the settings name no address for it.
        """
        ...

    def open_signed(self, sha256: str, expires_ms: int, signature: str) -> BinaryIO:
        """Read one by what a URL to the API carries. Raises PermissionDenied, and as `open`."""
        ...


def take(stream: Iterable[bytes], incoming: Incoming) -> Stored:
    """Store a stream whole, or nothing of it. Raises as `Incoming` and as `stream`."""
    with closing(incoming):
        for chunk in stream:
            incoming.write(chunk)
        stored = incoming.seal()
        incoming.publish()
    return stored


class PartialFile:
    """An `Incoming` as a file in the store's folder; `place` gives it its name there."""

    def __init__(self, root: Path, limit: int, place: Callable[[Path, str], None]) -> None:
        with _ours():
            root.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(dir=root, prefix=_PARTIAL)
        self._path, self._file = Path(name), os.fdopen(descriptor, "wb")
        self._hasher, self._limit, self._place = hashlib.sha256(), limit, place
        self.size = 0

    def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._limit:
            raise too_large(f"the source has more than {in_words(self._limit)}", in_words(self._limit))
        self._hasher.update(data)
        with _ours():
            self._file.write(data)

    def seal(self) -> Stored:
        with _ours():
            self._file.flush()
            os.fsync(self._file.fileno())
        return Stored(sha256=self._hasher.hexdigest(), size=self.size)

    def publish(self) -> None:
        with _ours():
            self._place(self._path, self._hasher.hexdigest())

    def close(self) -> None:
        with suppress(OSError):  # what a full disk left in the buffer
            self._file.close()
        self._path.unlink(missing_ok=True)


class FolderStore:
    """A folder: `<root>/sha256/ab/<digest>`. A file appears whole, on the disk, or not at all.

    `api`: the API's URL, which serves single sources by signed URLs; empty where there is none to name.
    `free_bytes`: below so much room on the disk no source begins; records and logs may lie on the same disk.
    """

    def __init__(self, root: Path, api: str = "", free_bytes: int = 0) -> None:
        self._root, self._api, self._signed = root, api, SignedUrls(root / "url.key")
        self._free_bytes = free_bytes

    def begin(self, limit: int) -> PartialFile:
        with _ours():
            self._root.mkdir(parents=True, exist_ok=True)
            disk = os.statvfs(self._root)
        if disk.f_bavail * disk.f_frsize < self._free_bytes:
            message = f"less than {in_words(self._free_bytes)} free on the disk of the sources (source_free_bytes)"
            raise PlatformError("SourceStoreUnavailable", message)
        return PartialFile(self._root, limit, lambda partial, sha256: self._publish(partial, self._path(sha256)))

    def put(self, stream: Iterable[bytes], limit: int) -> Stored:
        return take(stream, self.begin(limit))

    def open(self, sha256: str) -> BinaryIO:
        try:
            return self._path(sha256).open("rb")
        except FileNotFoundError:
            raise BuildError("SourceNotFound", f"there is no source sha256:{sha256}") from None
        except OSError as error:
            raise PlatformError("SourceStoreUnavailable", f"the source could not be read: {error.strerror}") from error

    def at_hand(self, sha256: str, limit: int) -> bytes:
        try:
            with self.open(sha256) as file:
                data = file.read(limit + 1)
        except (OSError, BuildError):
            return b""
        return data if len(data) <= limit else b""

    def renew(self, sha256: str) -> None:
        with _ours():
            if not _touched(self._path(sha256)):
                raise BuildError("SourceNotFound", f"there is no source sha256:{sha256}")

    def list(self, age_s: float) -> Iterator[str]:
        before = time.time() - age_s
        with _ours():
            for folder in sorted((self._root / "sha256").glob("[0-9a-f][0-9a-f]")):
                for name in os.listdir(folder):
                    with suppress(FileNotFoundError):
                        if _SHA256.fullmatch(name) and _modified(folder / name) <= before:
                            yield name

    def delete(self, sha256: str, age_s: float) -> bool:
        """Whoever is about to name a source renews it first. So it is moved away, looked at, and put back if young: a
        renewal before that shows in its age, a later one finds no source."""
        path, before = self._path(sha256), time.time() - age_s
        aside = self._root / f"{_PARTIAL}{sha256}"
        with _ours(), suppress(FileNotFoundError):
            if _modified(path) > before:
                return False
            path.rename(aside)
            if _modified(aside) > before:
                aside.rename(path)
                return False
            aside.unlink()
            return True
        return False

    def delete_unfinished(self, age_s: float) -> int:
        return delete_partial(self._root, age_s)

    def url(self, sha256: str, seconds: int) -> SourceUrl:
        from builder.contract.routes import SOURCE_URL_PATH  # with the descriptors' side of it, for Jobs alone

        check_lifetime(seconds)
        self.renew(sha256)
        if not self._api:
            message = "Jobs cannot fetch a source from this server: no setting names its address"
            step = "An operator sets public_url to a URL at which Jobs reach this server, or source_store."
            raise BuildError("FailedPrecondition", message, where="public_url", next=step)
        expires_ms = int((time.time() + seconds) * 1000)
        query = f"expires={expires_ms}&signature={self._signed.sign(sha256, expires_ms)}"
        path = SOURCE_URL_PATH.format(sha256=sha256)
        return SourceUrl(text=f"{self._api}{path}?{query}", expires_ms=expires_ms)

    def open_signed(self, sha256: str, expires_ms: int, signature: str) -> BinaryIO:
        self._signed.check(sha256, expires_ms, signature)
        return self.open(sha256)

    def _path(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise BuildError("SourceNotFound", "a source is named by 64 hexadecimal digits")
        return self._root / "sha256" / sha256[:2] / sha256

    def _publish(self, temporary: Path, final: Path) -> None:
        """Give the file its name. The same bytes twice are the same file, which is young again; the names above
        survive a crash too."""
        if _touched(final):
            return
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(final)
        for folder in (final.parent, final.parent.parent, self._root):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def delete_partial(root: Path, age_s: float) -> int:
    """Delete what puts into a folder that broke off so long ago have left behind."""
    count, before = 0, time.time() - age_s
    with _ours():
        for path in root.glob(f"{_PARTIAL}*"):
            with suppress(FileNotFoundError):
                if _modified(path) <= before:
                    path.unlink()
                    count += 1
    return count


def _touched(path: Path) -> bool:
    """Renew a file's age. False: there is none."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _modified(path: Path) -> float:
    return path.stat().st_mtime


@contextmanager
def _ours() -> Iterator[None]:
    """The disk's failures; those of the stream (a client that went away) stay what they are."""
    try:
        yield
    except OSError as error:
        raise PlatformError("SourceStoreUnavailable", f"the source could not be stored: {error.strerror}") from error
