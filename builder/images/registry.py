"""A registry over HTTP as a destination (distribution-spec v1.1). Retries and authorization are `transport.py`.

Order of a push: the blobs, some side by side (each asked for first, so that nothing is sent twice), the manifest by
digest, the tag. What fails on the way leaves no tag.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx

from builder.errors import BuildError, PlatformError
from builder.images.blobs import Blobs
from builder.images.destination import (
    DIGEST,
    EMPTY,
    EMPTY_TYPE,
    Attached,
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
from builder.images.mounts import Mounts
from builder.images.together import together
from builder.images.transport import PATIENT, Credentials, Patience, Transport
from builder.tls import new_client

ACCEPT = ", ".join(
    (
        MANIFEST_TYPE,
        INDEX_TYPE,
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    )
)
CONNECT_S = 10.0
ATTACH_ROUNDS = 5
MOST_PAGES = 1000
"""Pages of one list; each may name a next one."""
# What `can_untag` tries it out with; no tag of a user begins so.
PROBE_TAGS = ("build-untag-1", "build-untag-2")
PROBE = {
    "schemaVersion": 2,
    "mediaType": MANIFEST_TYPE,
    "artifactType": "application/vnd.ignite.untag-probe",
    "layers": [descriptor(EMPTY_TYPE, EMPTY)],
}


@dataclass(frozen=True, kw_only=True)
class Registry:
    """`transport` to one host. With `mounts` a base image's layers are mounted from where they are, not sent again.

    `access` is what a token is asked for; a public registry may give none for more than "pull".
    """

    transport: Transport
    mounts: Mounts | None = None
    access: str = "pull,push"
    """What a token is asked for: a login that may only read gets none to push."""

    @property
    def blobs(self) -> Blobs:
        """Its blobs, over the same transport."""
        return Blobs(transport=self.transport, mounts=self.mounts, access=self.access)

    def close(self) -> None:
        """End the connections; the registry cannot be used after it."""
        self.transport.client.close()

    def again(self, mounts: Mounts | None, check: Callable[[], None], sleep: Callable[[float], None]) -> Registry:
        """The same connections and tokens for another use, which ends before these are closed."""
        self.transport.forget_many()
        return replace(self, transport=replace(self.transport, check=check, sleep=sleep), mounts=mounts)

    def reference(self, repository: str, digest: str) -> str:
        """See `Destination.reference`."""
        check_names(repository, digest=digest)
        return f"{self.transport.host}/{repository}@{digest}"

    def push(self, image: Image, repository: str, tag: str | None) -> Pushed:
        """See `Destination.push`."""
        check_names(repository, tag=tag)
        layers = tuple({layer.digest: layer for layer in image.layers}.values())  # two equal layers are one blob
        sizes = [len(image.config), *(layer.size for layer in layers)]
        what, config = f"HEAD blob {repository}@{image.config_digest}", image.config
        known, is_there = self.transport.knows(self.blobs.scope(repository)), False
        if not known:  # a question alone: its answer says who we have to be, which the calls side by side then know
            is_there = self.transport.persistently(what, partial(self.blobs.is_there, repository, image.config_digest))

        def send_config(halt: Callable[[], None]) -> bool:
            body = partial(iter, (config,))
            return not is_there and self.blobs.upload(
                repository, image.config_digest, len(config), body, ask=known, halt=halt
            )

        calls: list[Callable[[Callable[[], None]], bool]] = [send_config]
        sent = together(calls + [partial(self.blobs.upload_layer, repository, layer) for layer in layers])
        uploaded = [size for size, was_sent in zip(sizes, sent, strict=True) if was_sent]
        self._put_manifest(repository, image.digest, image.media_type, image.manifest)
        if tag is not None:
            self._put_manifest(repository, tag, image.media_type, image.manifest)
        return Pushed(
            reference=self.reference(repository, image.digest),
            digest=image.digest,
            size_bytes=image.size_bytes,
            uploaded_blobs=len(uploaded),
            uploaded_bytes=sum(uploaded),
            existing_blobs=len(sizes) - len(uploaded),
        )

    def put_tag(self, repository: str, manifest: str | Manifest, tag: str) -> None:
        """See `Destination.put_tag`."""
        check_names(repository, tag=tag)
        manifest = self._need(repository, manifest)
        self._put_manifest(repository, tag, manifest.media_type, manifest.body)

    def resolve(self, repository: str, reference: str) -> str | None:
        """See `Destination.resolve`. One HEAD where the registry names the digest, else a GET."""
        check_reference(repository, reference)
        what = f"HEAD manifest {repository}:{reference}"
        response = self._ask("HEAD", repository, f"manifests/{reference}", what, {"Accept": ACCEPT})
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise self.transport.refused(what, response)
        digest = response.headers.get("docker-content-digest", "")
        if DIGEST.fullmatch(digest):
            return str(digest)
        manifest = self.get_manifest(repository, reference)
        return manifest.digest if manifest else None

    def get_manifest(self, repository: str, reference: str) -> Manifest | None:
        """See `Destination.get_manifest`."""
        is_digest = check_reference(repository, reference)
        what = f"GET manifest {repository}:{reference}"
        response = self._ask("GET", repository, f"manifests/{reference}", what, {"Accept": ACCEPT})
        if response.status_code == 404:
            return None
        if response.status_code != 200:
            raise self.transport.refused(what, response)
        body = response.content
        if is_digest:
            verified(body, reference, self.transport.host)
        media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        return Manifest(media_type=media_type or MANIFEST_TYPE, body=body, digest=digest_of(body))

    def has_blob(self, repository: str, digest: str) -> bool:
        """See `Destination.has_blob`."""
        check_names(repository, digest=digest)
        what = f"HEAD blob {repository}@{digest}"
        return self.transport.persistently(what, partial(self.blobs.is_there, repository, digest))

    def open_blob(self, repository: str, digest: str) -> Iterator[bytes]:
        """See `Destination.open_blob`."""
        return self.blobs.open(repository, digest)

    def open_upload(self, repository: str) -> str:
        """See `Destination.open_upload`. A registry drops a session that nobody ends."""
        check_names(repository)
        return self.blobs.open_upload(repository)

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
        """See `Destination.attach`. A registry that answers without `OCI-Subject` gets the fallback index."""
        subject = self._need(repository, subject)
        manifest = referrer_manifest(subject, artifact_type, payload, payload_media_type, annotations)
        digest, tag = digest_of(manifest), fallback_tag(subject.digest)
        # A payload is small and new, but for an attempt that is repeated: to ask for it first would cost as much.
        blobs: list[Callable[[Callable[[], None]], object]] = [
            lambda halt: self.blobs.upload(
                repository,
                digest_of(payload),
                len(payload),
                lambda: iter((payload,)),
                ask=False,
                halt=halt,
                opened=upload,
            ),
            lambda halt: require(),
        ]
        if not self.transport.has_empty(repository):
            blobs.append(lambda halt: self._send_empty(repository, halt))
        together(blobs)
        index: list[Manifest | None] = []
        calls: list[Callable[[Callable[[], None]], httpx.Response | None]] = [
            lambda halt: self._put_referrer(repository, digest, manifest)
        ]
        if self.transport.without_subject:
            calls.append(lambda halt: index.append(self.get_manifest(repository, tag)))
        response = together(calls)[0]
        if response is None or response.headers.get("oci-subject") != subject.digest:
            self.transport.without_subject = True
            entry = referrer_descriptor(manifest)
            known = index.pop() if index else self.get_manifest(repository, tag)
            if self._list_in_fallback(repository, tag, entry, known):
                return Attached(digest=digest, confirm=partial(self._confirm_in_fallback, repository, tag, entry))
        return Attached(digest=digest)

    def referrers(self, repository: str, digest: str) -> tuple[Mapping[str, Any], ...]:
        """See `Destination.referrers`: the API where there is one, else the fallback tag."""
        check_names(repository, digest=digest)
        what = f"GET referrers of {repository}@{digest}"
        found: dict[str, Mapping[str, Any]] = {}
        path: str | None = f"referrers/{digest}"
        pages = 0
        while path is not None:
            pages += 1
            if pages > MOST_PAGES:
                raise self.transport.broken(f"{what}: has more than {MOST_PAGES} pages")
            response = self._ask("GET", repository, path, what, {"Accept": INDEX_TYPE})
            if response.status_code in (400, 404, 405) and not found:
                index = self.get_manifest(repository, fallback_tag(digest))
                return index_entries(index.body if index else None)
            if response.status_code != 200:
                raise self.transport.refused(what, response)
            found |= {entry["digest"]: entry for entry in index_entries(response.content)}
            path = self._next_page(response, repository)
        return tuple(found[key] for key in sorted(found))

    def can_untag(self, repository: str) -> bool:
        """See `Destination.can_untag`. Two tags of a manifest of our own tell: docker-registry 2.8 deletes none, and a
        registry that took the manifest along would take ours."""
        check_names(repository)
        body = canonical({**PROBE, "config": descriptor(EMPTY_TYPE, EMPTY)})
        digest = digest_of(body)
        self.blobs.upload(repository, digest_of(EMPTY), len(EMPTY), lambda: iter((EMPTY,)))
        for reference in (digest, *PROBE_TAGS):
            self._put_manifest(repository, reference, MANIFEST_TYPE, body)
        first, second = PROBE_TAGS
        try:
            self._delete(repository, first)
        except PlatformError as error:
            if error.reason != "RegistryRefused":
                raise
            return False  # this login may push and not delete
        works = self.resolve(repository, first) is None and self.resolve(repository, second) == digest
        # Nothing else names this manifest, so here the digest may go with its tags.
        self._delete(repository, second if works else digest)
        return works

    def untag(self, repository: str, tag: str) -> None:
        """See `Destination.untag`; by the tag's name, never by a digest."""
        check_names(repository, tag=tag)
        response = self._delete(repository, tag)
        if response.status_code not in (200, 202, 204, 404):
            raise self.transport.refused(f"DELETE tag {repository}:{tag}", response)

    def collect(self, named: Iterable[tuple[str, str]], age_s: float) -> int:
        """See `Destination.collect`."""
        return 0

    def _delete(self, repository: str, reference: str) -> httpx.Response:
        transport, scope = self.transport, f"repository:{repository}:pull,push,delete"
        url = transport.url(f"{repository}/manifests/{reference}")
        what = f"DELETE manifest {repository}:{reference}"
        return transport.persistently(what, lambda: transport.request("DELETE", url, scope=scope))

    def _next_page(self, response: httpx.Response, repository: str) -> str | None:
        """RFC 8288 `Link: <…>; rel="next"`; followed only inside the same repository."""
        link = response.links.get("next", {}).get("url")
        if not link:
            return None
        prefix = str(httpx.URL(self.transport.url(f"{repository}/")))  # spelled as the address of the answer is
        url = self.transport.led_to(response, link)
        return url.removeprefix(prefix) if url.startswith(prefix) else None

    def _send_empty(self, repository: str, halt: Callable[[], None] | None = None) -> None:
        self.blobs.upload(repository, digest_of(EMPTY), len(EMPTY), lambda: iter((EMPTY,)), halt=halt)
        self.transport.remember_empty(repository, True)

    def _put_referrer(self, repository: str, digest: str, manifest: bytes) -> httpx.Response:
        """PUT a statement's manifest; its config first, where that was there and the registry collected it since."""
        response = self._try_manifest(repository, digest, MANIFEST_TYPE, manifest)
        if response.status_code in (400, 404):
            self.transport.remember_empty(repository, False)
            self._send_empty(repository)
            return self._put_manifest(repository, digest, MANIFEST_TYPE, manifest)
        return self._accepted(repository, digest, response)

    def _list_in_fallback(self, repository: str, tag: str, entry: Mapping[str, Any], index: Manifest | None) -> bool:
        """Add an entry to the index as it was just read; False: it is there."""
        if index is not None and entry["digest"] in {one["digest"] for one in index_entries(index.body)}:
            return False
        self._put_manifest(repository, tag, INDEX_TYPE, index_with(index.body if index else None, entry))
        return True

    def _confirm_in_fallback(self, repository: str, tag: str, entry: Mapping[str, Any]) -> None:
        """Registries have no compare-and-set, so look again after writing: another writer may have been between."""
        for round_ in range(1, ATTACH_ROUNDS + 1):
            if not self._list_in_fallback(repository, tag, entry, self.get_manifest(repository, tag)):
                return
            self.transport.sleep(self.transport.patience.delay_ms(round_, 0) / 1000)
        raise self.transport.broken(f"{repository}:{tag} is overwritten by somebody else again and again")

    def _put_manifest(self, repository: str, reference: str, media_type: str, body: bytes) -> httpx.Response:
        return self._accepted(repository, reference, self._try_manifest(repository, reference, media_type, body))

    def _try_manifest(self, repository: str, reference: str, media_type: str, body: bytes) -> httpx.Response:
        what, headers = f"PUT manifest {repository}:{reference}", {"Content-Type": media_type}
        return self._ask("PUT", repository, f"manifests/{reference}", what, headers, body)

    def _accepted(self, repository: str, reference: str, response: httpx.Response) -> httpx.Response:
        if response.status_code not in (200, 201, 202):
            raise self.transport.refused(f"PUT manifest {repository}:{reference}", response)
        return response

    def _need(self, repository: str, wanted: str | Manifest) -> Manifest:
        if isinstance(wanted, Manifest):
            return wanted
        check_names(repository, digest=wanted)
        manifest = self.get_manifest(repository, wanted)
        if manifest is None:
            raise self._absent(repository, wanted)
        return manifest

    def _absent(self, repository: str, digest: str) -> BuildError:
        return self.transport.broken(f"{repository} has no manifest {digest}")

    def _ask(
        self,
        method: str,
        repository: str,
        path: str,
        what: str,
        headers: Mapping[str, str],
        body: bytes = b"",
    ) -> httpx.Response:
        transport = self.transport
        url = transport.url(f"{repository}/{path}")
        scope = self.blobs.scope(repository)
        return transport.persistently(
            what, lambda: transport.request(method, url, scope=scope, headers=headers, body=body)
        )


def connect(
    host: str,
    *,
    username: str = "",
    password: str = "",
    insecure: bool = False,
    ca_bundle: str = "",
    proxy: str = "",
    mounts: Mounts | None = None,
    access: str = "pull,push",
    check: Callable[[], None] = lambda: None,
    sleep: Callable[[float], None] = time.sleep,
    patience: Patience = PATIENT,
) -> Registry:
    """A registry at `host` ("name[:port]"). Plain HTTP on loopback or when `insecure`; sends nothing yet.

    Loading the CA bundle takes some 20 ms and connections stay open: make one for a host and share it between threads.
    """
    credentials = Credentials(username=username, password=password) if username or password else None
    timeout = httpx.Timeout(patience.silence_s, connect=CONNECT_S)
    client = new_client(ca_bundle=ca_bundle, proxy=proxy, timeout=timeout)
    transport = Transport(
        host=host,
        client=client,
        credentials=credentials,
        insecure=insecure,
        check=check,
        sleep=sleep,
        patience=patience,
    )
    registry = Registry(transport=transport, mounts=mounts, access=access)
    weakref.finalize(registry, client.close)  # whoever forgets `close` leaves no connection open
    return registry
