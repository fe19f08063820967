"""Where the artifact of an attempt goes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.attempt.attempt import Attempt
from builder.images import place
from builder.images.destination import Destination
from builder.images.mounts import Mounts

if TYPE_CHECKING:
    from builder.images.registry import Registry


class Destinations:
    """Gives the place that a grant names; its waits end when the attempt must stop. One for each process, which has one
    attempt at a time: connections and tokens of a registry are there for the next build, as long as its grant names the
    same registry and login."""

    def __init__(self) -> None:
        self._of: tuple[object, ...] = ()
        self._first: Registry | None = None
        """Whose end closes the connections."""
        self._last: Registry | None = None

    def __call__(self, attempt: Attempt) -> Destination:
        target, settings = attempt.grant.destination, attempt.node.settings
        mounts = Mounts(
            folder=Path(settings.node_dir) / "pushed",
            host=target.registry,
            organization=attempt.grant.organization_name,
        )
        login: dict[str, Any] = {
            "username": target.username,
            "password": target.password,
            "insecure": target.insecure,
            "ca_bundle": settings.ca_bundle,
        }
        if not target.registry:
            return place.destination("", target.layout_path)
        asked = (target.registry, *login.values())
        if asked != self._of or self._first is None or self._last is None:
            from builder.images.registry import connect  # with the HTTP client

            self._first = self._last = connect(target.registry, **login)
            self._of = asked
        self._last = self._last.again(mounts, *_waits(attempt))
        return self._last


def _waits(attempt: Attempt) -> tuple[Callable[[], None], Callable[[float], None]]:
    """(check, pause) of an attempt. What keeps them keeps no secret of its grant: it goes when it has ended."""
    ours = weakref.ref(attempt)

    def check() -> None:
        if (one := ours()) is not None:
            one.check()

    def pause(seconds: float) -> None:
        if (one := ours()) is not None:
            one.pause(seconds)

    return check, pause
