"""The pool of finalizers: builds in due order, one for each repository, one short attempt each.

The pause between two attempts is the retry (`store/closing.py`), so that a registry in trouble keeps no other build
waiting. A pool is driven: `step` is called when something changed, and at least every third of a lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from builder.errors import PlatformError
from builder.finalize import Finalizer
from builder.images import place
from builder.images.destination import Destination
from builder.settings import Settings
from builder.store import builds
from builder.store.engine import Store
from builder.store.transitions import EXTERNAL

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

STOP_S = 5.0

Claimed = tuple[str, int]
"""(build id, claim)"""


def finalizers_destination(settings: Settings) -> Destination:
    """Where finalizers attest and tag. A registry gets one short attempt: the pause of a build is the retry."""
    patience = None
    if settings.registry:
        from builder.images.transport import ONE_SHORT_ATTEMPT  # with the HTTP client, which a folder does without

        patience = ONE_SHORT_ATTEMPT
    return place.destination(
        settings.registry,
        f"{settings.data_dir}/artifacts",
        username=settings.registry_username,
        password=settings.registry_password,
        insecure=settings.registry_insecure,
        ca_bundle=settings.ca_bundle,
        patience=patience,
    )


@dataclass(kw_only=True)
class Finalizers:
    """At most `settings.finalizers` builds at once, each on a thread. `changed` hears of each build that was attempted,
    `freed` of each thread that has ended; `monotonic` is in seconds."""

    settings: Settings
    store: Store
    finalizer: Finalizer
    changed: Callable[[str], None]
    freed: Callable[[], None] = lambda: None
    log: FilteringBoundLogger
    nonce: str = ""
    """Names this process in the builds that it adopts, where others watch for its end."""
    monotonic: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _at_work: dict[Claimed, threading.Thread] = field(default_factory=dict)
    _asking: set[Claimed] = field(default_factory=set)
    """Those that are prebuilt images."""
    _renewed: dict[Claimed, float] = field(default_factory=dict)
    """When each lease was last renewed; a claim that is stale is not in it."""
    _unreleased: dict[Claimed, int] = field(default_factory=dict)
    """Claims that trouble ended while the store did not answer, and the registry's Retry-After: they must not count as
    lost finalizers."""
    _leaves: bool = False
    left: bool = False
    """The last look found builds that are due and could not be adopted: whoever ends frees a thread or a repository."""

    @property
    def period_ms(self) -> int:
        """How long a pool may go without a `step`."""
        return min(self.settings.tick_ms, self.settings.lease_ms // 3)

    def step(self, woken: bool = False) -> None:
        """Renew the leases of what is at work, then adopt what is due while threads are free.

        `woken`: a transition has made a build due, so there is something to adopt, and no read goes first.
        """
        self._release()
        self._renew()
        free = 0 if self._leaves else self.settings.finalizers - len(self._at_work)
        self.left = True  # a thread that ends while this looks must not be missed
        if free <= 0:
            return
        adopted = builds.adopt_due(
            self.store, self.settings.lease_ms, free, outside=self._outside(), look=not woken, nonce=self.nonce
        )
        threads: list[tuple[Claimed, threading.Thread]] = []
        for row in adopted.rows:
            claimed = (row["build_id"], row["claim"])
            thread = threading.Thread(target=self._run, args=(claimed, row), name="finalizer", daemon=True)
            threads.append((claimed, thread))
            with self._lock:
                self._at_work[claimed] = thread
                if row["queue"] == EXTERNAL:
                    self._asking.add(claimed)
                self._renewed[claimed] = self.monotonic()
        for number, (_, thread) in enumerate(threads):
            try:
                thread.start()
            except BaseException:  # the system has no thread for it: left at work, its lease would be renewed for ever
                for unstarted, _ in threads[number:]:
                    self._forget(unstarted)
                    self._unreleased[unstarted] = 0
                raise
        self.left = adopted.left

    def _outside(self) -> int:
        """How many more prebuilt images may be looked at: half of the threads wait for nobody's registry."""
        with self._lock:
            return max(1, self.settings.finalizers // 2) - len(self._asking)

    def adopt(self) -> builds.Row | None:
        """The next build, as adopted. None: nothing is due."""
        return builds.adopt_finalize(self.store, self.settings.lease_ms, self.nonce)

    def attempt(self, row: builds.Row) -> None:
        """One attempt on this thread. A build that is in trouble waits for its next one, and no build pays for it."""
        try:
            self.finalizer.finish(row)
        except Exception as error:  # the registry's, the store's: whatever it is, the build is not at fault
            wish_ms = error.retry_after_ms if isinstance(error, PlatformError) else 0
            self._unreleased[row["build_id"], row["claim"]] = wish_ms
            deaf = self._released()
            self.log.warning(
                "trouble in FINALIZE", action="finalize-later", build_id=row["build_id"], error=repr(error)
            )
            self._tell(deaf)
        self.changed(row["build_id"])

    def stop(self) -> None:
        """Wait a moment for what is at work; what takes longer is due again for another control process."""
        until = time.monotonic() + STOP_S
        for thread in tuple(self._at_work.values()):
            thread.join(max(0.0, until - time.monotonic()))
        for claimed in tuple(self._at_work):
            self._unreleased[claimed] = 0
        self._tell(self._released())

    def leave(self, ended: Collection[str] = ()) -> None:
        """This process ends now. What is at work is due at once for another, but for builds that have `ended`: their
        threads have nothing more to write. Nothing is adopted any more."""
        self._leaves = True
        with self._lock:
            at_work = [claimed for claimed in self._at_work if claimed[0] not in ended]
        try:
            self._release()
            for claimed in at_work:
                builds.release_finalize(self.store, *claimed, leaves=True)
        except Exception as error:  # whoever leaves does not wait for the store
            self._tell(error)

    def _run(self, claimed: Claimed, row: builds.Row) -> None:
        try:
            self.attempt(row)
        finally:
            self._forget(claimed)
            self.freed()

    def _forget(self, claimed: Claimed) -> None:
        with self._lock:
            del self._at_work[claimed]
            self._asking.discard(claimed)
            self._renewed.pop(claimed, None)

    def _released(self) -> Exception | None:
        """Release what is to be; what kept that from being done, which the next step does."""
        try:
            self._release()
        except Exception as error:
            return error
        return None

    def _tell(self, deaf: Exception | None) -> None:
        if deaf is not None:
            self.log.warning("a claim was not released", action="finalize-unreleased", error=repr(deaf))

    def _release(self) -> None:
        for claimed in tuple(self._unreleased):
            wish_ms = self._unreleased.pop(claimed, None)
            if wish_ms is None:  # another thread does it
                continue
            try:
                builds.release_finalize(self.store, *claimed, wish_ms)
            except BaseException:
                self._unreleased[claimed] = wish_ms
                raise

    def _renew(self) -> None:
        """A registry may take its time: else another finalizer adopts, and this one counts as lost."""
        now = self.monotonic()
        with self._lock:
            due = [claimed for claimed, at in self._renewed.items() if now - at >= self.settings.lease_ms / 3000]
        for claimed in due:
            kept = builds.keep_finalize(self.store, *claimed, self.settings.lease_ms)
            with self._lock:
                if kept and claimed in self._at_work:
                    self._renewed[claimed] = now
                else:
                    self._renewed.pop(claimed, None)
