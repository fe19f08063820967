"""Sources in a bucket: moto's server and versitygw, a real S3 server, and what fails on the way to them."""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from builder.errors import BuildError, PlatformError
from builder.services.errors import status_of
from builder.stores import s3
from builder.stores.s3 import BucketStore
from tests.s3_fixtures import CREDENTIALS, REGION, FaultyProxy, answer, bucket_at, moto_server, reset, versity_server

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def credentials() -> Iterator[None]:
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ.update(CREDENTIALS)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def versity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with versity_server(tmp_path_factory.mktemp("versity") / "s3") as url:
        yield url


@pytest.fixture(scope="module", params=["moto", "versitygw"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "versitygw":
        yield request.getfixturevalue("versity")
    else:
        with moto_server() as url:
            yield url


@pytest.fixture
def store(server: str, tmp_path: Path) -> BucketStore:
    return bucket_at(server, tmp_path / "spool", prefix=f"ignite/{tmp_path.name}".replace("[", "-").replace("]", "-"))


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(BuildError) as caught:
        call()
    return caught.value.reason


def read(store: Any, sha256: str) -> bytes:
    with store.open(sha256) as file:
        data: bytes = file.read()
        return data


def parts_of(size: int) -> bytes:
    return b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(size // 32 + 1))[:size]


def test_a_source_is_stored_once_by_its_digest_and_read_again(store: BucketStore, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()
    for chunks in ([b"hel", b"lo"], [b"hello"]):
        stored = store.put(chunks, 5)
        assert (stored.sha256, stored.size) == (digest, 5)
    assert read(store, digest) == b"hello"
    assert list(store.list(-1)) == [digest] and list(store.list(3600)) == []
    assert reason(lambda: store.put([b"hello!"], 5)) == "ArchiveTooLarge"
    assert reason(lambda: store.open("0" * 64)) == "SourceNotFound"
    assert reason(lambda: store.renew("0" * 64)) == "SourceNotFound"
    assert reason(lambda: store.url("0" * 64, 60)) == "SourceNotFound"
    assert reason(lambda: store.open_signed(digest, 1, "")) == "PermissionDenied"
    for name in ("", "../" * 21 + "x", "A" * 64, "0" * 65):
        assert reason(partial(store.open, name)) == "SourceNotFound"
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_large_source_travels_in_parts(store: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", 5 * 1024 * 1024)  # the least that S3 takes
    data = parts_of(12 * 1024 * 1024 + 7)
    stored = store.put([data[:1000], data[1000:]], len(data))
    assert stored.sha256 == hashlib.sha256(data).hexdigest()
    assert read(store, stored.sha256) == data
    with store.open(stored.sha256) as file:
        assert file.read(10) == data[:10]


def test_a_url_serves_its_source_until_it_expires(store: BucketStore) -> None:
    stored, other = store.put([b"mine"], 99), store.put([b"theirs"], 99)
    url = store.url(stored.sha256, 60)
    with urllib.request.urlopen(url.text) as found:
        assert found.read() == b"mine"
    assert stored.sha256 in url.text and "mine" not in repr(url) and "Signature" not in repr(url)
    assert reason(lambda: store.url(stored.sha256, 3601)) == "InvalidRequest"
    assert other.sha256 not in url.text


def test_a_deleted_source_is_gone_and_a_renewed_one_stays(store: BucketStore, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = store.put([b"x"], 9).sha256
    assert not store.delete(digest, 3600) and read(store, digest) == b"x"
    monkeypatch.setattr(s3, "YOUNG_S", 0.0)
    store.renew(digest)  # a copy onto itself
    assert read(store, digest) == b"x"
    assert store.delete(digest, -1) and not store.delete(digest, -1)
    assert reason(lambda: store.open(digest)) == "SourceNotFound"
    assert list(store.list(-1)) == []


def test_a_renewal_beside_a_deletion_is_seen_by_one_of_them(
    store: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each request of the deletion another process names the source: then it stays, or that process is told."""
    monkeypatch.setattr(s3, "YOUNG_S", 0.0)
    for at in range(4):
        digest = store.put([b"x%d" % at], 9).sha256
        other = BucketStore(f"s3://sources/{store._prefix}", store._spool, store._endpoint, REGION)
        calls, named = [], []
        inner = store._client._make_api_call

        def between(operation: str, parameters: Any, at: int = at, other: BucketStore = other) -> Any:
            calls.append(operation)  # noqa: B023
            if len(calls) == at + 1:  # noqa: B023
                try:
                    other.renew(digest)  # noqa: B023
                    named.append("renewed")  # noqa: B023
                except BuildError as error:
                    named.append(error.reason)  # noqa: B023
            return inner(operation, parameters)  # noqa: B023

        monkeypatch.setattr(store._client, "_make_api_call", between)
        gone = store.delete(digest, -1)
        monkeypatch.setattr(store._client, "_make_api_call", inner)
        assert calls[:2] == ["PutObject", "HeadObject"]
        if gone and named == ["renewed"]:
            assert at == 0, "before the mark: its age is young then, which a real deletion sees"
        if at in (1, 2):
            assert named == ["SourceStoreUnavailable"], (at, named)


def test_the_end_of_another_deletion_leaves_the_mark_of_this_one(
    store: BucketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = store.put([b"x"], 9).sha256
    other = BucketStore(f"s3://sources/{store._prefix}", store._spool, store._endpoint, REGION)
    inner = store._client._make_api_call
    named: list[object] = []

    def before(operation: str, parameters: Any) -> Any:
        if operation == "DeleteObject" and not named:
            named.append(other.delete(digest, 3600))
            named.append(reason(lambda: other.renew(digest)))
        return inner(operation, parameters)

    monkeypatch.setattr(store._client, "_make_api_call", before)
    assert store.delete(digest, -1)
    assert named == [False, "SourceStoreUnavailable"]
    assert store.put([b"x"], 9).sha256 == digest, "no mark is left"


def test_what_a_broken_upload_left_goes(store: BucketStore, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    key = store._key("1" * 64)
    store._client.create_multipart_upload(Bucket="sources", Key=key)
    (tmp_path / "spool").mkdir(exist_ok=True)
    (tmp_path / "spool" / ".partial-x").write_bytes(b"x")
    if "versitygw" in request.node.name:  # moto lists every upload as one of 2010
        assert store.delete_unfinished(3600) == 0
    assert store.delete_unfinished(-1) == 2
    assert list((tmp_path / "spool").iterdir()) == []
    assert not store._client.list_multipart_uploads(Bucket="sources", Prefix=store._prefix).get("Uploads")


# What fails


@pytest.fixture
def proxied(versity: str, tmp_path: Path) -> Iterator[tuple[FaultyProxy, BucketStore]]:
    with FaultyProxy(versity) as proxy:
        name = tmp_path.name.replace("[", "-").replace("]", "-")
        yield proxy, bucket_at(proxy.url, tmp_path / "spool", prefix=f"faulty/{name}")


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_each_request_may_fail_once(
    proxied: tuple[FaultyProxy, BucketStore], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, store = proxied
    monkeypatch.setattr(s3, "PART", 5 * 1024 * 1024)
    data = parts_of(6 * 1024 * 1024)
    failed: set[str] = set()

    def once(request: BaseHTTPRequestHandler) -> bool:
        what = f"{request.command} {request.path}"
        if what in failed:
            return False
        failed.add(what)
        if fault == "reset":
            reset(request)
        else:
            answer(
                request,
                int(fault),
                "SlowDown" if fault == "503" else "InternalError" if fault == "500" else "Throttling",
            )
        return True

    proxy.fault = once
    stored = store.put([data], len(data))
    assert read(store, stored.sha256) == data
    assert list(store.list(-1)) == [stored.sha256]
    assert store.delete(stored.sha256, -1)
    assert len(failed) > 6


def test_a_download_goes_on_where_it_broke(proxied: tuple[FaultyProxy, BucketStore]) -> None:
    proxy, store = proxied
    data = parts_of(3 * 1024 * 1024)
    stored = store.put([data], len(data))
    proxy.cuts = [1_000_000, 500_000, 1]
    assert read(store, stored.sha256) == data
    assert not proxy.cuts
    proxy.cuts = [1000] * 20
    assert reason(lambda: read(store, stored.sha256)) == "SourceStoreUnavailable"


def test_other_bytes_than_the_digest_names_are_refused(store: BucketStore) -> None:
    digest = store.put([b"right"], 9).sha256
    store._client.put_object(Bucket="sources", Key=store._key(digest), Body=b"wrong")
    assert reason(lambda: read(store, digest)) == "SourceStoreUnavailable"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (403, "AccessDenied", "the credentials may not do this"),
        (404, "NoSuchBucket", "there is no such bucket"),
    ],
)
def test_what_the_bucket_refuses_is_ours_with_a_time_to_ask_again(
    proxied: tuple[FaultyProxy, BucketStore], status: int, code: str, words: str
) -> None:
    proxy, store = proxied

    def refuse(request: BaseHTTPRequestHandler) -> bool:
        answer(request, status, code, retry_after="1")
        return True

    proxy.fault = refuse
    with pytest.raises(PlatformError, match=words) as caught:
        list(store.list(-1))
    on_wire = status_of(caught.value)
    assert (caught.value.reason, on_wire.http, on_wire.retry_after_s) == ("SourceStoreUnavailable", 503, 2)


def test_a_server_that_is_away_is_ours(tmp_path: Path) -> None:
    store = BucketStore("s3://sources", tmp_path, "http://127.0.0.1:1", REGION)
    with pytest.raises(PlatformError, match="the bucket sources cannot be used") as caught:
        store.put([b"x"], 9)
    assert caught.value.reason == "SourceStoreUnavailable"
    assert list(tmp_path.iterdir()) == []


def test_threads_share_a_store(store: BucketStore) -> None:
    found: dict[int, bytes] = {}

    def one(number: int) -> None:
        stored = store.put([b"%d" % number], 9)
        found[number] = read(store, stored.sha256)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: b"%d" % number for number in range(8)}
