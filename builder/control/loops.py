"""The control side's loops: dispatch, finalize, reconcile, report, retention, tags.

Each is a thread that is woken or ticks.

What a transition changed wakes the loops that see to it (`woken_by`), inside the call that made it.

The store is the truth; a loop that dies or doubles costs time, never a build.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from structlog.typing import FilteringBoundLogger

from builder.broker.transport import arguments
from builder.contract.messages import RUN, read_run, run_message
from builder.control.finalizers import Finalizers
from builder.control.reports import Reports
from builder.control.retention import Retention
from builder.settings import Settings
from builder.store import nodes, offers, sweeps
from builder.store.engine import Store
from builder.store.events import Event
from builder.store.transitions import EXTERNAL, TERMINAL

TAGS_MS = 10_000
LOOPS = ("dispatch", "finalize", "reconcile", "report", "retention", "tags")
# So many failed steps, one after the other, and the process is not ready.
FAILED_STEPS = 3
# A step of one of these that takes so long hangs: in Redis or in the store, which answer no more.
HANGING_S = 60.0
_BRIEF = frozenset({"dispatch", "finalize", "reconcile", "report"})
# So many submissions at once are offered without a look at who else waits.
SUBMITTED = 8

# Transitions after which something is queued, or a node has a slot or an organization room for a Job more than before.
_DISPATCH = frozenset(
    {"submit", "attach", "reuse", "built", "fail", "retry", "hand-back", "artifact-gone", "cancelled", "lease-expired",
     "artifact-refused", "build-timeout", "promote", "launched", "unwatched"}
)  # fmt: skip
# Of these the ones that only add to a queue, and those that only free a slot.
_QUEUES = frozenset({"submit", "promote", "artifact-gone", "artifact-refused"})
_FREES = frozenset({"attach", "reuse", "built", "fail", "cancelled", "build-timeout", "launched", "unwatched"})
_FINALIZE = frozenset({"reuse", "built", "primary-succeeded"})
_REPORT = frozenset({"submit", "claim", "resolve"})


class LoopFailing(Exception):
    """A loop whose last steps have all failed, whose step does not end, or whose thread has ended."""


def woken_by(event: Event) -> frozenset[str]:
    """The loops that have something to do after a transition."""
    reports = event.action in _REPORT or event.status in TERMINAL
    external = event.queue == EXTERNAL  # nothing for the dispatcher: a finalizer takes these
    finalize = event.action in _FINALIZE or (external and event.action in _QUEUES)
    due = {"dispatch": event.action in _DISPATCH and not external, "finalize": finalize, "report": reports}
    return frozenset(name for name, is_due in due.items() if is_due)


def read_queued(raw: bytes, key: str) -> str | None:
    """The build id of a message as it lies in Redis (kombu's envelope of Celery's protocol 2); None for any other."""
    try:
        return read_run(arguments(raw), key)
    except ValueError:
        return None


@dataclass
class Loops:
    """The loops over one store. `redis` is the broker of `celery`; `stepped` hears of each step, and whether it went
    well; `monotonic` is in seconds."""

    settings: Settings
    store: Store
    celery: Celery
    finalizers: Finalizers
    reports: Reports
    retention: Retention
    redis: redis.Redis
    log: FilteringBoundLogger
    stepped: Callable[[str, bool], None] = lambda name, well: None
    monotonic: Callable[[], float] = time.monotonic
    _ticked: float = float("-inf")
    """When the reconciler last reached the store."""
    _expire_from: float = 0.0
    _outage: bool = False
    """The last tick did not come through: nobody may have been able to write."""
    _wakes: Mapping[str, threading.Event] = field(default_factory=lambda: {name: threading.Event() for name in LOOPS})
    _failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOOPS, 0))
    """Failed steps of each loop since its last one that went well."""
    _began: dict[str, float] = field(default_factory=dict)
    """When each step that goes on now began."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _warned: sweeps.Warned = field(default_factory=dict)
    alone: Callable[[], bool] = lambda: True
    """Whether no other control process is there, whose submissions and ends this one does not hear of."""
    _full: frozenset[str] = frozenset()
    """The queues whose window the last wake found full; a tick forgets them."""
    _left: bool = True
    """Builds may be queued that were not offered."""
    _submitted: list[Event] | None = field(default_factory=list)
    """The submissions since the dispatcher's last look; None: something else has changed too, or there are many."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self) -> None:
        """Start the threads."""
        work: Mapping[str, Callable[[bool], None]] = {
            "dispatch": self.dispatch,
            "finalize": self.finalizers.step,
            "reconcile": lambda _: self.reconcile(),
            "report": self.reports.step,
            "retention": lambda _: self.retention.step(),
            "tags": lambda _: self.finalizers.finalizer.check_tags(),
        }
        periods_ms = {
            "finalize": self.finalizers.period_ms,
            "retention": self.retention.period_ms,
            "tags": TAGS_MS,
        }
        self.finalizers.freed, self.reports.freed = self._finalizer_freed, self._report_freed
        for name, step in work.items():
            period_ms = periods_ms.get(name, self.settings.tick_ms)
            thread = threading.Thread(target=self._loop, args=(name, step, period_ms), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def changed(self, event: Event) -> None:
        """Wake the loops that have something to do after a transition, which a full window or no queue spares some."""
        names = set(woken_by(event))
        if self.alone():
            if event.action in _QUEUES and event.queue in self._full:
                names.discard("dispatch")  # the slot that becomes free next wakes it
            elif event.action in _FREES and not self._left:
                names.discard("dispatch")  # nothing is queued without a hint
        if "report" in names and self.reports.heard(event.organization):
            names.discard("report")
        if "dispatch" in names and event.action == "submit":
            names.discard("dispatch")
            self._note(event)
        self.wake(*names)

    def _finalizer_freed(self) -> None:
        if self.finalizers.left:
            self.wake("finalize")

    def _report_freed(self) -> None:
        if self.reports.crowded:
            self.wake("report")

    def wake(self, *names: str) -> None:
        """Something changed that these loops see to: look at once."""
        for name in names:
            if name == "dispatch":
                self._note(None)
            else:
                self._wakes[name].set()

    def _note(self, submitted: Event | None) -> None:
        """Wake the dispatcher for a submission, or (None) for whatever else."""
        with self._lock:
            if submitted is None or self._submitted is None or len(self._submitted) == SUBMITTED:
                self._submitted = None
            else:
                self._submitted.append(submitted)
        self._wakes["dispatch"].set()

    def ask(self, name: str) -> None:
        """Raises `LoopFailing` for a loop that failed several times in a row, whose step hangs, or whose thread, once
        started, is not there."""
        if any(thread.name == name and not thread.is_alive() for thread in self._threads) and not self._stop.is_set():
            raise LoopFailing(f"{name}: its thread has ended")
        if self._failed[name] >= FAILED_STEPS:
            raise LoopFailing(f"{name}: {self._failed[name]} steps in a row have failed")
        began = self._began.get(name)
        if began is not None and name in _BRIEF and self.monotonic() - began > HANGING_S:
            raise LoopFailing(f"{name}: its step has not ended for {self.monotonic() - began:.0f} s")

    def stop(self) -> None:
        """End the threads and wait for them."""
        self._stop.set()
        self.retention.stop()
        for wake in self._wakes.values():
            wake.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self.finalizers.stop()
        self.reports.stop()

    def _loop(self, name: str, step: Callable[[bool], None], period_ms: int) -> None:
        wake, woken = self._wakes[name], False
        while not self._stop.is_set():
            wake.clear()
            if self._stop.is_set():  # set between the two: its wake was cleared
                return
            well = False
            with suppress(Exception):  # of who is told: a step's own are counted, and no loop ends by either
                well = self.take_step(name, functools.partial(step, woken))
            if not well:
                self._stop.wait(0.5)
            woken = wake.wait(period_ms / 1000)

    def take_step(self, name: str, step: Callable[[], None]) -> bool:
        """One step of a loop; whether it went well. A step that fails is counted, and the loop goes on."""
        self._began[name] = self.monotonic()
        trouble = ""
        try:
            step()
        except Exception as error:
            self._failed[name] += 1
            trouble = repr(error)
        else:
            self._failed[name] = 0
        finally:
            del self._began[name]
        self.stepped(name, not trouble)
        if trouble:
            self.log.error("a loop's step failed", action="loop-failed", loop=name, error=trouble)
        return not trouble

    def dispatch(self, woken: bool = False) -> None:
        """Fill a small window of hints for each queue: about twice the free slots of its live nodes.

        A tick with nothing to offer only reads. One that offers, or a wake (`woken`), is one transaction for all
        queues; lists in Redis are only compared at a tick.
        """
        self._full = frozenset()  # what is submitted from here on may have come too late for this look
        with self._lock:
            submitted, self._submitted = self._submitted or (), []
        if woken:
            lone, self._left = self.alone() and not self._left, True
            offered = self._offer_submitted(submitted) if lone else None
            offered = offered or offers.offer_at_once(self.store, self._live_ms, self.settings.running_jobs)
            self._full, self._left = frozenset(offered.full), bool(offered.full or offered.held_back)
            for queue, build_id in offered.hints:
                self._send(queue, build_id)
            return
        waiting = offers.waiting(self.store, self._live_ms)
        if not waiting:
            return
        self._left = True
        found = {each.queue: self._listed(each.queue) for each in waiting if each.marked}
        listed = {queue: ids for queue, ids in found.items() if ids is not None}
        if not (listed or any(each.room for each in waiting)):
            return
        offered = offers.offer(self.store, waiting, listed, self.settings.running_jobs)
        for queue, build_id in offered.hints:
            self._send(queue, build_id)
        for queue, count in offered.vanished.items():
            self.log.warning("hints vanished", action="hints-vanished", queue=queue, count=count)

    def _offer_submitted(self, submitted: Collection[Event]) -> offers.Offered | None:
        """Offer these, where no other build waits for a hint. None: whose turn it is has to be found out."""
        if len({(event.queue, event.organization) for event in submitted}) != 1:
            return None
        (queue,) = {event.queue for event in submitted}
        return offers.offer_submitted(self.store, queue, [event.build_id for event in submitted], self._live_ms)

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
            # Celery would write out for people what it sends, a seventh of the time that sending takes.
            self.celery.send_task(RUN, kwargs=message, queue=queue, retry=False, argsrepr="()", kwargsrepr="{}")
        except (KombuError, RedisError, OSError) as error:
            # The mark of the offer stands for a few seconds; then it is offered again.
            self.log.warning("a hint could not be sent", action="offer-failed", build_id=build_id, error=repr(error))

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
        elif due := sweeps.look(
            self.store, self.settings.lease_ms, self._live_ms, self._warned, self.settings.running_jobs
        ):
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
            swept = sweeps.run(tx, now, due.sweeps)
        for row in (*untaken, *(row for row in swept if row["unwatched"])):  # no transition tells their tails
            self.finalizers.changed(row["build_id"])
        new, self._warned = set(warned) - set(self._warned), warned
        for queue, toolchain, organization in new:
            where = {"queue": queue, "toolchain": toolchain}
            if organization:
                self.log.warning("an organization has its Jobs", action="jobs-full", organization=organization, **where)
            else:
                self.log.warning("no live node takes these builds", action="untaken", **where)
