"""What a node needs to belong to a control side, and why one is not wanted there, in words for its operator. Pure."""

from __future__ import annotations

from builder.client.api import CHECK_SCHEME, ApiError, check_token
from builder.errors import BuildError
from builder.settings import Settings, check_redis_url

CHECK_SERVER = "Set server to the URL of an ignite-builder serve, and node_id and queues to what it takes."
_SET_TOKEN = (
    "Set IGNITE_BUILDER_TOKEN_FILE to a file with a token that the control side lists in tokens with the scope worker."
)


def require_membership(settings: Settings) -> None:
    """Raises `BuildError` InvalidRequest for a node that cannot call any API."""
    if not settings.server:
        message = "a worker needs the URL of the control side"
        step = "Set server, or IGNITE_BUILDER_SERVER=http://HOST:8480; for all of it on one machine: ignite-builder dev"
        raise BuildError("InvalidRequest", message, where="server", next=step)
    if not settings.token:
        message = "a worker needs a token of the control side"
        raise BuildError("InvalidRequest", message, where="token", next=_SET_TOKEN)
    check_token(settings.token)
    check_redis_url(settings.redis_url)


def why_not(error: BuildError) -> str:
    """What a worker that does not start writes."""
    return f"the worker does not start: {error.reason}: {error.message}\nnext: {error.next}\n"


def refusal(error: ApiError) -> BuildError:
    """Why this node is not wanted, and what the operator changes."""
    message = f"the API refuses this node: {error.message}"
    if error.detail.get("reason") == "NodeForgotten":
        return BuildError("NodeForgotten", message, where="token")
    if error.code == "FAILED_PRECONDITION":
        step = "Install the same version on the control side and its nodes, the control side first."
        return BuildError("Internal", message, where="server", next=step)
    if error.code == "PERMISSION_DENIED":
        step = "Use a token with the scope worker, and as node_id the node that this token names, if it names one."
        return BuildError("InvalidRequest", message, where="token", next=step)
    if error.code == "UNAUTHENTICATED":
        return BuildError("InvalidRequest", message, where="token", next=_SET_TOKEN)
    step = CHECK_SCHEME if error.leads_to else CHECK_SERVER
    return BuildError("InvalidRequest", f"{message} (status {error.status})", where="server", next=step)
