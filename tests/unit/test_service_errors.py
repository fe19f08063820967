"""The one table of errors, and uploads as messages: what a transport gets to write down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from builder import pipelines
from builder.contract.codec import Malformed
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.errors import REASONS, BuildError
from builder.pipelines import catalog
from builder.services.auth import Caller
from builder.services.builds import BuildService
from builder.services.errors import CallRefused, QuotaExceeded, status_of
from builder.services.parts import Parts
from builder.services.shares import Memory
from builder.services.uploads import Uploads
from builder.settings import Settings
from builder.store.engine import open_store
from builder.stores.folder import FolderStore

MIB = 1024 * 1024
ACME = Caller(organization="acme", scopes=frozenset({"submit", "read"}))


@pytest.mark.parametrize(
    ("code", "http"),
    [
        ("FAILED_PRECONDITION", 400),
        ("UNAUTHENTICATED", 401),
        ("PERMISSION_DENIED", 403),
        ("NOT_FOUND", 404),
        ("DEADLINE_EXCEEDED", 408),
        ("ALREADY_EXISTS", 409),
        ("UNIMPLEMENTED", 501),
    ],
)
def test_a_refused_call(code: str, http: int) -> None:
    status = status_of(CallRefused(code, "why"))
    assert (status.code, status.http, status.message) == (code, http, "why")
    assert status.detail["reason"] == code.title().replace("_", "")
    assert status.detail["errorClass"] == "client" and status.detail["hint"]


@pytest.mark.parametrize("reason", sorted(REASONS))
def test_a_failure_has_the_codes_of_its_row(reason: str) -> None:
    status = status_of(BuildError(reason, "why", where="name", next="do this"))
    row = REASONS[reason]
    assert (status.code, status.http, status.message) == (row.grpc, row.http, "why")
    wanted = {"reason": reason, "errorClass": str(row.error_class), "where": "name", "hint": "do this"}
    assert (dict(status.detail), status.mark, status.outage) == (wanted, "", False)


def test_what_the_contract_refuses_is_an_invalid_request() -> None:
    status = status_of(Malformed("name must be a string", "name"))
    assert (status.code, status.http, status.detail["where"]) == ("INVALID_ARGUMENT", 400, "name")


@pytest.mark.parametrize(
    "error", [OperationalError("select 1", None, Exception("gone")), PoolTimeout("no connection is free")]
)
def test_a_store_that_does_not_answer_is_waited_for(error: Exception) -> None:
    status = status_of(error)
    assert (status.code, status.http, status.outage, status.mark) == ("UNAVAILABLE", 503, True, "")
    assert status.retry_after_s == 1


@pytest.mark.parametrize("error", [RuntimeError("secret"), IntegrityError("insert", None, Exception("secret"))])
def test_an_unforeseen_error_keeps_its_text_and_has_a_mark(error: Exception) -> None:
    status = status_of(error)
    assert (status.code, status.http, status.outage) == ("INTERNAL", 500, False)
    assert status.mark and status.mark in status.message
    assert "secret" not in str(status)


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(
        Parts(
            settings=Settings(),
            store=open_store(f"sqlite:///{tmp_path}/builder.db"),
            sources=FolderStore(tmp_path / "sources"),
            catalog=catalog.read(catalog_file("")),
            runtimes=pipelines.arguments(),
            wake=lambda: None,
            changed=lambda build_id: None,
            stale=lambda call: None,
            dropped=lambda count: None,
        )
    )


def message(data: bytes = b"", size: int | None = None) -> pb.UploadBuildContextRequest:
    if size is None:
        return pb.UploadBuildContextRequest(chunk=data)
    return pb.UploadBuildContextRequest(metadata=pb.UploadMetadata(expected_size_bytes=size))


@pytest.mark.parametrize("head", [[], [message(size=0)], [message(size=5)]])
def test_an_upload_is_its_chunks(uploads: Uploads, head: list[pb.UploadBuildContextRequest]) -> None:
    kept = uploads.upload_build_context(ACME, [*head, message(b"ab"), message(b"cde")])
    assert kept.size_bytes == 5 and kept.context_id and kept.sha256.startswith("sha256:")


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([message(b"ab"), message(size=2)], "part"),
        ([message(size=2), message(size=2), message(b"ab")], "part"),
        ([pb.UploadBuildContextRequest()], "part"),
        ([message(size=3), message(b"ab")], "metadata.expectedSizeBytes"),
    ],
)
def test_an_upload_in_another_order_or_size_is_refused(
    uploads: Uploads, messages: list[pb.UploadBuildContextRequest], where: str
) -> None:
    with pytest.raises(BuildError) as refused:
        uploads.upload_build_context(ACME, messages)
    assert (refused.value.reason, refused.value.where) == ("InvalidRequest", where)


def test_an_upload_without_bytes_is_refused_and_leaves_nothing(uploads: Uploads, tmp_path: Path) -> None:
    for messages in ([], [message(size=0)], [message(b"")]):
        with pytest.raises(BuildError) as refused:
            uploads.upload_build_context(ACME, messages)
        assert refused.value.reason == "SourceEmpty"
    assert not [path for path in (tmp_path / "sources").rglob("*") if path.is_file()]


def with_settings(uploads: Uploads, **values: Any) -> Uploads:
    return Uploads(dataclasses.replace(uploads._parts, settings=Settings(**values)))


def test_uploads_that_nothing_names_are_bounded_for_each_organization(uploads: Uploads, tmp_path: Path) -> None:
    small = with_settings(uploads, kept_upload_bytes=MIB)
    first = small.upload_build_context(ACME, [message(b"a" * (MIB - 1))])
    with pytest.raises(QuotaExceeded) as refused:
        small.upload_build_context(ACME, [message(b"bc")])
    assert status_of(refused.value).retry_after_s > 0
    assert len([path for path in (tmp_path / "sources").rglob("*") if path.is_file()]) == 1
    with pytest.raises(QuotaExceeded):  # what is announced is judged before anything is read
        small.begin(ACME, announced=2)
    other = Caller(organization="other", scopes=frozenset({"submit"}))
    assert small.upload_build_context(other, [message(b"bc")]).size_bytes == 2
    again = small.upload_build_context(ACME, [message(b"x")])
    assert again.size_bytes == 1
    # A build that names the upload takes it out of the quota.
    request = pb.CreateBuildRequest(name="app", context_id=first.context_id)
    BuildService(small._parts).create_build(ACME, request)
    assert small.upload_build_context(ACME, [message(b"c" * (MIB - 1))]).size_bytes == MIB - 1


def test_an_organization_has_so_many_uploads_open_and_no_more(uploads: Uploads) -> None:
    share = with_settings(uploads, open_uploads=2).share
    share.take("acme")
    with share.one("acme"):
        with pytest.raises(QuotaExceeded):
            share.take("acme")
        share.take("other")
    share.take("acme")


def test_bodies_in_memory_are_bounded_for_all_and_for_each() -> None:
    memory = Memory(400)
    memory.take("a", 390)  # the largest single body always passes
    with pytest.raises(QuotaExceeded):
        memory.take("a", 1)
    with pytest.raises(QuotaExceeded):
        memory.take("b", 20)
    memory.give_back("a", 390)
    for name in "abcd":
        memory.take(name, 100)
    with pytest.raises(QuotaExceeded):
        memory.take("e", 1)
    with pytest.raises(QuotaExceeded):
        memory.take("d", 1, 100)
    for name in "abcd":
        memory.give_back(name, 100)
    assert memory.total == 0


def test_an_upload_without_the_scope_is_refused_before_its_first_message(uploads: Uploads) -> None:
    def messages() -> list[pb.UploadBuildContextRequest]:
        raise AssertionError("a message was read")

    reader = Caller(organization="acme", scopes=frozenset({"read"}))
    with pytest.raises(CallRefused):
        uploads.upload_build_context(reader, (one for _ in [0] for one in messages()))
