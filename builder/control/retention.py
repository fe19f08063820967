"""The retention loop: what is past its time goes, in small batches with a pause between them.

A run asks the store what is due (`store/retention.py`), a registry for each tag, the folders at last. A registry or a
source store in trouble costs its own part of the run; the next run does it.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from builder.images.destination import Destination
from builder.settings import Settings
from builder.store import retention
from builder.store.engine import Store
from builder.store.transitions import CANCELLED, FAILED, SUCCEEDED
from builder.stores.folder import SourceStore

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

DAY_MS = 86_400_000
PAUSE_S = 0.02  # between batches; SQLite has one writer, and the others wait for it
FIRST_MS = 300_000  # the first run is somewhere before that, so that control processes started together spread
FAILURES = 3  # repositories whose tags the registry does not delete, then this part waits for the next run
ASKED = 200  # sources looked up at once
GRACE_S = 3600.0
"""A source or blob younger than this may be about to be named: a submit stores it first, a push sends it first."""

WHAT = ("builds", "attempt-tags", "cache-entries", "reports", "uploads", "sources", "nodes", "revocations", "artifacts")


@dataclass(kw_only=True)
class Retention:
    """One for each control process; two of them delete each thing once. `deleted` hears of what and how much, `left` of
    attempt tags that the registry cannot delete."""

    settings: Settings
    store: Store
    sources: SourceStore
    destination: Destination
    log: FilteringBoundLogger
    deleted: Callable[[str, int], None] = lambda what, count: None
    left: Callable[[int], None] = lambda count: None
    monotonic: Callable[[], float] = time.monotonic
    jitter: Callable[[], float] = random.random
    _due: float | None = None
    _passed_over: frozenset[str] = frozenset()
    """Repositories that ended this part in the last runs, until one comes to its end: in lasting trouble they would end
    it in every run, and nothing behind them would go."""
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def period_ms(self) -> int:
        """How often `step` is called."""
        return min(self.settings.retention_ms, 10_000)

    def step(self) -> None:
        """A run when one is due."""
        now, period_s = self.monotonic(), self.settings.retention_ms / 1000
        if self._due is None:
            self._due = now + self.jitter() * min(period_s, FIRST_MS / 1000)
        if now >= self._due:
            self._due = now + period_s
            self.run()

    def stop(self) -> None:
        """Let a run end after its batch."""
        self._stop.set()

    def run(self) -> None:
        """Everything once. Raises what its last failing part raised, when all the others have had their turn."""
        trouble: Exception | None = None
        for part in (self._attempt_tags, self._records, self._sources, self._artifacts):
            if self._stop.is_set():
                return
            try:
                part()
            except Exception as error:  # a disk that is full, too: the other parts have their turn
                trouble = error
                self.log.warning("retention", action="retention-failed", part=part.__name__, error=repr(error))
        if trouble is not None:
            raise trouble

    def _records(self) -> None:
        settings, store = self.settings, self.store
        self._batches("cache-entries", lambda at: retention.delete_cache(store, _ms(settings.keep_cache_days)))
        ages = {SUCCEEDED: settings.keep_succeeded_days, FAILED: settings.keep_failed_days}
        for status, days in {**ages, CANCELLED: settings.keep_failed_days}.items():
            self._batches(
                "builds",
                lambda at, status=status, days=days: retention.delete_builds(  # type: ignore[misc]
                    store, status, _ms(days), tagged_stay=settings.keep_tagged_builds, at=at
                ),
            )
        self._batches("reports", lambda at: retention.delete_reports(store, _ms(settings.keep_reports_days)))
        self._batches("uploads", lambda at: retention.delete_uploads(store, _ms(settings.keep_uploads_days), at))
        for node in retention.delete_nodes(store, _ms(settings.keep_nodes_days)):
            self._count("nodes", 1)
            self.log.info("a node was not seen for long", action="node-deleted", node=node)
        listed = [hashlib.sha256(row.token.encode()).hexdigest() for row in settings.tokens]
        self._count("revocations", retention.delete_revoked(store, _ms(settings.keep_nodes_days), listed))

    def _batches(self, what: str, batch: Callable[[retention.Cursor], retention.Batch]) -> None:
        at: retention.Cursor | None = retention.START
        while at is not None and not self._stop.is_set():
            done = batch(at)
            self._count(what, done.deleted)
            at = done.at
            self._stop.wait(PAUSE_S)

    def _attempt_tags(self) -> None:
        """Each as a tag. A registry that has no such thing keeps them: deleting their digest would take users' tags."""
        age_ms = _ms(self.settings.keep_attempt_tags_days)
        can_untag: bool | None = None
        failed: set[str] = set()
        passed_over, self._passed_over = self._passed_over, frozenset()
        for swept in (retention.NOT_SWEPT, retention.BUT_THE_LAST):
            at: retention.Cursor | None = retention.START
            while at is not None:
                found, at = retention.ended_attempts(self.store, age_ms, swept, at)
                for attempts in found:
                    if self._stop.is_set():
                        return
                    if attempts.repository in failed or attempts.repository in passed_over:
                        continue
                    try:
                        if attempts.tags and can_untag is None:
                            can_untag = self.destination.can_untag(attempts.repository)
                        for tag in attempts.tags if can_untag else ():
                            self.destination.untag(attempts.repository, tag)
                    except Exception as error:  # of one repository: the others have their turn
                        failed.add(attempts.repository)
                        if len(failed) == FAILURES:
                            self._passed_over = passed_over | failed
                            raise
                        fields = {"build_id": attempts.build_id, "error": repr(error)}
                        self.log.warning("tags were not deleted", action="untag-failed", **fields)
                        continue
                    retention.attempts_swept(self.store, attempts)
                    if can_untag:
                        self._count("attempt-tags", len(attempts.tags))
                    else:
                        self.left(len(attempts.tags))
                self._stop.wait(PAUSE_S)

    def _sources(self) -> None:
        age_s = max(_ms(self.settings.keep_uploads_days) / 1000, GRACE_S)
        for digests in _chunks(self.sources.list(age_s), ASKED):
            for digest in retention.unnamed_sources(self.store, digests):
                self._count("sources", int(self.sources.delete(digest, age_s)))
            if self._stop.wait(PAUSE_S):
                return
        self._count("sources", self.sources.delete_unfinished(age_s))

    def _artifacts(self) -> None:
        age_s = max(_ms(self.settings.keep_attempt_tags_days) / 1000, GRACE_S)
        self._count("artifacts", self.destination.collect(retention.named_artifacts(self.store), age_s))

    def _count(self, what: str, count: int) -> None:
        if count:
            self.deleted(what, count)


def _ms(days: float) -> int:
    return int(days * DAY_MS)


def _chunks(items: Iterable[str], size: int) -> Iterable[list[str]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
