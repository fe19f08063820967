"""What a handler may import: the request it is answering, beyond payload and ctx.

`import ignite`, then `ignite.request().path` inside the handler (also in threads and tasks that it starts with a copy
of its context).
"""

from __future__ import annotations

import contextvars
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Request", "request"]


@dataclass(frozen=True)
class Request:
    """The invocation envelope: method, path and query (without "?") as sent, headers with lower-case names."""

    method: str = "POST"
    path: str = "/"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


_NONE = Request()
_current: contextvars.ContextVar[Request] = contextvars.ContextVar("ignite_request")


def request() -> Request:
    """The request being answered in this thread or task."""
    return _current.get(_NONE)
