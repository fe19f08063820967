"""An OCI layout folder (image-spec v1.1, image-layout.md) as a destination: an artifact store without a server.

`index.json` holds one entry for each tag, named `repository:tag`, and one for each manifest of a repository, named
`repository@sha256:…`. Blobs and the index arrive by rename; changes of the index are made under a lock of the folder,
so several processes may push at once and a reader needs no lock.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.errors import BuildError, PlatformError
from builder.images.destination import (
    EMPTY,
    Attached,
    BlobMissing,
    Manifest,
    Pushed,
    check_names,
    check_reference,
    fallback_tag,
    index_entries,
    index_with,
    referrer_descriptor,
    referrer_manifest,
    verified,
)
from builder.images.image import INDEX_TYPE, MANIFEST_TYPE, Image, canonical, descriptor, digest_of
from builder.text import strangers_json

REF_NAME = "org.opencontainers.image.ref.name"
VERSION_FILE = b'{"imageLayoutVersion":"1.0.0"}'
CHUNK = 1024 * 1024
_PARTIAL = ".partial-"
_FALLBACK = re.compile(r":sha256-[0-9a-f]{64}\Z")

Stamp = tuple[int, int, int] | None
"""Inode, size and time of a file; None where there is none."""


@dataclass(frozen=True)
class Layout:
    """The folder `root`; `name` is what references start with. Made when it is first written to."""

    root: Path
    name: str = "oci-layout"

    def reference(self, repository: str, digest: str) -> str:
        """See `Destination.reference`."""
        check_names(repository, digest=digest)
        return f"{self.name}/{repository}@{digest}"

    def push(self, image: Image, repository: str, tag: str | None) -> Pushed:
        """See `Destination.push`. Layers are linked or copied from where they are."""
        check_names(repository, tag=tag)
        self._prepare()
        uploaded = [layer.size for layer in image.layers if self._take(layer.path, layer.digest)]
        if self._put(image.config):
            uploaded.append(len(image.config))
        self._put(image.manifest)
        names = [f"{repository}@{image.digest}", *([f"{repository}:{tag}"] if tag else [])]
        self._point(names, descriptor(image.media_type, image.manifest))
        return Pushed(
            reference=self.reference(repository, image.digest),
            digest=image.digest,
            size_bytes=image.size_bytes,
            uploaded_blobs=len(uploaded),
            uploaded_bytes=sum(uploaded),
            existing_blobs=len(image.layers) + 1 - len(uploaded),
        )

    def put_tag(self, repository: str, manifest: str | Manifest, tag: str) -> None:
        """See `Destination.put_tag`."""
        check_names(repository, tag=tag)
        manifest = self._need(repository, manifest)
        self._point([f"{repository}:{tag}"], descriptor(manifest.media_type, manifest.body))

    def resolve(self, repository: str, reference: str) -> str | None:
        """See `Destination.resolve`."""
        found = self._find(repository, reference)
        return str(found["digest"]) if found else None

    def get_manifest(self, repository: str, reference: str) -> Manifest | None:
        """See `Destination.get_manifest`."""
        found = self._find(repository, reference)
        if found is None:
            return None
        digest = str(found["digest"])
        with _disk("read"):
            body = self.blob_path(digest).read_bytes()
        return Manifest(media_type=found["mediaType"], body=verified(body, digest, self.name), digest=digest)

    def _need(self, repository: str, wanted: str | Manifest) -> Manifest:
        if isinstance(wanted, Manifest):
            return wanted
        check_names(repository, digest=wanted)
        manifest = self.get_manifest(repository, wanted)
        if manifest is None:
            raise PlatformError("RegistryUnavailable", f"{self.name}/{repository} has no {wanted}")
        return manifest

    def has_blob(self, repository: str, digest: str) -> bool:
        """See `Destination.has_blob`."""
        check_names(repository, digest=digest)
        return self.blob_path(digest).exists()

    def open_blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """See `Destination.open_blob`. Blobs are shared by the repositories of a layout."""
        check_names(repository, digest=digest)
        hasher = hashlib.sha256()
        if not self.blob_path(digest).exists():
            raise BlobMissing("RegistryUnavailable", f"{self.name}/{repository} has no blob {digest}")
        with _disk("read"), self.blob_path(digest).open("rb") as file:
            while chunk := file.read(CHUNK):
                hasher.update(chunk)
                yield chunk
        if digest != "sha256:" + hasher.hexdigest():
            raise PlatformError("RegistryUnavailable", f"{self.name} holds other bytes than {digest} says")

    def open_upload(self, repository: str) -> str:
        """See `Destination.open_upload`: a file has nothing to begin."""
        return ""

    def attach(
        self,
        repository: str,
        subject: str | Manifest,
        artifact_type: str,
        payload: bytes,
        payload_media_type: str,
        annotations: Mapping[str, str],
        require: Callable[[], None] = lambda: None,
        upload: str = "",
    ) -> Attached:
        """See `Destination.attach`. Listed under the fallback tag, as in a registry without the referrers API."""
        require()
        subject = self._need(repository, subject)
        manifest = referrer_manifest(subject, artifact_type, payload, payload_media_type, annotations)
        for blob in (payload, EMPTY, manifest):
            self._put(blob)
        digest = digest_of(manifest)
        name = f"{repository}:{fallback_tag(subject.digest)}"
        with self._locked() as entries:
            old = next((entry for entry in entries if _name(entry) == name), None)
            index = index_with(
                self.blob_path(old["digest"]).read_bytes() if old else None, referrer_descriptor(manifest)
            )
            self._put(index)
            _set(entries, [f"{repository}@{digest}"], descriptor(MANIFEST_TYPE, manifest))
            _set(entries, [name], descriptor(INDEX_TYPE, index))
        return Attached(digest=digest)

    def referrers(self, repository: str, digest: str) -> tuple[Mapping[str, Any], ...]:
        """See `Destination.referrers`."""
        check_names(repository, digest=digest)
        index = self.get_manifest(repository, fallback_tag(digest))
        return index_entries(index.body if index else None)

    def can_untag(self, repository: str) -> bool:
        """See `Destination.can_untag`: a tag is a line of the index."""
        return True

    def untag(self, repository: str, tag: str) -> None:
        """See `Destination.untag`."""
        check_names(repository, tag=tag)
        if self._find(repository, tag) is None:  # without the lock, which makes the folder
            return
        with self._locked() as entries:
            entries[:] = [entry for entry in entries if _name(entry) != f"{repository}:{tag}"]

    def collect(self, named: Iterable[tuple[str, str]], age_s: float) -> int:
        """See `Destination.collect`. First lines of the index under its lock, then blobs without it.

        A push finds a blob and writes its line later. It renews the blob's age when it finds it, so that a blob is
        deleted only after it was moved away and is still old there.
        """
        if not (self.root / "index.json").exists():
            return 0
        before, wanted = time.time() - age_s, {f"{repository}@{digest}" for repository, digest in named}
        with self._locked() as entries:
            known = len(entries)
            entries[:] = self._needed(entries, wanted, before)
            lines, kept = known - len(entries), {str(entry["digest"]) for entry in entries}
        needed: set[str] = set()
        while fresh := kept - needed:
            needed |= fresh
            kept = set().union(*(self._children(digest, needed) for digest in fresh))
        return lines + self._delete_blobs({digest.removeprefix("sha256:") for digest in needed}, before)

    def _needed(self, entries: list[dict[str, Any]], wanted: set[str], before: float) -> list[dict[str, Any]]:
        """The lines that stay: tags, the manifests they or `wanted` name, young ones, and what is attached to these."""
        by_name = {_name(entry): entry for entry in entries}
        attached = {name for name in by_name if _FALLBACK.search(name)}
        tagged = {
            f"{name.rpartition(':')[0]}@{entry['digest']}"
            for name, entry in by_name.items()
            if "@" not in name and name not in attached
        }
        stay = {name for name in by_name if "@" not in name and name not in attached} | {""}
        for name, entry in by_name.items():
            young = "@" in name and _modified(self.blob_path(entry["digest"])) > before
            if name in tagged or name in wanted or young:
                stay.add(name)
        for name in attached:
            repository, _, tag = name.rpartition(":")
            if f"{repository}@{tag.replace('-', ':', 1)}" in stay:
                body = self.blob_path(by_name[name]["digest"]).read_bytes()
                stay |= {name, *(f"{repository}@{listed['digest']}" for listed in index_entries(body))}
        return [entry for entry in entries if _name(entry) in stay]

    def _children(self, digest: str, needed: set[str]) -> set[str]:
        """The manifests that a manifest or index names; its blobs join `needed`. Raises `PlatformError` for one that
        cannot be read: then nothing goes."""
        with _disk("read"):
            body = self.blob_path(digest).read_bytes()
        try:
            value = strangers_json(verified(body, digest, self.name))
            blobs = [*value.get("layers", ()), *(value[name] for name in ("config", "subject") if name in value)]
            needed |= {str(blob["digest"]) for blob in blobs}
            return {str(child["digest"]) for child in value.get("manifests", ())}
        except (ValueError, TypeError, KeyError, AttributeError):
            raise PlatformError("RegistryUnavailable", f"{self.name}: {digest} is no manifest") from None

    def _delete_blobs(self, needed: set[str], before: float) -> int:
        count, folder = 0, self.root / "blobs" / "sha256"
        with _disk("write"):
            for name in os.listdir(folder):
                path, aside = folder / name, folder / f"{_PARTIAL}{name}"
                if name in needed or _modified(path) > before:
                    continue
                with suppress(FileNotFoundError):
                    if not name.startswith(_PARTIAL):
                        path.rename(aside)
                        if _modified(aside) > before:
                            aside.rename(path)
                            continue
                        path = aside
                    path.unlink()
                    count += 1
        return count

    def blob_path(self, digest: str) -> Path:
        """Where the blob is or would be."""
        check_names("any", digest=digest)
        return self.root / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def stamp(self) -> Stamp:
        """Changes with every change of the index, which arrives by rename."""
        try:
            info = os.stat(self._index)
        except FileNotFoundError:
            return None
        return info.st_ino, info.st_size, info.st_mtime_ns

    def names(self) -> tuple[str, ...]:
        """All names of the index, sorted: `repository:tag` and `repository@digest`."""
        return tuple(sorted(_name(entry) for entry in self._entries() if _name(entry)))

    def _find(self, repository: str, reference: str) -> Mapping[str, Any] | None:
        separator = "@" if check_reference(repository, reference) else ":"
        name = f"{repository}{separator}{reference}"
        return next((entry for entry in self._entries() if _name(entry) == name), None)

    @property
    def _index(self) -> Path:
        return self.root / "index.json"

    def _entries(self) -> list[dict[str, Any]]:
        try:
            text = self._index.read_bytes()
        except FileNotFoundError:
            return []
        try:
            entries: list[dict[str, Any]] = json.loads(text)["manifests"]
            return entries
        except (ValueError, KeyError, TypeError):
            raise PlatformError("RegistryUnavailable", f"{self.name}: index.json is damaged") from None

    def _prepare(self) -> None:
        with _disk("write"):
            (self.root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (self.root / "oci-layout").exists():
                self._write(self.root / "oci-layout", [VERSION_FILE])

    @contextmanager
    def _locked(self) -> Iterator[list[dict[str, Any]]]:
        """The index's entries to change; what is in the list at the end is written at once."""
        self._prepare()
        with _disk("write"), (self.root / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            entries = self._entries()
            before = canonical(entries)
            yield entries
            entries.sort(key=_name)
            if canonical(entries) != before:
                index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
                self._write(self._index, [canonical(index)])

    def _point(self, names: Iterable[str], entry: Mapping[str, Any]) -> None:
        with self._locked() as entries:
            _set(entries, names, entry)

    def _put(self, data: bytes) -> bool:
        """Store a small blob; False when it was there."""
        path = self.blob_path(digest_of(data))
        if _renewed(path):
            return False
        self._prepare()
        with _disk("write"):
            self._write(path, [data])
        return True

    def _take(self, source: Path, digest: str) -> bool:
        """Store a file as a blob, verified while it is copied; False when it was there."""
        path = self.blob_path(digest)
        if _renewed(path):
            return False
        hasher = hashlib.sha256()

        def chunks() -> Iterator[bytes]:
            with source.open("rb") as file:
                while chunk := file.read(CHUNK):
                    hasher.update(chunk)
                    yield chunk
            if digest != "sha256:" + hasher.hexdigest():
                raise BuildError("Internal", f"a layer is not {digest} any more")

        with _disk("write"):
            self._write(path, chunks())
        return True

    def _write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write beside `path`, to the disk, then rename: a reader sees all of it or nothing."""
        fd, partial = tempfile.mkstemp(prefix=_PARTIAL, dir=path.parent)
        try:
            with open(fd, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
                file.flush()
                os.fchmod(fd, 0o644)
                os.fsync(fd)
            os.rename(partial, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(partial)
            raise


def _renewed(path: Path) -> bool:
    """Whether a blob is there; then it is as young as a new one. One of another user cannot be: it is written anew."""
    try:
        os.utime(path)
    except (FileNotFoundError, PermissionError):
        return False
    return True


def _modified(path: Path) -> float:
    """When a file was written or renewed; one that is not there is old."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _name(entry: Mapping[str, Any]) -> str:
    return str((entry.get("annotations") or {}).get(REF_NAME, ""))


def _set(entries: list[dict[str, Any]], names: Iterable[str], entry: Mapping[str, Any]) -> None:
    for name in names:
        entries[:] = [known for known in entries if _name(known) != name]
        entries.append({**entry, "annotations": {REF_NAME: name}})


@contextmanager
def _disk(verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PlatformError("NodeDiskFull", "the artifact store's disk is full") from error
        said = os.strerror(error.errno or 0)
        raise PlatformError("RegistryUnavailable", f"the artifact store cannot {verb}: {said}") from error
