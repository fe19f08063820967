"""What an answer means that has no error of ours: a proxy in between said so, or what answers is another server. Pure.

Its status decides, by the tables of docs/errors.md and docs/cli.md; what to do is another thing than for an error of
ours, whose text knows more.
"""

from __future__ import annotations

from builder.cli.stop import CALL_EXITS, LOST, OUR_BUG, Stop, reason_of
from builder.client.api import CHECK_SCHEME, ApiError
from builder.errors import REASONS

SEE_SERVER = "See which server is taken, and why: ignite-builder config"
TOO_LARGE = "Send less, or let the proxy in between pass on bodies as large as upload_bytes (docs/operators.md)."
PROXY_LOGIN = "Give the HTTP proxy of the environment its login, or name the server in NO_PROXY."

CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    407: "UNAUTHENTICATED",
    408: "DEADLINE_EXCEEDED",
    413: "RESOURCE_EXHAUSTED",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    505: "UNIMPLEMENTED",
}
"""HTTP status → gRPC status name. Others: 3xx and 4xx are a wrong setting, 5xx UNAVAILABLE."""
NEXT = {
    400: CHECK_SCHEME,  # as proxies answer HTTP where TLS is
    401: f"{REASONS['Unauthenticated'].hint} A proxy in between may want a login of its own.",
    403: f"{SEE_SERVER}; a proxy in between may let only some in",
    407: PROXY_LOGIN,
    408: "Send it again, over a connection that is quicker; a proxy in between may wait longer.",
    413: TOO_LARGE,
    429: "Try again later, or ask whoever runs the proxy in between for a higher limit.",
}


def foreign(error: ApiError) -> Stop:
    """The end of a call that was answered without an error of ours."""
    is_setting = error.status < 500 and error.status not in CODES
    code = CODES.get(error.status, "INVALID_ARGUMENT" if is_setting else "UNAVAILABLE")
    exit_code = CALL_EXITS[code]
    return Stop(
        "InvalidRequest" if is_setting else reason_of(code),
        error.message,
        exit_code=exit_code,
        error_class="platform" if exit_code in (LOST, OUR_BUG) else "client",
        where="server" if is_setting else "",
        next=CHECK_SCHEME if error.leads_to else NEXT.get(error.status, SEE_SERVER),
    )
