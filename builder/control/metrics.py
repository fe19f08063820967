"""What `/metrics` shows of one control side: what it counted, and what waits and is free when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError

from builder.control.loops import LOOPS
from builder.control.retention import WHAT
from builder.store import nodes
from builder.store.engine import Store, only_reads
from builder.store.events import Event

Levels = Callable[[], Mapping[str, int]]
"""Queue → a number, asked for at each scrape."""

PHASE_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
LONGEST_S = 86_400.0
"""No phase takes longer: a node whose clock jumps does not spoil a sum."""


class Metrics:
    """A registry of its own: two control sides in one process do not count each other's builds."""

    def __init__(
        self,
        queued: Levels,
        oldest_ms: Levels,
        free: Levels,
        reports: Callable[[], int],
        oldest_report_ms: Callable[[], int] = lambda: 0,
        states: Callable[[], Mapping[str, tuple[str, str]]] = dict,
    ) -> None:
        self._registry = CollectorRegistry()
        self._queued, self._oldest_ms, self._free, self._reports = queued, oldest_ms, free, reports
        self._oldest_report_ms, self._states = oldest_report_ms, states
        self._transitions = Counter(
            "ignite_build_transitions",
            "Transitions of builds.",
            ["action", "status", "reason"],
            registry=self._registry,
        )
        self._stale = Counter(
            "ignite_stale_writes",
            "Writes of owners that own their build no more; they changed nothing.",
            ["call"],
            registry=self._registry,
        )
        self._dropped = Counter(
            "ignite_messages_dropped",
            "Messages that nodes found in their queues and dropped, since they are no hints signed here.",
            registry=self._registry,
        )
        self._failures = Counter(
            "ignite_loop_failures", "Steps of the control side's loops that failed.", ["loop"], registry=self._registry
        )
        self._stepped = Gauge(
            "ignite_loop_last_success_timestamp_seconds",
            "When a step of a loop last went well.",
            ["loop"],
            registry=self._registry,
        )
        for loop in LOOPS:  # one that never failed shows as 0
            self._failures.labels(loop)
        self._phases = Histogram(
            "ignite_phase_duration_seconds",
            "How long each phase of the builds that ended took, in every attempt.",
            ["phase"],
            buckets=PHASE_S,
            registry=self._registry,
        )
        self._transactions = Counter(
            "ignite_store_transactions", "Transactions in the store.", ["mode"], registry=self._registry
        )
        self._calls = Counter(
            "ignite_api_calls", "Calls of the API that were admitted.", ["rpc"], registry=self._registry
        )
        self._deleted = Counter(
            "ignite_retention_deleted", "What was past its time and was deleted.", ["what"], registry=self._registry
        )
        for what in WHAT:  # each shows as 0
            self._deleted.labels(what)
        self._left = Counter(
            "ignite_attempt_tags_left",
            "Tags of attempts that stay in the registry, since it deletes no single tag.",
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def count(self, one: Event) -> None:
        """A transition, and with the last one of a build its phases."""
        self._transitions.labels(one.action, one.status, one.reason).inc()
        for phase, took_ms in one.phases:
            self._phases.labels(phase).observe(min(took_ms / 1000, LONGEST_S))

    def count_transactions(self, store: Store) -> None:
        """From here on, each transaction of this store: one that only reads, or one that writes."""

        @event.listens_for(store.engine, "begin")
        def on_begin(connection: Connection) -> None:
            self._transactions.labels("read" if only_reads(connection) else "write").inc()

    def called(self, rpc_name: str) -> None:
        """A call of the API."""
        self._calls.labels(rpc_name).inc()

    def stale(self, call: str) -> None:
        """A stale write."""
        self._stale.labels(call).inc()

    def dropped(self, messages: int) -> None:
        """What a node has dropped since it last reported."""
        self._dropped.inc(messages)

    def stepped(self, loop: str, well: bool) -> None:
        """A step of a loop."""
        if well:
            self._stepped.labels(loop).set_to_current_time()
        else:
            self._failures.labels(loop).inc()

    def deleted(self, what: str, count: int) -> None:
        """Retention."""
        self._deleted.labels(what).inc(count)

    def left(self, tags: int) -> None:
        """Tags of attempts that retention had to leave."""
        self._left.inc(tags)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The levels; called by the registry. While the store is away there are none, and the counts still show."""
        try:
            free, queued, oldest_ms, reports = self._free(), self._queued(), self._oldest_ms(), self._reports()
            oldest_report_ms, states = self._oldest_report_ms(), self._states()
        except SQLAlchemyError:
            return
        length = GaugeMetricFamily("ignite_queue_length", "Builds that wait for a slot.", labels=["queue"])
        slots = GaugeMetricFamily("ignite_free_slots", "Free slots of the live nodes.", labels=["queue"])
        age = GaugeMetricFamily(
            "ignite_oldest_queued_seconds", "How long the oldest build has waited for a slot.", labels=["queue"]
        )
        waiting = GaugeMetricFamily("ignite_reports_waiting", "Reports that no receiver acknowledged.", value=reports)
        oldest = GaugeMetricFamily(
            "ignite_reports_oldest_seconds", "The age of the oldest of them.", value=oldest_report_ms / 1000
        )
        for queue in sorted({*free, *queued}):
            length.add_metric([queue], queued.get(queue, 0))
            slots.add_metric([queue], free.get(queue, 0))
            age.add_metric([queue], oldest_ms.get(queue, 0) / 1000)
        lacks = GaugeMetricFamily("ignite_node_lacks", "Nodes that take no builds, and why.", labels=["node", "why"])
        state = GaugeMetricFamily(
            "ignite_node_state", "1 for the state that a node is in, 0 for the others.", labels=["node", "state"]
        )
        for node, (here, why) in sorted(states.items()):
            if why:
                lacks.add_metric([node, why], 1)
            for each in nodes.STATES:
                state.add_metric([node, each], int(each == here))
        yield from (length, slots, age, waiting, oldest, state, lacks)

    def describe(self) -> Iterator[Metric]:
        """So that registering does not already ask for the levels."""
        yield from ()
