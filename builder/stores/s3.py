"""A bucket of sources, by the sha256 of their stored bytes: `<prefix>/sha256/ab/<digest>`.

What comes is written to a file of this machine first: its digest is its name in the bucket. Large sources are uploaded
in parts, each with its checksum. Ages are counted by the clock of the S3 server. boto3 finds the credentials by itself.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, cast

from builder.errors import BuildError, PlatformError
from builder.stores.folder import PartialFile, SourceUrl, Stored, delete_partial, take
from builder.stores.signed import check_lifetime
from builder.text import visible

PART = 16 * 1024 * 1024
"""Bytes of a part; a smaller source is one request."""
YOUNG_S = 900.0
"""What is younger need not be renewed: nothing younger than an hour is deleted."""
STALE_S = 300.0
"""A mark of a deletion that is older was left behind by a process that ended."""
RETRY_MS = 2_000
TRIES = 4
_SHA256 = re.compile(r"[0-9a-f]{64}")
_GONE = frozenset({"404", "NoSuchKey", "NotFound"})
_REFUSED = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "the credentials may not do this",
    "403": "the credentials may not do this",
    "InvalidAccessKeyId": "the credentials are not known there",
    "SignatureDoesNotMatch": "the secret key is not that of the access key",
    "ExpiredToken": "the credentials have expired",
}


class BucketStore:
    """`SourceStore` over S3. `spool`: a folder of this machine for what comes."""

    def __init__(self, place: str, spool: Path, endpoint: str = "", region: str = "", ca_bundle: str = "") -> None:
        """`place`: s3://BUCKET[/PREFIX]. `ca_bundle`: a file; empty: the SDK's own, or that of its variables."""
        self._bucket, _, prefix = place.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._spool, self._endpoint, self._region, self._ca_bundle = spool, endpoint, region, ca_bundle

    @functools.cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            signature_version="s3v4",
            connect_timeout=5,
            read_timeout=30,
            retries={"max_attempts": TRIES, "mode": "standard"},
            # A server at a name of its own has no name for each bucket; older ones know no checksums in trailers.
            s3={"addressing_style": "path" if self._endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.session.Session().client(
            "s3",
            endpoint_url=self._endpoint or None,
            region_name=self._region or None,
            verify=self._ca_bundle or None,
            config=config,
        )

    def begin(self, limit: int) -> PartialFile:
        return PartialFile(self._spool, limit, self._publish)

    def put(self, stream: Iterable[bytes], limit: int) -> Stored:
        return take(stream, self.begin(limit))

    def open(self, sha256: str) -> BinaryIO:
        key = self._key(sha256)
        return cast(
            BinaryIO, io.BufferedReader(_Verified(functools.partial(self._get, key, sha256), sha256), PART // 16)
        )

    def at_hand(self, sha256: str, limit: int) -> bytes:
        return b""  # a claim waits for no bucket

    def renew(self, sha256: str) -> None:
        if not self._touched(sha256):
            raise _not_found(sha256)

    def list(self, age_s: float) -> Iterator[str]:
        start = f"{self._prefix}sha256/"
        for page in self._pages("list_objects_v2", Prefix=start):
            now = _date_of(page)
            for entry in page.get("Contents", ()):
                name = entry["Key"].rpartition("/")[2]
                if _SHA256.fullmatch(name) and now - entry["LastModified"].timestamp() >= age_s:
                    yield name

    def delete(self, sha256: str, age_s: float) -> bool:
        """Whoever is about to name a source writes it first and looks for a mark then; the mark is written before the
        age is looked at. So a renewal shows in the age, or its caller sees the mark. Each deletion has a mark of its
        own: another process, whose deletion ends first, would take a shared one with it."""
        key, mark = self._key(sha256), f"{self._marks(sha256)}{secrets.token_hex(8)}"
        with self._ours():
            self._client.put_object(Bucket=self._bucket, Key=mark, Body=b"")
            try:
                found = self._head(key)
                if found is None or _date_of(found) - found["LastModified"].timestamp() < age_s:
                    return False
                self._client.delete_object(Bucket=self._bucket, Key=key)
                return True
            finally:
                self._client.delete_object(Bucket=self._bucket, Key=mark)

    def delete_unfinished(self, age_s: float) -> int:
        count = delete_partial(self._spool, age_s)
        for page in self._pages("list_multipart_uploads", Prefix=self._prefix):
            now = _date_of(page)
            for upload in page.get("Uploads", ()):
                if now - upload["Initiated"].timestamp() >= age_s:
                    with self._ours():
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                        )
                        count += 1
        for page in self._pages("list_objects_v2", Prefix=f"{self._prefix}deleting/"):
            now = _date_of(page)
            for entry in page.get("Contents", ()):
                if now - entry["LastModified"].timestamp() >= max(age_s, STALE_S):
                    with self._ours():
                        self._client.delete_object(Bucket=self._bucket, Key=entry["Key"])
        return count

    def url(self, sha256: str, seconds: int) -> SourceUrl:
        check_lifetime(seconds)
        self.renew(sha256)
        named = {"Bucket": self._bucket, "Key": self._key(sha256)}
        with self._ours():
            text = self._client.generate_presigned_url("get_object", Params=named, ExpiresIn=seconds)
        return SourceUrl(text=text, expires_ms=int((time.time() + seconds) * 1000))

    def open_signed(self, sha256: str, expires_ms: int, signature: str) -> NoReturn:
        raise BuildError("PermissionDenied", "this URL serves no source, or none any more")

    def _publish(self, file: Path, sha256: str) -> None:
        """Upload what was sealed, unless it is there; `PartialFile` removes the file."""
        if self._touched(sha256):
            return
        with self._ours(), file.open("rb") as body:
            if file.stat().st_size <= PART:
                checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
                self._client.put_object(
                    Bucket=self._bucket, Key=self._key(sha256), Body=body.read(), ChecksumSHA256=checksum
                )
            else:
                self._upload_parts(body, self._key(sha256))
        self._require_unmarked(sha256)

    def _upload_parts(self, body: BinaryIO, key: str) -> None:
        named = {"Bucket": self._bucket, "Key": key}
        upload = self._client.create_multipart_upload(**named, ChecksumAlgorithm="SHA256")["UploadId"]
        parts: list[Mapping[str, object]] = []
        try:
            while data := body.read(PART):
                checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
                number = len(parts) + 1
                done = self._client.upload_part(
                    **named, UploadId=upload, PartNumber=number, Body=data, ChecksumSHA256=checksum
                )
                parts.append({"PartNumber": number, "ETag": done["ETag"], "ChecksumSHA256": checksum})
            self._client.complete_multipart_upload(**named, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with _quietly():
                self._client.abort_multipart_upload(**named, UploadId=upload)
            raise

    def _touched(self, sha256: str) -> bool:
        """Make it young, where it is there: a copy onto itself gives it a new time."""
        key = self._key(sha256)
        with self._ours():
            found = self._head(key)
            if found is None:
                return False
            if _date_of(found) - found["LastModified"].timestamp() >= YOUNG_S:
                self._client.copy_object(
                    Bucket=self._bucket,
                    Key=key,
                    CopySource={"Bucket": self._bucket, "Key": key},
                    MetadataDirective="REPLACE",
                )
        self._require_unmarked(sha256)
        return True

    def _require_unmarked(self, sha256: str) -> None:
        for page in self._pages("list_objects_v2", Prefix=self._marks(sha256)):
            now = _date_of(page)
            if any(now - mark["LastModified"].timestamp() < STALE_S for mark in page.get("Contents", ())):
                raise _unavailable("this source is just being deleted; ask again")

    def _head(self, key: str) -> Any:
        """What is known of an object; None where there is none."""
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["Error"]["Code"] in _GONE:
                return None
            raise

    def _get(self, key: str, sha256: str, at: int) -> Any:
        """The body from a byte on."""
        more = {"Range": f"bytes={at}-"} if at else {}
        with self._ours(sha256):
            return self._client.get_object(Bucket=self._bucket, Key=key, **more)["Body"]

    def _pages(self, call: str, **named: str) -> Iterator[Any]:
        with self._ours():
            pages = iter(self._client.get_paginator(call).paginate(Bucket=self._bucket, **named))
        while True:
            with self._ours():
                page = next(pages, None)
            if page is None:
                return
            yield page

    def _key(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise BuildError("SourceNotFound", "a source is named by 64 hexadecimal digits")
        return f"{self._prefix}sha256/{sha256[:2]}/{sha256}"

    def _marks(self, sha256: str) -> str:
        """What the names of the marks of a source's deletions begin with."""
        return f"{self._prefix}deleting/{sha256}."

    @contextmanager
    def _ours(self, sha256: str = "") -> Iterator[None]:
        """The bucket's failures as reasons of the table."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        try:
            yield
        except ClientError as error:
            raise self._refused(error, sha256) from error
        except (BotoCoreError, HTTPClientError) as error:
            raise _unavailable(f"the bucket {self._bucket} cannot be used: {visible(str(error), limit=200)}") from error

    def _refused(self, error: Any, sha256: str) -> BuildError:
        found = error.response.get("Error", {})
        code = str(found.get("Code", ""))
        if sha256 and code in _GONE:
            return _not_found(sha256)
        why = _REFUSED.get(code) or f"{code}: {visible(str(found.get('Message', '')), limit=200)}"
        headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        return _unavailable(f"the bucket {self._bucket} refused: {why}", headers.get("retry-after", ""))


class _Verified(io.RawIOBase):
    """A source as it comes; its end raises when the bytes were not those of its digest. `get`: the body from a byte on.

    A connection that breaks is taken up where it broke, a few times.
    """

    def __init__(self, get: Callable[[int], Any], sha256: str) -> None:
        super().__init__()
        self._get, self._sha256, self._hasher = get, sha256, hashlib.sha256()
        self._at, self._left, self._body = 0, TRIES, get(0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _some(self, size: int) -> bytes:
        from botocore.exceptions import BotoCoreError, HTTPClientError

        while True:
            try:
                data = bytes(self._body.read(size))
                break
            except (BotoCoreError, HTTPClientError, OSError) as error:
                self._left -= 1
                if not self._left:
                    raise _unavailable("the download of a source broke off again and again") from error
                self._body.close()
                self._body = self._get(self._at)
        self._hasher.update(data)
        self._at += len(data)
        if not data and size and self._hasher.hexdigest() != self._sha256:
            raise _unavailable(f"the bucket has other bytes than sha256:{self._sha256} there")
        return data

    def close(self) -> None:
        if not self.closed:
            self._body.close()
        super().close()


def _date_of(answer: Any) -> float:
    """The server's time of an answer."""
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        found: datetime = parsedate_to_datetime(text)
        return found.timestamp()
    except (TypeError, ValueError, OverflowError):
        return time.time()


@contextmanager
def _quietly() -> Iterator[None]:
    """What fails while another failure is on its way out: the retention does it later."""
    from botocore.exceptions import BotoCoreError, ClientError

    with suppress(BotoCoreError, ClientError):
        yield


def _not_found(sha256: str) -> BuildError:
    return BuildError("SourceNotFound", f"there is no source sha256:{sha256}")


def _unavailable(message: str, retry_after: str = "") -> PlatformError:
    seconds = int(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 6 else 0
    return PlatformError("SourceStoreUnavailable", message, retry_after_ms=max(RETRY_MS, seconds * 1000))


def require_boto3() -> None:
    """Raises `BuildError` InvalidRequest where boto3 is not installed."""
    import importlib.util

    if importlib.util.find_spec("boto3") is None:
        message = "source_store names a bucket, and boto3 is not installed"
        step = "Install the extra: ignite-builder[s3]"
        raise BuildError("InvalidRequest", message, where="source_store", next=step)
