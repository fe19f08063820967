"""One table: what a call raises → its status on the wire. A transport writes the status down and decides nothing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from builder.contract.codec import Malformed
from builder.errors import BuildError

# gRPC status name → HTTP status of a refused call (contract, section 1). A `BuildError` has its own in its row.
HTTP = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "DEADLINE_EXCEEDED": 408,
    "ALREADY_EXISTS": 409,
    "CANCELLED": 499,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
RETRY_AFTER_S = 1


class CallRefused(Exception):
    """A refused call: gRPC status name and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def unauthenticated(message: str) -> CallRefused:
    return CallRefused("UNAUTHENTICATED", message)


def permission_denied(message: str) -> CallRefused:
    return CallRefused("PERMISSION_DENIED", message)


def not_found(message: str) -> CallRefused:
    return CallRefused("NOT_FOUND", message)


def unimplemented(message: str) -> CallRefused:
    return CallRefused("UNIMPLEMENTED", message)


@dataclass(frozen=True, kw_only=True)
class Status:
    """An error on the wire. `mark` finds the log line of an unforeseen one; `outage` passes by itself."""

    code: str
    http: int
    message: str
    detail: Mapping[str, str] = field(default_factory=dict)
    mark: str = ""
    outage: bool = False


def status_of(error: Exception) -> Status:
    """The status of whatever a call raised. An unforeseen exception's own text may hold anything and stays here."""
    if isinstance(error, CallRefused):
        return Status(code=error.code, http=HTTP[error.code], message=error.message)
    if isinstance(error, Malformed):
        return status_of(BuildError("InvalidRequest", error.message, where=error.where))
    if isinstance(error, BuildError):
        return Status(code=error.row.grpc, http=error.row.http, message=error.message, detail=_detail(error))
    if is_store_outage(error):
        message = "the store of the server does not answer; ask again"
        return Status(code="UNAVAILABLE", http=503, message=message, outage=True)
    mark = secrets.token_hex(4)
    message = f"an error of ours; the server's log has it as {mark}"
    detail = _detail(BuildError("Internal", message))
    return Status(code="INTERNAL", http=500, message=message, detail=detail, mark=mark)


def is_store_outage(error: Exception) -> bool:
    """Whether the store does not answer for now (gone, locked, full). A statement that it refuses is our bug."""
    if isinstance(error, OperationalError):  # SQLite raises this class for a refused statement, too
        return getattr(error.orig, "sqlite_errorname", "") != "SQLITE_ERROR"
    return isinstance(error, InterfaceError | PoolTimeout) or (
        isinstance(error, DBAPIError) and error.connection_invalidated
    )


def _detail(error: BuildError) -> Mapping[str, str]:
    return {"reason": error.reason, "errorClass": str(error.error_class), "where": error.where, "hint": error.next}
