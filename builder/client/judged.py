"""What an answer of the API's client is to an owner: none, or a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from builder.claims.calls import Refused, Unanswered
from builder.client.api import ApiError, ApiUnreachable

TOO_LARGE = frozenset({413, 414})
"""Status codes about the request itself: whoever says so says it of the same request again."""


@contextmanager
def judged(*, is_known: bool = True) -> Iterator[None]:
    """A call inside raises `Unanswered` or `Refused`.

    What a proxy in between says is nobody's verdict on a claim: it may be set right while the lease lasts.
    `is_known`: the API has answered before; until then an answer that is none of its own means that it is elsewhere.
    """
    try:
        yield
    except ApiUnreachable as error:
        raise Unanswered(str(error)) from error
    except ApiError as error:
        if error.is_foreign and is_known and error.status not in TOO_LARGE:
            raise Unanswered(str(error)) from error
        raise Refused(str(error)) from error
