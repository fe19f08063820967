"""Delivers the reports of the outbox, at least once: of one build in order, of one organization on its own.

A receiver that hangs keeps only the reports of the organization that it hangs for. The thread of an organization stays
for a moment: what it delivered is noted in the transaction that reads what comes next.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx
from structlog.typing import FilteringBoundLogger

from builder.errors import BuildError
from builder.settings import Settings, without_credentials
from builder.store import outbox
from builder.store.engine import Store
from builder.tls import new_client

REPORT_TIMEOUT_S = 10.0
BATCH = 100
STOP_S = 5.0
ORGANIZATIONS = 16  # at once; each has a thread for as long as it has reports to deliver
LINGER_S = 0.3
"""How long a thread waits for the next report of its organization before it notes what it has delivered."""
GATHER_S = 0.1
"""Between two batches of an organization: what happens meanwhile travels with the next one."""


SIGNATURE = "Ignite-Signature"


def signature(keys: Sequence[str], at_ms: int, body: bytes) -> str:
    """The header's value: the time of sending, and for each key the HMAC-SHA256 over time, "." and body.

    With the time inside, a recorded report cannot be sent again later. A receiver that knows one of two keys accepts
    both orders of a rotation.
    """
    signed = f"{at_ms}.".encode() + body
    each = (hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() for key in keys)
    return ",".join([f"t={at_ms}", *(f"v1={digest}" for digest in each)])


@dataclass(kw_only=True)
class Reports:
    """Driven by `step`, and by `heard` for each new report. `freed` hears of each organization whose thread has
    ended."""

    settings: Settings
    store: Store
    log: FilteringBoundLogger
    freed: Callable[[], None] = lambda: None
    _busy: dict[str, tuple[threading.Thread, threading.Event]] = field(default_factory=dict)
    """Organization → its thread, and what wakes that."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _stopping: threading.Event = field(default_factory=threading.Event)

    @property
    def crowded(self) -> bool:
        """Whether organizations may be waiting for a thread that ends."""
        return len(self._busy) >= ORGANIZATIONS - 1

    def step(self, woken: bool = False) -> None:
        """Start the delivery of what is due, but of organizations that are being delivered to. Without a receiver the
        reports wait for one."""
        if not self.settings.report_url:
            return
        begun: set[str] = set()  # each once: a thread that fails at once leaves its reports due
        while len(self._busy) < ORGANIZATIONS and (rows := outbox.due(self.store, BATCH, (*self._busy, *begun))):
            batches: dict[str, list[outbox.Row]] = {}
            for row in rows:
                batches.setdefault(row["organization"], []).append(row)
            begun |= batches.keys()
            for organization, batch in batches.items():
                self._start(organization, batch)

    def _start(self, organization: str, batch: Sequence[outbox.Row]) -> None:
        more = threading.Event()
        thread = threading.Thread(target=self._run, args=(organization, batch, more), name="report", daemon=True)
        with self._lock:
            self._busy[organization] = thread, more
        try:
            thread.start()
        except BaseException:  # the system has no thread for it: the next step tries again
            self._leave(organization, more)
            raise

    def _leave(self, organization: str, more: threading.Event) -> None:
        """The thread that `more` wakes is at this organization no longer."""
        with self._lock:
            if self._busy.get(organization, (None, None))[1] is more:
                del self._busy[organization]

    def heard(self, organization: str) -> bool:
        """Whether a new report of this organization needs no `step`: its thread sees to it, or there is no receiver."""
        if not self.settings.report_url:
            return True
        with self._lock:
            _, more = self._busy.get(organization, (None, None))
            if more is not None:
                more.set()
            return more is not None

    def deliver(self, organization: str, batch: Sequence[outbox.Row]) -> Sequence[int] | None:
        """Deliver a batch of one organization's reports on this thread. Returns the ids to note as delivered; None
        after trouble, when they are noted already.

        A report that is refused delays the later ones of its build; a receiver that is not there delays all of this
        organization's.
        """
        delivered: list[int] = []
        refused: dict[str, outbox.Row] = {}
        unheard: outbox.Row | None = None
        troubles: list[tuple[outbox.Row, Exception]] = []
        with new_client(ca_bundle=self.settings.ca_bundle, timeout=httpx.Timeout(REPORT_TIMEOUT_S)) as client:
            for row in batch:
                if row["build_id"] in refused:
                    continue
                try:
                    self._post(client, row["body"].encode())
                except httpx.HTTPStatusError as error:
                    refused[row["build_id"]] = row
                    troubles.append((row, error))
                except Exception as error:  # also of our own, such as a bundle that is gone: it is tried again later
                    unheard = row
                    troubles.append((row, error))
                    break
                else:
                    delivered.append(row["id"])
        if unheard is None and not refused:
            return delivered
        outbox.delivered(self.store, delivered)
        for row in refused.values():
            outbox.postponed(self.store, row["id"], row["tries"])
        if unheard is not None:
            outbox.postponed(self.store, unheard["id"], unheard["tries"], organization)
        for row, why in troubles:  # what is told comes behind what is noted
            self._failed(row, why)
        return None

    def _post(self, client: httpx.Client, body: bytes) -> None:
        """Send one report; whatever answer is no 2xx raises."""
        headers = {"content-type": "application/json"}
        if self.settings.report_token:
            headers["authorization"] = f"Bearer {self.settings.report_token}"
        if self.settings.report_keys:
            headers[SIGNATURE] = signature(self.settings.report_keys, time.time_ns() // 1_000_000, body)
        client.post(self.settings.report_url, content=body, headers=headers).raise_for_status()

    def stop(self) -> None:
        """Wait a moment for what is being delivered: what is not noted is delivered again."""
        until = time.monotonic() + STOP_S
        self._stopping.set()
        for thread, more in tuple(self._busy.values()):
            more.set()
            thread.join(max(0.0, until - time.monotonic()))

    def _run(self, organization: str, batch: Sequence[outbox.Row], more: threading.Event) -> None:
        try:
            while True:
                while batch and not self._stopping.is_set():
                    delivered = self.deliver(organization, batch)
                    if delivered is None:
                        break
                    if len(batch) < BATCH:
                        self._gather(more)
                    batch = outbox.exchange(self.store, delivered, organization, BATCH)
                with self._lock:
                    if not more.is_set() or self._stopping.is_set():
                        del self._busy[organization]
                        break
                more.clear()
                batch = outbox.exchange(self.store, (), organization, BATCH)
        except Exception as error:  # they are due as before, and the receiver may get some of them twice
            self.log.warning("what was delivered was not noted", action="report-unnoted", error=repr(error))
        finally:  # whatever it was: an organization that stays busy gets no report until a restart
            self._leave(organization, more)
            self.freed()

    def _gather(self, more: threading.Event) -> None:
        """Wait for the next report, and a moment longer for what comes with it."""
        if more.wait(LINGER_S):
            self._stopping.wait(GATHER_S)
        more.clear()

    def _failed(self, row: outbox.Row, error: Exception) -> None:
        """Without what may be a credential: httpx has the URL in its words of an answer, a header in those of one that
        it cannot send."""
        if isinstance(error, httpx.HTTPStatusError):
            why = f"answered {error.response.status_code}"
        elif isinstance(error, httpx.NetworkError | httpx.TimeoutException | BuildError):
            why = repr(error)
        else:
            why = type(error).__name__
        url = without_credentials(self.settings.report_url)
        self.log.warning("a report was not taken", action="report-failed", build_id=row["build_id"], url=url, error=why)
