"""Packages of JSR: deno.lock pins the metadata of each version, and that pins each file of it. Pure.

Two rounds, therefore: the metadata, which the node compares with the lock, then the files, each compared with the
metadata. What of a package is not pinned, its list of versions, is made of the lock and never fetched.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from builder.errors import BuildError
from builder.pipelines.deno.jsonc import read_json, table
from builder.pipelines.deno.lock import LOCK
from builder.pipelines.deno.project import Need
from builder.pipelines.limits import LOCK_LIMIT
from builder.source.tree import DictTree, Tree

ORIGIN = "https://jsr.io"
"""Where Deno looks for a package in its cache, whichever mirror it came from."""
HOST = "jsr.io:443"
INDEX = "jsr"
"""The kind of index in `toolchain.toml`."""
FOLDER = "jsr"
"""Verified metadata, each by its digest, lies in this folder of the stubs."""
VERSIONS_MOST = 2_000
_SPECIFIER = re.compile(r"jsr:/?(@[a-z0-9-]{1,100}/[a-z0-9-]{1,100})(?:[@/].{0,1000})?")
_KEY = re.compile(r"(@[a-z0-9-]{1,100}/[a-z0-9-]{1,100})@(\d[A-Za-z0-9.+-]{0,127})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CHECKSUM = re.compile(r"sha256-([0-9a-f]{64})")
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f\x7f]{1,255}){1,32}")
_MADE_AGAIN = "Run `deno install` with Deno 2 and commit deno.lock."


@dataclass(frozen=True, kw_only=True)
class Release:
    """One version of a package, and the SHA-256 of its metadata in hex."""

    name: str
    version: str
    digest: str

    @property
    def url(self) -> str:
        return f"{ORIGIN}/{self.name}/{self.version}_meta.json"


@dataclass(frozen=True, kw_only=True)
class File:
    """One file of a package, and its SHA-256 in hex."""

    url: str
    digest: str


def check_locked(needs: Iterable[Need], lock: Mapping[str, Any], name: str, entry: str) -> None:
    """Refuse an import that the lock does not pin. Raises `BuildError` ManifestInvalid, LockOutdated."""
    pinned = {key.rpartition("@")[0] for key in table(lock, "jsr")}
    for need in needs:
        found = _SPECIFIER.fullmatch(need.specifier[:2000])
        if not found:
            message = f"{need.specifier[:100]} is no package of JSR"
            raise BuildError("ManifestInvalid", message, where=need.where, next="Write it jsr:@SCOPE/NAME@VERSION.")
        if found[1] not in pinned:
            what = f"{name} does not pin it" if name else f"no {LOCK} pins what it is"
            hint = f"Run `deno install --entrypoint {entry}` with Deno 2 and commit deno.lock."
            message = f"{need.specifier[:200]} is imported, but {what}"
            raise BuildError("LockOutdated", message, where=need.where, next=hint)


def releases(lock: Mapping[str, Any], name: str) -> Iterator[Release]:
    """The packages of a lock. Raises `BuildError` ManifestInvalid for one that is none."""
    entries = table(lock, "jsr")
    if len(entries) > VERSIONS_MOST:
        raise BuildError("ManifestInvalid", f"{name} has more than {VERSIONS_MOST} packages of JSR", where=name)
    for key in entries:
        found = _KEY.fullmatch(key[:1000])
        if not found:
            message = f"{key[:100]} is no version of a package of JSR"
            raise BuildError("ManifestInvalid", message, where=name, next=_MADE_AGAIN)
        digest = table(entries, key).get("integrity")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            message = f"{key[:100]} is pinned by {str(digest)[:40]!r}, not by a SHA-256"
            raise BuildError("ManifestInvalid", message, where=name, next=_MADE_AGAIN)
        yield Release(name=found[1], version=found[2], digest=digest)


def versions(found: Iterable[Release]) -> Iterator[tuple[str, str]]:
    """(URL, text) of each package's list of versions, with those of the lock alone."""
    known: dict[str, list[str]] = {}
    for one in found:
        known.setdefault(one.name, []).append(one.version)
    for name, has in sorted(known.items()):
        scope, _, short = name[1:].partition("/")
        listed = {"scope": scope, "name": short, "latest": has[-1], "versions": {version: {} for version in has}}
        yield f"{ORIGIN}/{name}/meta.json", json.dumps(listed)


def metadata_path(release: Release) -> str:
    """Where the stubs have the metadata, once it is verified."""
    return f"{FOLDER}/{release.digest}.json"


def files(stubs: Tree, release: Release) -> Iterator[File]:
    """The files of a release whose metadata lies beside the stubs; none before.

    Raises `BuildError` ManifestInvalid for metadata that is not the lock's, or names what is no file of a package.
    """
    path, where = metadata_path(release), f"{release.name}@{release.version}"
    if not stubs.has(path):
        return
    text = stubs.read_text(path, LOCK_LIMIT)
    if hashlib.sha256(text.encode()).hexdigest() != release.digest:
        raise BuildError("ManifestInvalid", f"the metadata of {where} is not what {LOCK} pins", where=where)
    manifest = table(read_json(DictTree({path: text}), path, LOCK_LIMIT, comments=False), "manifest")
    for name in manifest:
        checksum = _CHECKSUM.fullmatch(str(table(manifest, name).get("checksum"))[:200])
        if not _PATH.fullmatch(name[:10_000]):
            message = f"the metadata of {where} names {name[:100]!r}, which is no file of a package"
            raise BuildError(
                "ManifestInvalid", message, where=where, next="Take another version of it, and lock again."
            )
        if not checksum:
            message = f"the metadata of {where} pins {name[:100]} by no SHA-256"
            raise BuildError(
                "ManifestInvalid", message, where=where, next="Take another version of it, and lock again."
            )
        safe = "/@!$&'()*+,;=:~"
        yield File(url=f"{ORIGIN}/{release.name}/{release.version}{quote(name, safe=safe)}", digest=checksum[1])
