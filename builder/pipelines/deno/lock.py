"""deno.lock: which npm packages it pins, and what of them is fetched. Pure.

The node verifies each tarball by the digest of the lock before a shared cache has it. A lock of the source is a
stranger's text: names and versions become paths only where they are spelled as npm spells them.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from builder.errors import BuildError
from builder.pipelines.deno.jsonc import line_of, read_json, table
from builder.pipelines.limits import LOCK_LIMIT
from builder.plan import Fetched, WantedFile, WriteFile
from builder.source.tree import Tree

LOCK = "deno.lock"
CACHE = "npm"
LIST = "npm.json"
FORMATS = {"4": (2, 0), "5": (2, 3)}
"""Format of the lock → the first Deno that reads it."""
PACKAGES_MOST = 20_000
_KEY = re.compile(
    r"((?:@[A-Za-z0-9~_-][\w.~-]{0,213}/)?[A-Za-z0-9~_-][\w.~-]{0,213})@(\d[A-Za-z0-9.+-]{0,127})(?:_\S*)?"
)
_MADE_AGAIN = "Run `deno install` with Deno 2 and commit deno.lock."


@dataclass(frozen=True, kw_only=True)
class Package:
    """One npm package of a lock: name, version, the SHA-512 of its tarball in hex, and where it is, if not as usual.

    `elsewhere`: the platforms (`os`, `cpu`) of one that does not run here. Deno reads of it that it does not.
    """

    name: str
    version: str
    digest: str
    tarball: str = ""
    elsewhere: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Its path in the cache."""
        return f"{self.digest[:64]}/{self.name.replace('/', '+')}-{self.version}.tgz"


def check_format(tree: Tree, lock: Mapping[str, Any], name: str, deno: str) -> None:
    """Refuse a lock that this Deno cannot read. Raises `BuildError` LockOutdated, UnknownRuntimeVersion."""
    found = lock.get("version")
    if not isinstance(found, str) or found not in FORMATS:
        message = f"{name} has the format {str(found)[:20]}; this builder reads {' and '.join(FORMATS)}"
        raise BuildError("LockOutdated", message, where=line_of(tree, name, '"version"'), next=_MADE_AGAIN)
    if tuple(int(part) for part in deno.split(".")[:2]) < FORMATS[found]:
        since = ".".join(str(part) for part in FORMATS[found])
        message = f"{name} has the format {found}, which Deno {deno} does not read; Deno {since} and newer do"
        raise BuildError(
            "UnknownRuntimeVersion",
            message,
            where=line_of(tree, name, '"version"'),
            next="Ask for a newer Deno, or write the lock with this one.",
        )


def packages(lock: Mapping[str, Any], name: str) -> Iterator[Package]:
    """The npm packages of a lock, each once. Raises `BuildError` ManifestInvalid for one that is none."""
    entries = table(lock, "npm")
    if len(entries) > PACKAGES_MOST:
        raise BuildError("ManifestInvalid", f"{name} has more than {PACKAGES_MOST} packages", where=name)
    seen = set()
    for key in entries:
        entry = table(entries, key)
        found = _KEY.fullmatch(key[:2000])
        if not found or ".." in key.split("_", 1)[0]:
            raise BuildError("ManifestInvalid", f"{key[:100]} is no npm package", where=name, next=_MADE_AGAIN)
        package = found[1], found[2]
        if package in seen:  # the same tarball beside other peers
            continue
        seen.add(package)
        tarball, os, cpu = entry.get("tarball"), _names(entry.get("os")), _names(entry.get("cpu"))
        yield Package(
            name=found[1],
            version=found[2],
            digest=_digest(entry.get("integrity"), key, name),
            tarball=tarball if isinstance(tarball, str) else "",
            elsewhere={} if _fits(os, "linux") and _fits(cpu, "x64") else {"os": os, "cpu": cpu},
        )


def fetched(stubs: Tree, name: str) -> Fetched | None:
    """The tarballs of the lock beside the stubs, and the lists that our downloader and our unpacker read."""
    if not stubs.has(LOCK):
        return None
    lock = read_json(stubs, LOCK, LOCK_LIMIT, comments=False)
    wanted, listed = [], []
    for one in packages(lock, name):
        purl = f"pkg:npm/{quote(one.name, safe='/')}@{one.version}"
        if not one.elsewhere:
            pin = f"sha512:{one.digest}"
            wanted.append(WantedFile(cache=CACHE, source=one.file, path=one.file, digest=pin, package=purl))
        usual = f"{one.name}/-/{one.name.rpartition('/')[2]}-{one.version}.tgz"
        integrity = "sha512-" + base64.b64encode(bytes.fromhex(one.digest)).decode()
        listed.append(
            {
                "name": one.name,
                "version": one.version,
                "folder": folder_of(one.name),
                "path": "" if one.elsewhere else one.file,
                "url": one.tarball or usual,
                "integrity": integrity,
                **one.elsewhere,
            }
        )
    return Fetched(wanted=tuple(wanted), files=(WriteFile(path=LIST, content=json.dumps(listed)),))


def folder_of(name: str) -> str:
    """The folder of a package in Deno's cache: a name with capitals is encoded, as file systems may not know them."""
    if name == name.lower():
        return name
    return "_" + base64.b32encode(name.encode()).decode().rstrip("=").lower()


def _digest(integrity: object, key: str, name: str) -> str:
    algorithm, _, text = str(integrity)[:200].partition("-")
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if algorithm != "sha512" or len(raw) != 64:
        message = f"{key[:100]} is pinned by {str(integrity)[:40]!r}, not by a SHA-512"
        raise BuildError("ManifestInvalid", message, where=name, next=_MADE_AGAIN)
    return raw.hex()


def _names(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _fits(names: list[str], here: str) -> bool:
    """Whether a package's `os` or `cpu` (npm, package.json) allows this platform; `!` before a name denies it."""
    if f"!{here}" in names:
        return False
    positive = [one for one in names if not one.startswith("!")]
    return not positive or here in positive
