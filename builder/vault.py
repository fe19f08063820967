"""Secrets at rest: AES-256-GCM under a key of a file that lies beside no database dump.

What identifies a secret (organization, name, type, host, version) is authenticated with it: a row that is copied to
another name or an older value that is put back does not open. The first key of the file encrypts, each decrypts, so a
key is rotated by a new first line.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets as random
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.errors import BuildError

KEY_BYTES, NONCE_BYTES = 32, 12
MOST_KEYS = 16


class Unreadable(Exception):
    """A sealed value that no key of the file opens, or that is not what it is stored as."""


@dataclass(frozen=True)
class Vault:
    """`path`: the key file, 32 random bytes in base64 on each line. It is made with the first value that is sealed."""

    path: Path

    def seal(self, identity: str, value: bytes, *, make: bool = True) -> str:
        """The value encrypted under the first key. `make`: a key file that is not there is made.

        Raises `BuildError` Internal for a key file that cannot be used.
        """
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # 20 ms that most processes never need

        key = self._keys(make=make)[0]
        nonce = os.urandom(NONCE_BYTES)
        sealed = AESGCM(key).encrypt(nonce, value, identity.encode())
        return f"{_name(key)}:{base64.b64encode(nonce + sealed).decode()}"

    def open(self, identity: str, sealed: str) -> bytes:
        """The value again. Raises `Unreadable`, and `BuildError` Internal as `seal`."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        name, _, text = sealed.partition(":")
        for key in self._keys(make=False):
            if _name(key) != name:
                continue
            try:
                data = base64.b64decode(text)
                return AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], identity.encode())
            except (InvalidTag, ValueError):  # no base64, or too short for a nonce
                raise Unreadable("it was changed, or belongs elsewhere") from None
        raise Unreadable("its key is not in the key file")

    def _keys(self, *, make: bool) -> list[bytes]:
        try:
            return self._read()
        except FileNotFoundError:
            if not make:
                raise _unusable(self.path, "it is not there") from None
        self._make()
        return self._read()

    def _read(self) -> list[bytes]:
        with self.path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise _unusable(self.path, f"others may read it (mode {mode:04o}; 0600 is needed)")
            lines = file.read(4096).split()
        try:
            keys = [base64.b64decode(line, validate=True) for line in lines]
        except ValueError:
            keys = []
        if not 0 < len(keys) <= MOST_KEYS or any(len(key) != KEY_BYTES for key in keys):
            raise _unusable(self.path, f"it takes 1 to {MOST_KEYS} lines of {KEY_BYTES} bytes in base64")
        return keys

    def _make(self) -> None:
        """A new key under a name of its own, then linked: two processes that begin at once agree on one key."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        made = self.path.with_name(f"{self.path.name}.{random.token_hex(6)}")
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(made, self.path)
        finally:
            made.unlink()


def _name(key: bytes) -> str:
    """Names a key without telling it."""
    return hashlib.sha256(b"ignite-builder key name" + key).hexdigest()[:12]


def _unusable(path: Path, why: str) -> BuildError:
    message = f"the key file of secrets cannot be used: {why}"
    step = "An operator puts it back from a backup, or corrects secrets_key_file; without it stored secrets are lost."
    return BuildError("Internal", message, where=path.name, next=step)
