"""Canonical archives, and the URLs that serve one stored source for a while."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from builder.attempt import canonical
from builder.attempt.canonical import MTIME, write_archive
from builder.claims.calls import Refused
from builder.errors import BuildError
from builder.local.calls import ServiceCalls
from builder.services.archives import MOST_OF_CLAIM
from builder.settings import validated
from builder.source.limits import ArchiveLimits
from builder.source.unpack import unpack
from builder.store import builds, nodes
from builder.stores.choose import store_of
from builder.stores.folder import FolderStore
from builder.stores.s3 import BucketStore, _date_of
from builder.stores.signed import MOST_URL_S, SignedUrls
from tests.oci_fixtures import make_tree
from tests.unit.test_http import Api

FILES: dict[str, str | bytes] = {
    "b": "bee",
    "a/x": "ex",
    "a-b": "dash",
    "a/.wh.kept": "no deletion",
    "a/sub/y": b"\0" * 3000,
    "z.sh": "#!/bin/sh\n",
    "ünï/" + "long" * 60 + "/f": "deep",
}


def tree(root: Path, names: list[str] | None = None) -> Path:
    ordered = {name: FILES[name] for name in names or FILES}
    make_tree(root, ordered, executable=("z.sh",))
    (root / "empty").mkdir()
    (root / "link").symlink_to("a/x")
    return root


def archive_of(root: Path, out: Path) -> canonical.Archive:
    return write_archive(root, out, limit=ArchiveLimits().archive)


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(BuildError) as caught:
        call()
    return caught.value.reason


# The archive


def test_unpacked_it_takes_no_more_of_a_disk_than_is_counted(tmp_path: Path) -> None:
    """As the kubelet counts a volume: blocks, of which a byte takes a whole one. Thousands of small files, as the locks
    and stubs of a package manager are, take many times their bytes."""
    root, copy = tree(tmp_path / "root"), tmp_path / "copy"
    for number in range(1000):
        (root / "empty" / f"{number}{'n' * 200}").write_bytes(b"x" * 300)
    one = archive_of(root, tmp_path / "1.tar")
    with tarfile.open(one.path) as archive:
        archive.extractall(copy, filter="tar")
    found = [copy, *copy.rglob("*")]
    assert sum(path.lstat().st_blocks * 512 for path in found) <= one.unpacked + 1024 * 1024, (
        "a Job's volume has it more"
    )
    assert one.unpacked >= 1000 * 2 * 4096, "also on a file system that is thriftier than most"


def test_the_same_tree_is_the_same_archive_whatever_its_times_modes_and_order(tmp_path: Path) -> None:
    one = archive_of(tree(tmp_path / "one"), tmp_path / "1.tar")
    before = os.umask(0o077)
    try:
        other = tree(tmp_path / "other", sorted(FILES, reverse=True))
    finally:
        os.umask(before)
    os.utime(other / "b", (1, 1))
    two = archive_of(other, tmp_path / "2.tar")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert one.sha256 == two.sha256 == hashlib.sha256(one.path.read_bytes()).hexdigest()
    assert one.size == one.path.stat().st_size
    (other / "b").write_text("bed")
    assert archive_of(other, tmp_path / "3.tar").sha256 != one.sha256


def test_an_archive_has_every_entry_once_and_folders_first(tmp_path: Path) -> None:
    made = archive_of(tree(tmp_path / "t"), tmp_path / "t.tar")
    with tarfile.open(made.path) as tar:
        members = tar.getmembers()
        file = tar.extractfile("a/sub/y")
        assert file is not None and file.read() == b"\0" * 3000
    names = [member.name for member in members]
    assert len(set(names)) == len(names)
    assert set(FILES) | {"a", "a/sub", "ünï", "empty", "link"} <= set(names)
    for member in members:
        parent = os.path.dirname(member.name)
        assert not parent or names.index(parent) < names.index(member.name)
        assert (member.uid, member.gid, member.uname, member.mtime) == (0, 0, "", MTIME)
    modes = {member.name: (member.type, member.mode) for member in members}
    assert modes["z.sh"] == (tarfile.REGTYPE, 0o755) and modes["b"] == (tarfile.REGTYPE, 0o644)
    assert modes["link"] == (tarfile.SYMTYPE, 0o777) and modes["empty"] == (tarfile.DIRTYPE, 0o755)


def test_our_own_reader_accepts_it_and_packs_the_same_again(tmp_path: Path) -> None:
    made = archive_of(tree(tmp_path / "t"), tmp_path / "t.tar")
    unpack(made.path, tmp_path / "again", ArchiveLimits())
    assert archive_of(tmp_path / "again", tmp_path / "again.tar").sha256 == made.sha256


def test_an_archive_over_the_limit_is_refused_and_a_full_one_is_within_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "t")
    assert reason(lambda: write_archive(root, tmp_path / "t.tar", limit=4096)) == "ArchiveTooLarge"
    worst = make_tree(tmp_path / "w", {"/".join(["é" * 120] * 8): "x"})
    (worst / "l").symlink_to("é/" * 500 + "x")
    made = archive_of(worst, tmp_path / "w.tar")
    limits = ArchiveLimits(unpacked=1, entries=10)
    assert made.size <= limits.archive


# The URL


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path, {})
    yield made
    made.store.engine.dispose()


def ask(api: Api, method: str, url: str, **more: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(api.app), base_url="http://api") as client:
            return await client.request(method, url, **more)

    return asyncio.run(asked())


def sources(api: Api) -> FolderStore:
    return FolderStore(api.folder / "sources", "http://api")


def test_a_url_serves_its_source_and_no_other_without_a_token(api: Api) -> None:
    store = sources(api)
    stored, other = store.put([b"mine"], 99), store.put([b"theirs"], 99)
    url = store.url(stored.sha256, 60)
    assert url.text.startswith(f"http://api/v1/ignite/sources/{stored.sha256}?")
    assert "signature" not in repr(url)
    answer = ask(api, "GET", url.text)
    assert (answer.status_code, answer.content) == (200, b"mine")
    assert (answer.headers["content-length"], answer.headers["cache-control"]) == ("4", "no-store")
    head = ask(api, "HEAD", url.text)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "4")
    assert ask(api, "GET", url.text.replace(stored.sha256, other.sha256)).status_code == 403
    for method in ("POST", "PUT", "DELETE"):
        assert ask(api, method, url.text).status_code == 405
    for path in ("/v1/ignite/sources", "/v1/ignite/sources/"):
        assert ask(api, "GET", path, headers={"authorization": "Bearer t"}).status_code == 404


def test_a_url_is_of_no_use_when_it_expired_or_was_changed_or_the_source_is_gone(api: Api) -> None:
    store = sources(api)
    stored = store.put([b"mine"], 99)
    url = store.url(stored.sha256, 60)
    now = int(time.time() * 1000)
    signed = SignedUrls(api.folder / "sources" / "url.key")

    def status(expires: object, signature: str) -> int:
        path = f"/v1/ignite/sources/{stored.sha256}?expires={expires}&signature={signature}"
        return ask(api, "GET", path, headers={"authorization": "Bearer t"}).status_code

    assert status(now + 60_000, signed.sign(stored.sha256, now + 60_000)) == 200
    assert status(now - 1, signed.sign(stored.sha256, now - 1)) == 403, "expired"
    late = now + MOST_URL_S * 1000 + 60_000
    assert status(late, signed.sign(stored.sha256, late)) == 403, "longer than any lives"
    assert status(url.expires_ms + 1, signed.sign(stored.sha256, url.expires_ms)) == 403, "another time"
    for signature in ("", "0" * 64, "é", signed.sign(stored.sha256, url.expires_ms).upper()):
        assert status(url.expires_ms, signature) == 403
    assert status("x", "0") == 400
    store.delete(stored.sha256, -1)
    assert ask(api, "GET", url.text).status_code == 404


def test_no_url_is_valid_before_the_first_was_made_and_each_folder_has_a_key_of_its_own(api: Api) -> None:
    """Without a key file the empty key must sign nothing."""
    store = sources(api)
    stored = store.put([b"mine"], 99)
    elsewhere = FolderStore(api.folder / "elsewhere", "http://api")
    elsewhere.put([b"mine"], 99)
    foreign = elsewhere.url(stored.sha256, 60)
    assert ask(api, "GET", foreign.text).status_code == 403
    store.url(stored.sha256, 60)
    assert ask(api, "GET", foreign.text).status_code == 403
    key = api.folder / "sources" / "url.key"
    assert key.stat().st_mode & 0o777 == 0o600
    key.write_bytes(b"")
    for signer in (b"", b"\0"):
        (api.folder / "empty.key").write_bytes(signer)
        assert reason(lambda: SignedUrls(api.folder / "empty.key").sign("0" * 64, 1)) == "SourceStoreUnavailable"


def test_a_url_lives_a_bounded_time_and_needs_an_address(tmp_path: Path) -> None:
    store = FolderStore(tmp_path, "http://api")
    stored = store.put([b"mine"], 99)
    for seconds in (0, -1, MOST_URL_S + 1):
        assert reason(partial(store.url, stored.sha256, seconds)) == "InvalidRequest"
    assert reason(lambda: store.url("0" * 64, 60)) == "SourceNotFound"
    assert reason(lambda: FolderStore(tmp_path).url(stored.sha256, 60)) == "FailedPrecondition"


# Storing an archive under a claim


@pytest.fixture
def claimed(api: Api) -> tuple[str, int]:
    answer = ask(
        api,
        "POST",
        "/v1/ignite/builds",
        headers={"authorization": "Bearer t"},
        json={"name": "n", "code": {"compile": {"runtime": {"python": {}}, "sourceCode": "eCA9IDEK"}}},
    )
    build_id = answer.json()["buildId"]
    nodes.register(api.store, "node", ["compile.python"], {"python-3.11": "sha256:0"}, 2, 60_000)
    granted = builds.claim(api.store, build_id, "node", "n", 60_000)
    assert granted.row is not None
    return build_id, int(granted.row["claim"])


def send(api: Api, claimed: tuple[str, int], data: Any, sha256: str, token: str = "node", **more: Any) -> Any:
    path = f"/v1/ignite/worker/builds/{claimed[0]}/archive?claim={claimed[1]}&sha256={sha256}&livesS=60"
    return api.post(path, token, content=data, **more)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_owner_of_a_claim_stores_an_archive_and_gets_its_url(api: Api, claimed: tuple[str, int]) -> None:
    data = b"archive" * 1000
    for _ in range(2):  # repeatable
        answer = send(api, claimed, data, digest(data))
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert (found["sha256"], found["sizeBytes"]) == ("sha256:" + digest(data), "7000")
        assert ask(api, "GET", found["url"]).content == data
        assert 0 < int(found["expiresAtMs"]) - time.time() * 1000 <= 60_000


def test_an_archive_with_another_digest_or_claim_is_not_stored(api: Api, claimed: tuple[str, int]) -> None:
    data = b"archive"
    answer = send(api, claimed, b"another", digest(data))
    assert (answer.status_code, answer.json()["details"][0]["where"]) == (400, "sha256")
    assert send(api, (claimed[0], claimed[1] + 1), data, digest(data)).status_code == 404
    assert send(api, ("nobody", 1), data, digest(data)).status_code == 404
    assert send(api, claimed, data, "0" * 63).status_code == 400
    assert send(api, claimed, data, digest(data), token="t").status_code == 403
    assert send(api, claimed, data, digest(data), headers={"content-type": "text/plain"}).status_code == 415
    for content in (data, b"another"):
        assert reason(partial(sources(api).open, digest(content))) == "SourceNotFound"


def test_an_archive_of_a_claim_that_ended_meanwhile_is_not_stored(api: Api, claimed: tuple[str, int]) -> None:
    data = b"archive"

    async def body() -> Any:
        yield data[:3]
        assert builds.hand_back(api.store, *claimed, "drain") is not None
        yield data[3:]

    assert send(api, claimed, body(), digest(data)).status_code == 404
    assert reason(lambda: sources(api).open(digest(data))) == "SourceNotFound"
    assert not [path for path in (api.folder / "sources").iterdir() if path.name.startswith(".partial")]


def test_a_claim_stores_few_archives_of_a_bounded_size(api: Api, claimed: tuple[str, int]) -> None:
    async def nothing() -> Any:
        yield b""

    many = ArchiveLimits().archive + 1
    assert send(api, claimed, nothing(), "0" * 64, headers={"content-length": str(many)}).status_code == 413
    for number in range(MOST_OF_CLAIM):
        data = b"%d" % number
        assert send(api, claimed, data, digest(data)).status_code == 200
    assert send(api, claimed, b"more", digest(b"more")).status_code == 400
    assert send(api, claimed, b"0", digest(b"0")).status_code == 200, "one of them again"


def test_bytes_over_the_limit_end_an_archive_that_announced_none(api: Api, claimed: tuple[str, int]) -> None:
    archives = api.workers.archives
    archives.limit = 10

    async def body() -> Any:
        yield b"x" * 11

    assert send(api, claimed, body(), "0" * 64).status_code == 413


def test_an_owner_in_this_process_stores_its_archive_alike(tmp_path: Path, api: Api, claimed: tuple[str, int]) -> None:
    made = archive_of(tree(tmp_path / "t"), tmp_path / "t.tar")
    calls = ServiceCalls(api.workers)
    stored = calls.store_archive(*claimed, made.path, made.sha256, 60)
    assert stored.sha256 == "sha256:" + made.sha256
    assert ask(api, "GET", stored.url).content == made.path.read_bytes()
    with pytest.raises(Refused, match="NOT_FOUND"):
        calls.store_archive(claimed[0], claimed[1] + 1, made.path, made.sha256, 60)


# Which store, and which address


def test_the_settings_name_the_store_and_its_address(tmp_path: Path) -> None:
    folder = {"data_dir": str(tmp_path)}
    assert isinstance(store_of(validated(folder)), FolderStore)
    for place in ("s3://sources", "s3://sources/prod/x/", "s3://a.b-c/d_e"):
        assert isinstance(store_of(validated({**folder, "source_store": place})), BucketStore)
    for wrong in ("sources", "s3://", "s3://A", "s3://sources//x", "https://sources", "s3://sources/a b"):
        with pytest.raises(ValueError, match="source_store: it takes s3://BUCKET"):
            validated({"source_store": wrong})


@pytest.mark.parametrize(
    ("listen", "public", "api"),
    [
        ("127.0.0.1:8480", "", "http://127.0.0.1:8480"),
        ("0.0.0.0:8480", "", ""),
        ("127.0.0.1:0", "", ""),
        ("0.0.0.0:8480", "https://api.example.com/", "https://api.example.com"),
    ],
)
def test_the_address_of_urls_is_one_that_others_reach(listen: str, public: str, api: str) -> None:
    assert validated({"listen": listen, "public_url": public}).api_url == api


@pytest.mark.parametrize("date", ["", "soon", "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"])
def test_a_store_whose_time_cannot_be_read_has_ours(date: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.stores.s3.time.time", lambda: 5.0)
    assert _date_of({"ResponseMetadata": {"HTTPHeaders": {"date": date}}}) == 5.0
