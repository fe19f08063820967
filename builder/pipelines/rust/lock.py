"""Cargo.lock: what it pins by checksum, and where a fetch step leaves each crate. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from builder.errors import BuildError, refused_source
from builder.pipelines.limits import LINE_LIMIT, LOCK_LIMIT, place_of, read_toml
from builder.plan import Fetched, WantedFile, WriteFile
from builder.source.tree import Tree

LIST = "crates.txt"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")
_VERSION = re.compile(r"[A-Za-z0-9.+-]{1,200}")
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_CRATES_IO = ("registry+https://github.com/rust-lang/crates.io-index", "sparse+https://index.crates.io/")


@dataclass(frozen=True, kw_only=True)
class Crate:
    """A crate of crates.io by the SHA-256 of its file."""

    name: str
    version: str
    checksum: str

    @property
    def path(self) -> str:
        """Its path in the shared cache."""
        return f"{self.checksum}/{self.name}-{self.version}.crate"


def read_lock(tree: Tree, path: str) -> tuple[Crate, ...]:
    """The crates that a lock pins. Raises `BuildError` ManifestInvalid for one that comes from elsewhere, LockOutdated
    for one without a checksum."""
    found = []
    value = read_toml(tree, path, LOCK_LIMIT)
    packages, metadata = value.get("package"), value.get("metadata")
    older = metadata if isinstance(metadata, dict) else {}
    for one in packages if isinstance(packages, list) else ():
        if not isinstance(one, dict) or "source" not in one:
            continue  # a package of the source itself
        name, version, source = (str(one.get(key, "")) for key in ("name", "version", "source"))
        where = f"{path}  {name[:80]} {version[:40]}"
        if source.startswith("git+"):
            message = f"{name[:80]} is taken from git ({source[4:124]}); Cargo.lock pins no bytes of it"
            hint = "Take a version of crates.io, or send its source and name its path."
            raise refused_source(message, where=_place(tree, path, name, version), next=hint)
        if source not in _CRATES_IO:
            message = f"{name[:80]} is taken from {source[:120]}; only crates.io is reached"
            hint = "Take a crate of crates.io, or a path."
            raise refused_source(message, where=_place(tree, path, name, version), next=hint)
        checksum = str(one.get("checksum", "")) or _old_checksum(older, name, version)
        if not (_NAME.fullmatch(name) and _VERSION.fullmatch(version) and _CHECKSUM.fullmatch(checksum)):
            message = f"{name[:80]} {version[:40]} has no checksum in {path}"
            hint = "Write it again and commit it: cargo update --workspace"
            raise BuildError("LockOutdated", message, where=where, next=hint)
        found.append(Crate(name=name, version=version, checksum=checksum))
    return tuple(dict.fromkeys(found))


def _place(tree: Tree, path: str, name: str, version: str) -> str:
    named = rf'name = "{re.escape(name[:LINE_LIMIT])}"'
    return f"{place_of(tree, path, named)}  {name[:80]} {version[:40]}"


def _old_checksum(rows: Mapping[str, Any], name: str, version: str) -> str:
    """The first format of a lock has its checksums in a table of their own."""
    found = (rows.get(f"checksum {name} {version} ({source})") for source in _CRATES_IO)
    return str(next((one for one in found if one), ""))


def fetched(lists: Iterable[tuple[str, Iterable[Crate]]]) -> Fetched:
    """The crates of each cache, and the list by which a later step unpacks them."""
    wanted: list[WantedFile] = []
    lines: dict[str, str] = {}
    for cache, crates in lists:
        for crate in crates:
            file = f"{crate.name}-{crate.version}"
            source = f"registry/cache/*/{file}.crate"
            purl = f"pkg:cargo/{crate.name}@{crate.version}"
            wanted.append(
                WantedFile(cache=cache, source=source, path=crate.path, digest=f"sha256:{crate.checksum}", package=purl)
            )
            lines.setdefault(file, f"/cache/{cache}/{crate.path} {file} {crate.checksum}\n")
    return Fetched(wanted=tuple(wanted), files=(WriteFile(path=LIST, content="".join(lines.values())),))
