"""Where artifacts go: one Protocol, two providers (`registry.py`, `layout.py`), and what both share.

Names are checked here before they become part of a URL or a path (distribution-spec v1.1, "Pulling manifests").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from builder.errors import BuildError, PlatformError
from builder.images.image import INDEX_TYPE, MANIFEST_TYPE, Image, canonical, descriptor, digest_of
from builder.text import strangers_json

REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """What a push did. `reference` is `host/repository@sha256:…`; sizes in bytes; blobs are layers and the config."""

    reference: str
    digest: str
    size_bytes: int
    uploaded_blobs: int
    uploaded_bytes: int
    existing_blobs: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A stored manifest or index, its bytes verified against `digest` when it was asked for by digest."""

    media_type: str
    body: bytes
    digest: str


@dataclass(frozen=True, kw_only=True)
class Attached:
    """`digest` of the referrer. It counts once `confirm` returned, which may be called beside what follows: it looks
    whether another writer was between, and lists it again."""

    digest: str
    confirm: Callable[[], None] = lambda: None


class BlobMissing(PlatformError):
    """The other side answers, and has no such blob in this repository."""


class Destination(Protocol):
    """A registry or something like it. Every method may be repeated.

    Raises `BuildError` InvalidRequest for a name that is none, `PlatformError` RegistryUnavailable when the other side
    does not do its part.
    """

    def reference(self, repository: str, digest: str) -> str:
        """How a puller names a manifest: `host/repository@sha256:…`."""
        ...

    def push(self, image: Image, repository: str, tag: str | None) -> Pushed:
        """Blobs first, then the manifest by digest, then the tag; a tag never points at a missing blob."""
        ...

    def put_tag(self, repository: str, manifest: str | Manifest, tag: str) -> None:
        """Point `tag` at a manifest that is there: its digest, or itself where it was read already."""
        ...

    def resolve(self, repository: str, reference: str) -> str | None:
        """The digest behind a tag or digest, None when it is not there."""
        ...

    def get_manifest(self, repository: str, reference: str) -> Manifest | None: ...

    def has_blob(self, repository: str, digest: str) -> bool:
        """Whether the blob is there."""
        ...

    def open_blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """The blob's bytes; raises at the end when they are not what `digest` says, so do not act on them before.

        `BlobMissing` when there is none.
        """
        ...

    def open_upload(self, repository: str) -> str:
        """Begin the upload of a blob that `attach` then sends; it may be called beside what finds out what to attach.
        Nothing comes of one that is not used."""
        ...

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
        """Attach `payload` to an image (image-spec v1.1, `subject`): its digest, or its manifest where it was read
        already. Idempotent. `upload`: what `open_upload` has begun.

        `require` raises where it must not be attached. It may be called beside the upload of blobs, which name nothing;
        nothing is attached before it returned."""
        ...

    def referrers(self, repository: str, digest: str) -> tuple[Mapping[str, Any], ...]:
        """Descriptors of what was attached to `digest`, with `artifactType` and `annotations`."""
        ...

    def can_untag(self, repository: str) -> bool:
        """Whether deleting one tag of a manifest leaves the others; tried out where it cannot be known."""
        ...

    def untag(self, repository: str, tag: str) -> None:
        """Delete a tag and nothing that it points at; one that is not there is no trouble."""
        ...

    def collect(self, named: Iterable[tuple[str, str]], age_s: float) -> int:
        """Delete what is at least so old and neither a tag nor `named` (repository, digest) needs; how much it was.

        A registry collects its garbage itself.
        """
        ...


def check_names(repository: str, *, tag: str | None = None, digest: str | None = None) -> None:
    """Raises `BuildError` InvalidRequest for a name that the distribution-spec does not allow."""
    if len(repository) > 255 or not REPOSITORY.fullmatch(repository):
        raise BuildError("InvalidRequest", f"{repository!r} is no repository name")
    if tag is not None and not TAG.fullmatch(tag):
        raise BuildError("InvalidRequest", f"{tag!r} is no tag")
    if digest is not None and not DIGEST.fullmatch(digest):
        raise BuildError("InvalidRequest", f"{digest!r} is no sha256 digest")


def check_reference(repository: str, reference: str) -> bool:
    """True when `reference` is a digest, False when it is a tag; raises as `check_names`."""
    is_digest = ":" in reference
    check_names(repository, tag=None if is_digest else reference, digest=reference if is_digest else None)
    return is_digest


def fallback_tag(digest: str) -> str:
    """Where referrers are listed when there is no referrers API (distribution-spec v1.1, "Referrers Tag Schema")."""
    return digest.replace(":", "-")


def referrer_manifest(
    subject: Manifest, artifact_type: str, payload: bytes, media_type: str, annotations: Mapping[str, str]
) -> bytes:
    """The manifest that ties `payload` to `subject`; a function of its arguments, so attaching twice is one thing."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact_type,
        "config": descriptor(EMPTY_TYPE, EMPTY),
        "layers": [descriptor(media_type, payload)],
        "subject": descriptor(subject.media_type, subject.body),
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    return canonical(manifest)


def referrer_descriptor(manifest: bytes) -> dict[str, Any]:
    """How a referrer is listed in an index."""
    value = strangers_json(manifest)
    listed = {**descriptor(MANIFEST_TYPE, manifest), "artifactType": value["artifactType"]}
    if value.get("annotations"):
        listed["annotations"] = value["annotations"]
    return listed


def index_with(index: bytes | None, entry: Mapping[str, Any]) -> bytes:
    """The referrers index with `entry` in it once, sorted by digest, so the order of attaching does not show."""
    entries = {listed["digest"]: listed for listed in index_entries(index)}
    entries[entry["digest"]] = dict(entry)
    manifests = [entries[digest] for digest in sorted(entries)]
    return canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests})


def index_entries(index: bytes | None) -> tuple[Mapping[str, Any], ...]:
    """The descriptors of an index. Raises `PlatformError` RegistryUnavailable when it is no index."""
    if index is None:
        return ()
    try:
        entries = strangers_json(index)["manifests"]
        return tuple(entry for entry in entries if DIGEST.fullmatch(entry["digest"]))
    except (ValueError, TypeError, KeyError):
        raise PlatformError("RegistryUnavailable", "a referrers index is not what the image-spec says") from None


def verified(body: bytes, digest: str, where: str) -> bytes:
    """`body`, when its digest is `digest`. Raises `PlatformError` RegistryUnavailable."""
    found = digest_of(body)
    if found != digest:
        raise PlatformError("RegistryUnavailable", f"{where} gave {found} when asked for {digest}")
    return body
