"""The control side's loops: dispatch, finalize, reconcile, report, tags. Each is a thread that is woken or ticks.

The store is the truth; a loop that dies or doubles costs time, never a build.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TextIO

import httpx
import redis
import structlog
from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from structlog.typing import FilteringBoundLogger

from builder.config import Settings
from builder.contract.messages import RUN, read_run, run_message
from builder.finalize import Finalizer
from builder.store import nodes, offers, outbox, sweeps
from builder.store.engine import Store

REPORT_TIMEOUT_S = 10.0
TAGS_MS = 10_000


def event_log(out: TextIO) -> FilteringBoundLogger:
    """A logger that writes one JSON object on a line; two in one process know nothing of each other."""
    made: FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        cache_logger_on_first_use=True,
    )
    return made


def read_queued(raw: bytes, key: str) -> str | None:
    """The build id of a message as it lies in Redis (kombu's envelope of Celery's protocol 2); None for any other."""
    try:
        _, kwargs, _ = json.loads(base64.b64decode(json.loads(raw)["body"]))
        return read_run(kwargs, key)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


@dataclass
class Loops:
    """The loops over one store. `redis` is the broker of `celery`; `monotonic` is in seconds."""

    settings: Settings
    store: Store
    celery: Celery
    finalizer: Finalizer
    redis: redis.Redis
    log: FilteringBoundLogger
    monotonic: Callable[[], float] = time.monotonic
    _ticked: float = float("-inf")
    """When the reconciler last reached the store."""
    _expire_from: float = 0.0
    _outage: bool = False
    """The last tick did not come through: nobody may have been able to write."""
    _wakes: dict[str, threading.Event] = field(default_factory=lambda: defaultdict(threading.Event))
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _warned: sweeps.Warned = field(default_factory=dict)

    def start(self) -> None:
        """Start the threads."""
        work: Mapping[str, Callable[[], None]] = {
            "dispatch": self.dispatch,
            "finalize": self.finalize,
            "reconcile": self.reconcile,
            "report": self.report,
            "tags": self.finalizer.check_tags,
        }
        periods_ms = defaultdict(lambda: self.settings.tick_ms, tags=TAGS_MS)
        for name, step in work.items():
            thread = threading.Thread(target=self._loop, args=(name, step, periods_ms[name]), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """Something changed: look at once."""
        for name in ("dispatch", "finalize", "report"):
            self._wakes[name].set()

    def stop(self) -> None:
        """End the threads and wait for them."""
        self._stop.set()
        for wake in self._wakes.values():
            wake.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def _loop(self, name: str, step: Callable[[], None], period_ms: int) -> None:
        wake = self._wakes[name]
        while not self._stop.is_set():
            wake.clear()
            if self._stop.is_set():  # set between the two: its wake was cleared
                return
            try:
                step()
            except Exception as error:
                self.log.error("a loop's step failed", action="loop-failed", loop=name, error=repr(error))
                self._stop.wait(0.5)
            wake.wait(period_ms / 1000)

    def dispatch(self) -> None:
        """Fill a small window of hints for each queue: about twice the free slots of its live nodes.

        With nothing to offer it only reads; a tick that offers adds one transaction for all queues.
        """
        waiting = offers.waiting(self.store, self._live_ms)
        if not waiting:
            return
        found = {each.queue: self._listed(each.queue) for each in waiting if each.marked}
        listed = {queue: ids for queue, ids in found.items() if ids is not None}
        if not (listed or any(each.room for each in waiting)):
            return
        offered = offers.offer(self.store, waiting, listed)
        for queue, count in offered.vanished.items():
            self.log.warning("hints vanished", action="hints-vanished", queue=queue, count=count)
        for queue, build_id in offered.hints:
            self._send(queue, build_id)

    def free_slots(self) -> Mapping[str, int]:
        """Queue → free slots of its live nodes; a node that reads several queues counts in each."""
        readers = nodes.takers(nodes.all_nodes(self.store), self._live_ms)
        return {queue: nodes.free_of(takers) for queue, takers in readers.items()}

    @property
    def _live_ms(self) -> int:
        return nodes.LIVE_LEASES * self.settings.lease_ms

    def _listed(self, queue: str) -> set[str] | None:
        """The ids in the queue's list in Redis: they are not offered again. None: nobody knows what lies there."""
        try:
            raw: Any = self.redis.lrange(queue, 0, offers.LOOKED_AT - 1)
        except RedisError as error:  # the pauses between offers stand
            self.log.warning("a queue could not be read", action="compare-failed", queue=queue, error=repr(error))
            return None
        return {build_id for one in raw if (build_id := read_queued(one, self.settings.message_key))}

    def _send(self, queue: str, build_id: str) -> None:
        message = run_message(build_id, self.settings.message_key)
        try:
            self.celery.send_task(RUN, kwargs=message, queue=queue, retry=False)
        except (KombuError, RedisError, OSError) as error:
            # The mark of the offer stands for a few seconds; then it is offered again.
            self.log.warning("a hint could not be sent", action="offer-failed", build_id=build_id, error=repr(error))

    def finalize(self) -> None:
        """Finish what is built: one after the other, oldest first."""
        while not self._stop.is_set() and self.finalizer.next():
            self._wakes["dispatch"].set()

    def reconcile(self) -> None:
        """Expire leases and timeouts. Safe with two of us: every statement carries what it read.

        A tick with nothing due only reads. Time in which nobody could beat does not count: after our start, a pause of
        ours or an outage of the store, owners have a whole lease.
        """
        lease_s, started = self.settings.lease_ms / 1000, self.monotonic()
        if self._outage or started - self._ticked > lease_s:
            self._expire_from = started + lease_s
        self._outage = True  # until this tick is through
        if started < self._expire_from:
            with self.store.transaction() as tx:
                self.store.now(tx)  # a store that takes no writes is an outage that goes on
        elif due := sweeps.look(self.store, self.settings.lease_ms, self._live_ms, self._warned):
            self._sweep(due, lease_s)
        self._ticked, self._outage = started, False

    def _sweep(self, due: sweeps.Due, lease_s: float) -> None:
        began = self.monotonic()
        with self.store.transaction() as tx:
            if self.monotonic() - began > lease_s / 10:  # owners waited for the same lock and could not beat
                self._expire_from = self.monotonic() + lease_s
                return
            now = self.store.now(tx)
            untaken, warned = sweeps.warn_unschedulable(
                tx, now, due.unschedulable, self.settings.lease_ms, self._warned
            )
            changed = sweeps.run(tx, now, due.sweeps)
        for row in untaken:
            self.finalizer.changed(row["build_id"])
        for queue, toolchain in set(warned) - set(self._warned):
            self.log.warning("no live node takes these builds", action="untaken", queue=queue, toolchain=toolchain)
        self._warned = warned
        if changed:
            self.wake()

    def report(self) -> None:
        """Deliver what the outbox holds, at least once."""
        if not self.settings.report_url:
            for row in outbox.due(self.store, 100):
                outbox.delivered(self.store, row["id"])
            return
        headers = {"content-type": "application/json"}
        if self.settings.report_token:
            headers["authorization"] = f"Bearer {self.settings.report_token}"
        with httpx.Client(timeout=REPORT_TIMEOUT_S, trust_env=False) as client:
            for row in outbox.due(self.store, 100):
                try:
                    client.post(self.settings.report_url, content=row["body"], headers=headers).raise_for_status()
                except httpx.HTTPError as error:
                    self.log.warning("a report was not taken", action="report-failed", error=repr(error))
                    outbox.postponed(self.store, row["id"], row["tries"])
                else:
                    outbox.delivered(self.store, row["id"])
