"""The control side within this process: the services over the store of the data folder, and who waits for a change."""

from __future__ import annotations

import threading
from collections.abc import Callable

from builder import pipelines
from builder.control.folder import make_private
from builder.data import catalog_file
from builder.pipelines import catalog as catalogs
from builder.services.auth import Caller
from builder.services.builds import BuildService
from builder.services.parts import Parts
from builder.settings import Settings
from builder.store.engine import open_store
from builder.store.events import Event
from builder.store.transitions import TERMINAL
from builder.stores.choose import store_of


class Changes:
    """Wakes who waits for a change of the store by this process; those of other processes show after the wait."""

    def __init__(self) -> None:
        self.generation = 0
        self._changed = threading.Condition()

    def tell(self, build_id: str = "") -> None:
        """Any thread: something changed."""
        with self._changed:
            self.generation += 1
            self._changed.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Wait for a change after the generation `seen`."""
        with self._changed:
            self._changed.wait_for(lambda: self.generation != seen, seconds)


class Here:
    """The services over one store. `on_event` gets each transition of this process."""

    def __init__(self, settings: Settings, on_event: Callable[[Event], None] = lambda _: None) -> None:
        self.settings = settings
        self.changes, self.news = Changes(), Changes()
        """Any change, for who works; new lines or an end, for who reads a log: each look costs him a transaction beside
        the thread that builds. A line that comes with another change shows after the reader's wait."""
        self.cancels: dict[str, Callable[[], None]] = {}
        """What a cancel of a build that is owned here wakes."""
        self._on_event = on_event
        make_private(settings.data_dir, settings.node_dir)
        self.store = open_store(settings.database, self._emit)
        self.known = pipelines.load(settings.pipelines)
        self.parts = Parts(
            settings=settings,
            store=self.store,
            sources=store_of(settings),
            catalog=catalogs.read(catalog_file(settings.catalog), settings.default_versions),
            runtimes=pipelines.arguments(self.known),
            wake=self.changes.tell,
            changed=lambda build_id: self._tell_all(),
            stale=lambda call: None,
            dropped=lambda messages: None,
        )
        self.builds = BuildService(self.parts)
        self.caller = Caller(organization=settings.organization, scopes=frozenset({"submit", "read", "operate"}))

    def _emit(self, event: Event) -> None:
        try:
            self._on_event(event)
        finally:  # whatever becomes of who only hears of it
            if event.action == "cancel-request" and (wake := self.cancels.get(event.build_id)):
                wake()
            if event.status in TERMINAL:
                self._tell_all()
            else:
                self.changes.tell()

    def _tell_all(self) -> None:
        self.changes.tell()
        self.news.tell()

    def close(self) -> None:
        """Close the store."""
        self.store.engine.dispose()
