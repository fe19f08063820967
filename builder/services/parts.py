"""What the services share: settings, store, sources, and whom a change concerns."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from builder.credentials import Secrets, secrets_of
from builder.errors import BuildError
from builder.pipelines.catalog import Catalog
from builder.services.auth import Caller
from builder.services.errors import not_found
from builder.settings import Settings
from builder.store import builds
from builder.store.engine import Store
from builder.stores.folder import SourceStore

CANDIDATES = 8  # named when several builds have the start of an id that was asked for


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the services share. `wake` wakes the dispatcher, which transitions do by themselves; `changed` wakes the
    tails; `stale` counts a write that came too late, by its call, `dropped` the messages that a node did not accept.

    `runtimes`: those that can be built, as the loaded pipelines name them, each with the build arguments that it reads.
    """

    settings: Settings
    store: Store
    sources: SourceStore
    catalog: Catalog
    runtimes: Mapping[str, Sequence[str]]
    wake: Callable[[], None]
    changed: Callable[[str], None]
    stale: Callable[[str], None]
    dropped: Callable[[int], None]

    @functools.cached_property
    def secrets(self) -> Secrets:
        """The secrets of the store's organizations."""
        return secrets_of(self.settings, self.store)


def find_build(parts: Parts, caller: Caller, build_id: str) -> builds.Row:
    """A build of the caller's organization by any unique start of its id. Raises as `build_of`."""
    return build_of(parts.store, caller.organization, build_id)


def build_of(store: Store, organization: str, build_id: str, where: str = "buildId") -> builds.Row:
    """A build of an organization by any unique start of its id; `where` is the field that has it.

    Raises `CallRefused` NOT_FOUND; `BuildError` InvalidRequest, which names the candidates, when several fit.
    """
    row = builds.get(store, organization, build_id)
    if row is None:
        found = builds.starting(store, organization, build_id, CANDIDATES + 1)
        if not found:
            raise not_found(f'no build starts with "{build_id[:40]}"; give 4 characters or more of its id')
        names = ", ".join(found[:CANDIDATES]) + (" and more" if len(found) > CANDIDATES else "")
        raise BuildError("InvalidRequest", f'several builds start with "{build_id}": {names}', where=where)
    return row
