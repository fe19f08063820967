"""Delivers the reports of the outbox, at least once: of one build in order, of one organization on its own.

A receiver that hangs keeps only the reports of the organization that it hangs for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
from sqlalchemy.exc import SQLAlchemyError
from structlog.typing import FilteringBoundLogger

from builder.config import Settings
from builder.store import outbox
from builder.store.engine import Store

REPORT_TIMEOUT_S = 10.0
BATCH = 100
STOP_S = 5.0
ORGANIZATIONS = 16  # at once; each has a thread for as long as it has reports to deliver


@dataclass(kw_only=True)
class Reports:
    """Driven by `step`. `freed` hears of each organization whose batch has ended: there may be more of it."""

    settings: Settings
    store: Store
    log: FilteringBoundLogger
    freed: Callable[[], None] = lambda: None
    _busy: dict[str, threading.Thread] = field(default_factory=dict)

    def step(self) -> None:
        """Start the delivery of what is due, but of organizations that are being delivered to. Without a receiver the
        reports wait for one."""
        if not self.settings.report_url:
            return
        while len(self._busy) < ORGANIZATIONS and (rows := outbox.due(self.store, BATCH, tuple(self._busy))):
            batches: dict[str, list[outbox.Row]] = {}
            for row in rows:
                batches.setdefault(row["organization"], []).append(row)
            for organization, batch in batches.items():
                self._busy[organization] = threading.Thread(
                    target=self._run, args=(organization, batch), name="report", daemon=True
                )
                self._busy[organization].start()

    def deliver(self, organization: str, batch: Sequence[outbox.Row]) -> None:
        """Deliver a batch of one organization's reports on this thread. A report that is refused delays the later ones
        of its build; a receiver that is not there delays all of this organization's."""
        headers = {"content-type": "application/json"}
        if self.settings.report_token:
            headers["authorization"] = f"Bearer {self.settings.report_token}"
        delivered: list[int] = []
        refused: dict[str, outbox.Row] = {}
        unheard: outbox.Row | None = None
        with httpx.Client(timeout=REPORT_TIMEOUT_S, trust_env=False) as client:
            for row in batch:
                if row["build_id"] in refused:
                    continue
                try:
                    client.post(self.settings.report_url, content=row["body"], headers=headers).raise_for_status()
                except httpx.HTTPStatusError as error:
                    refused[row["build_id"]] = row
                    self._failed(row, error)
                except (httpx.HTTPError, httpx.InvalidURL) as error:
                    unheard = row
                    self._failed(row, error)
                    break
                else:
                    delivered.append(row["id"])
        outbox.delivered(self.store, delivered)
        for row in refused.values():
            outbox.postponed(self.store, row["id"], row["tries"])
        if unheard is not None:
            outbox.postponed(self.store, unheard["id"], unheard["tries"], organization)

    def stop(self) -> None:
        """Wait a moment for what is being delivered: what is not noted is delivered again."""
        until = time.monotonic() + STOP_S
        for thread in tuple(self._busy.values()):
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, organization: str, batch: Sequence[outbox.Row]) -> None:
        try:
            self.deliver(organization, batch)
        except SQLAlchemyError as error:  # they are due as before, and the receiver may get some of them twice
            self.log.warning("what was delivered was not noted", action="report-unnoted", error=repr(error))
        finally:
            del self._busy[organization]
            self.freed()

    def _failed(self, row: outbox.Row, error: Exception) -> None:
        self.log.warning("a report was not taken", action="report-failed", build_id=row["build_id"], error=repr(error))
