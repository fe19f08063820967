"""The "h1:" digests of go.sum (golang.org/x/mod/sumdb/dirhash, Hash1): of a module's zip, and of a go.mod alone."""

from __future__ import annotations

import base64
import hashlib
import zipfile
import zlib
from collections.abc import Callable
from io import BufferedRandom

CHUNK = 1 << 20


def of(file: BufferedRandom, name: str, limit: int, check: Callable[[], None]) -> str:
    """The digest of a downloaded file by its name; "" for a zip that cannot be read or is larger than `limit`."""
    if not name.endswith(".zip"):
        return _hash1({"go.mod": hashlib.file_digest(file, "sha256").hexdigest()})
    found: dict[str, str] = {}
    left = limit
    try:
        with zipfile.ZipFile(file) as packed:
            for entry in packed.infolist():
                if entry.filename in found or "\n" in entry.filename:
                    return ""
                hasher = hashlib.sha256()
                with packed.open(entry) as content:
                    while chunk := content.read(CHUNK):
                        check()
                        left -= len(chunk)
                        if left < 0:
                            return ""
                        hasher.update(chunk)
                found[entry.filename] = hasher.hexdigest()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OSError):
        return ""
    return _hash1(found)


def _hash1(files: dict[str, str]) -> str:
    whole = hashlib.sha256()
    for name in sorted(files, key=str.encode):
        whole.update(f"{files[name]}  {name}\n".encode())
    return "h1:" + base64.b64encode(whole.digest()).decode()


def in_hex(digest: str) -> str:
    """A digest as a statement names it: "h1:" is in-toto's `dirHash`, in hex."""
    if digest.startswith("h1:"):
        return "dirHash:" + base64.b64decode(digest.removeprefix("h1:")).hex()
    return digest
