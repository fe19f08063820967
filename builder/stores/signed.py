"""URLs that serve one source of a folder for a while: an HMAC-SHA256 over digest and expiry, under a key of the folder.

The key is a file of the store, so whatever process shares the folder knows it; a node never does.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from builder.errors import BuildError, PlatformError

MOST_URL_S = 3600
"""How long a URL lives at most. A source that nothing names is never younger than that when it is deleted."""
KEY_BYTES = 32


def check_lifetime(seconds: int) -> int:
    """Raises `BuildError` InvalidRequest for a lifetime that no URL has."""
    if not 1 <= seconds <= MOST_URL_S:
        raise BuildError("InvalidRequest", f"a URL lives 1 to {MOST_URL_S} s, not {seconds}", where="livesS")
    return seconds


class SignedUrls:
    """The URLs of one folder. `path`: the key file, made with the first URL."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def sign(self, sha256: str, expires_ms: int) -> str:
        """The signature of a digest until a time. Raises `PlatformError` SourceStoreUnavailable."""
        try:
            return _signature(self._key(), sha256, expires_ms)
        except OSError as error:
            message = f"the key of the URLs of sources cannot be used: {error.strerror}"
            raise PlatformError("SourceStoreUnavailable", message) from error

    def check(self, sha256: str, expires_ms: int, signature: str) -> None:
        """Raises `BuildError` PermissionDenied for what was not signed here, or has expired. Both look alike."""
        left_ms = expires_ms - time.time() * 1000
        try:
            known = self._path.read_bytes()
        except OSError:
            known = b""
        wanted = _signature(known, sha256, expires_ms)
        is_ours = hmac.compare_digest(wanted.encode(), signature.encode("utf-8", "replace"))
        if len(known) != KEY_BYTES or not is_ours or not 0 < left_ms <= MOST_URL_S * 1000:
            raise BuildError("PermissionDenied", "this URL serves no source, or none any more")

    def _key(self) -> bytes:
        """The key; made under a name of its own, then linked, so that two processes that begin at once agree on one."""
        with suppress(FileNotFoundError):
            return self._checked()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        made = self._path.with_name(f".partial-key-{secrets.token_hex(6)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(made, self._path)
        finally:
            made.unlink()
        return self._checked()

    def _checked(self) -> bytes:
        key = self._path.read_bytes()
        if len(key) != KEY_BYTES:
            raise OSError(0, f"{self._path.name} has not {KEY_BYTES} bytes")
        return key


def _signature(key: bytes, sha256: str, expires_ms: int) -> str:
    text = f"ignite-source-url-1\n{sha256}\n{expires_ms}".encode()
    return hmac.new(key or b"\0", text, hashlib.sha256).hexdigest()
