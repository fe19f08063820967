"""One table: what a call raises → its status on the wire. A transport writes the status down and decides nothing."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from builder.contract.codec import Malformed
from builder.errors import BuildError, PlatformError
from builder.store.engine import is_full

RETRY_AFTER_S = 1
"""After an outage of the store."""


class CallRefused(BuildError):
    """A refused call: gRPC status name and a message. Its reason is the same word (`NOT_FOUND`: NotFound)."""

    def __init__(self, code: str, message: str, *, where: str = "", next: str = "") -> None:
        super().__init__(code.title().replace("_", ""), message, where=where, next=next)
        self.code = code


class QuotaExceeded(BuildError):
    """An organization has as much of something as it may have at once. `retry_after_s`: when to ask again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__("QuotaExceeded", message)
        self.retry_after_s = retry_after_s


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
    """An error on the wire. `mark` finds the log line of an unforeseen one; `outage` passes by itself.
    `retry_after_s`: 0 where to ask again is of no use, or at once."""

    code: str
    http: int
    message: str
    detail: Mapping[str, str] = field(default_factory=dict)
    mark: str = ""
    outage: bool = False
    retry_after_s: int = 0


def status_of(error: Exception) -> Status:
    """The status of whatever a call raised. An unforeseen exception's own text may hold anything and stays here."""
    if isinstance(error, Malformed):
        return status_of(BuildError("InvalidRequest", error.message, where=error.where))
    if isinstance(error, BuildError):
        wait = error.retry_after_s if isinstance(error, QuotaExceeded) else 0
        if isinstance(error, PlatformError):
            wait = -(-error.retry_after_ms // 1000)
        row = error.row
        return Status(code=row.grpc, http=row.http, message=error.message, detail=_detail(error), retry_after_s=wait)
    if is_store_outage(error):
        message = "the store of the server does not answer; ask again"
        return Status(code="UNAVAILABLE", http=503, message=message, outage=True, retry_after_s=RETRY_AFTER_S)
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


def is_of_files(error: Exception) -> bool:
    """Whether an outage is of the files of a SQLite store: full, broken, closed to this user. Unlike a lock it does not
    pass because another process ends its transaction."""
    name = getattr(getattr(error, "orig", None), "sqlite_errorname", "")
    return is_store_outage(error) and bool(name) and not name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def is_store_full(error: Exception) -> bool:
    """Whether it is the disk of the store that takes no more."""
    return is_full(error)


def _detail(error: BuildError) -> Mapping[str, str]:
    return {"reason": error.reason, "errorClass": str(error.error_class), "where": error.where, "hint": error.next}
