"""The one table of errors, and uploads as messages: what a transport gets to write down."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from builder import pipelines
from builder.config import Settings
from builder.contract.codec import Malformed
from builder.contract.dodil.ignite.v1 import ignite_build_pb2 as pb
from builder.data import catalog_file
from builder.errors import REASONS, BuildError
from builder.pipelines import catalog
from builder.services.auth import Caller
from builder.services.errors import CallRefused, status_of
from builder.services.parts import Parts
from builder.services.uploads import Uploads
from builder.store.engine import open_store
from builder.stores.folder import FolderStore

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
    assert (status.code, status.http, status.message, dict(status.detail)) == (code, http, "why", {})


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
            runtimes=pipelines.names(),
            wake=lambda: None,
            fan_out=lambda build_id, lines: None,
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


def test_an_upload_without_the_scope_is_refused_before_its_first_message(uploads: Uploads) -> None:
    def messages() -> list[pb.UploadBuildContextRequest]:
        raise AssertionError("a message was read")

    reader = Caller(organization="acme", scopes=frozenset({"read"}))
    with pytest.raises(CallRefused):
        uploads.upload_build_context(reader, (one for _ in [0] for one in messages()))
