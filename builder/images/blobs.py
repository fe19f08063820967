"""Blobs of a registry over HTTP (distribution-spec v1.1): asked for, sent, mounted, read.

Each call repeats what may pass, as `transport.py` has it; none sends what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import httpx

from builder.errors import BuildError, PlatformError
from builder.images.destination import BlobMissing, check_names
from builder.images.layer import Layer
from builder.images.mounts import Mounts
from builder.images.transport import Transport, Trouble, counted

CHUNK = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Blobs:
    """The blobs of one registry; `mounts` and `access` as in `Registry`."""

    transport: Transport
    mounts: Mounts | None
    access: str

    def scope(self, repository: str) -> str:
        """What a token is asked for ("repository:x:pull,push")."""
        return f"repository:{repository}:{self.access}"

    def open(self, repository: str, digest: str) -> Iterator[bytes]:
        """See `Destination.open_blob`. A broken connection is resumed where it broke (RFC 9110, 14.2)."""
        check_names(repository, digest=digest)
        what = f"GET blob {repository}@{digest}"
        hasher, done, failed = hashlib.sha256(), 0, 0
        patience = self.transport.patience
        while True:
            try:
                self.transport.check()
                for chunk in self._from(repository, digest, done, what):
                    hasher.update(chunk)
                    done += len(chunk)
                    failed = 0
                    yield chunk
                break
            except Trouble as trouble:
                failed += 1
                if failed >= patience.attempts or trouble.retry_after_ms > patience.longest_ms:
                    said = f"{self.transport.host}: {what}: {trouble.said}; gave up after {counted(failed)}"
                    raise PlatformError("RegistryUnavailable", said, retry_after_ms=trouble.retry_after_ms) from None
                self.transport.sleep(patience.delay_ms(failed, trouble.retry_after_ms) / 1000)
        if digest != "sha256:" + hasher.hexdigest():
            raise self.transport.broken(f"{what}: the bytes are not what the digest says")

    def upload_layer(self, repository: str, layer: Layer, halt: Callable[[], None]) -> bool:
        """Whether a layer was sent: it may be there, or mounted. `halt` raises between two pieces of it where another
        layer cannot be sent."""

        def body() -> Iterator[bytes]:
            with layer.path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    self.transport.check()
                    halt()
                    yield chunk

        mounts = self.mounts if layer.base else None
        source = mounts.source(layer.digest) if mounts else ""
        sent = self.upload(repository, layer.digest, layer.size, body, source, halt=halt)
        if mounts and (sent or not source):
            mounts.remember(layer.digest, repository)
        return sent

    def upload(
        self,
        repository: str,
        digest: str,
        size: int,
        body: Callable[[], Iterator[bytes]],
        source: str = "",
        *,
        ask: bool = True,
        halt: Callable[[], None] | None = None,
        opened: str = "",
    ) -> bool:
        """Make sure that the blob is there; True when its bytes were sent. `ask` first, so that none is sent twice.
        `opened`: an answer of `open_upload`, which the first attempt uses.

        Repeated as a whole: an upload that broke is not resumed, and one that came through although its answer was
        lost is seen by the HEAD. `halt` as in `Transport.persistently`.
        """

        begun = [opened] if opened else []

        def attempt() -> bool:
            if ask and self.is_there(repository, digest):
                return False
            start = begun.pop() if begun else self._start_upload(repository, digest, source)
            if start is None:
                return False
            self._send(repository, digest, size, body, start)
            return True

        return self.transport.persistently(f"PUT blob {repository}@{digest}", attempt, halt)

    def is_there(self, repository: str, digest: str) -> bool:
        """One HEAD."""
        transport = self.transport
        url = transport.url(f"{repository}/blobs/{digest}")
        head = transport.request("HEAD", url, scope=self.scope(repository))
        if head.status_code not in (200, 404):
            raise transport.refused(f"HEAD blob {repository}@{digest}", head)
        return head.status_code == 200

    def open_upload(self, repository: str) -> str:
        """Where to PUT the bytes of a blob that `upload` sends."""
        what = f"POST blob of {repository}"
        return self.transport.persistently(what, lambda: self._session(repository, what))

    def _send(self, repository: str, digest: str, size: int, body: Callable[[], Iterator[bytes]], start: str) -> None:
        transport, what = self.transport, f"blob {repository}@{digest}"
        scope = self.scope(repository)
        # Appended as text: whoever signed the address did not sign a normalized one.
        location = f"{start}{'&' if '?' in start else '?'}digest={digest.replace(':', '%3A')}"
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream"}
        response = transport.request("PUT", location, scope=scope, headers=headers, body=body)
        if response.status_code == 404:  # the session is gone: a restart, or another server behind the same name
            raise Trouble("lost the upload")
        if response.status_code != 201:
            raise transport.refused(f"PUT {what}", response)

    def _start_upload(self, repository: str, digest: str, source: str) -> str | None:
        """Where to PUT the bytes, or None when a mount from `source` made them unnecessary.

        A mount that the registry does not do is answered with an upload, one that we may not do with a refusal.
        """
        transport, what = self.transport, f"POST blob {repository}@{digest}"
        url = transport.url(f"{repository}/blobs/uploads/")
        none = {"Content-Length": "0"}
        response = None
        if source and source != repository:
            scope = f"{self.scope(repository)} repository:{source}:pull"
            with suppress(BuildError):  # a token service may refuse the whole token for the one repository
                response = transport.request("POST", f"{url}?mount={digest}&from={source}", scope=scope, headers=none)
            if response is not None and response.status_code == 201:
                return None
        if response is None or response.status_code != 202:
            return self._session(repository, what)
        return self._begun(what, response)

    def _session(self, repository: str, what: str) -> str:
        url = self.transport.url(f"{repository}/blobs/uploads/")
        scope = self.scope(repository)
        return self._begun(what, self.transport.request("POST", url, scope=scope, headers={"Content-Length": "0"}))

    def _begun(self, what: str, response: httpx.Response) -> str:
        transport = self.transport
        if response.status_code != 202 or "location" not in response.headers:
            raise transport.refused(what, response)
        return transport.led_to(response, response.headers["location"])

    def _from(self, repository: str, digest: str, done: int, what: str) -> Iterator[bytes]:
        transport = self.transport
        headers = {"Range": f"bytes={done}-"} if done else {}
        url = transport.url(f"{repository}/blobs/{digest}")
        with transport.stream("GET", url, scope=self.scope(repository), headers=headers) as response:
            if done and response.status_code == 416:  # the whole blob was already there when the connection broke
                return
            if response.status_code == 404:
                raise BlobMissing("RegistryUnavailable", f"{transport.host}: {what}: answered 404")
            if response.status_code not in (200, 206):
                raise transport.refused(what, response)
            skip = done if response.status_code == 200 else 0
            for chunk in response.iter_raw():
                fresh = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if fresh:
                    yield fresh
