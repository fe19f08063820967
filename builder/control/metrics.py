"""What `/metrics` shows of one control side: what it counted, and what waits and is free when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Connection, event
from sqlalchemy.exc import SQLAlchemyError

from builder.control.retention import WHAT
from builder.store.engine import Store, only_reads
from builder.store.events import Event

Levels = Callable[[], Mapping[str, int]]
"""Queue → a number, asked for at each scrape."""


class Metrics:
    """A registry of its own: two control sides in one process do not count each other's builds."""

    def __init__(
        self,
        queued: Levels,
        oldest_ms: Levels,
        free: Levels,
        reports: Callable[[], int],
        lacking: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._registry = CollectorRegistry()
        self._queued, self._oldest_ms, self._free, self._reports = queued, oldest_ms, free, reports
        self._lacking = lacking
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
        """A transition."""
        self._transitions.labels(one.action, one.status, one.reason).inc()

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
        """What a node has dropped since it last said so."""
        self._dropped.inc(messages)

    def stepped(self, loop: str, well: bool) -> None:
        """A step of a loop."""
        failures = self._failures.labels(loop)  # a loop that never failed shows as 0
        if well:
            self._stepped.labels(loop).set_to_current_time()
        else:
            failures.inc()

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
            lacking = self._lacking()
        except SQLAlchemyError:
            return
        length = GaugeMetricFamily("ignite_queue_length", "Builds that wait for a slot.", labels=["queue"])
        slots = GaugeMetricFamily("ignite_free_slots", "Free slots of the live nodes.", labels=["queue"])
        age = GaugeMetricFamily(
            "ignite_oldest_queued_seconds", "How long the oldest build has waited for a slot.", labels=["queue"]
        )
        waiting = GaugeMetricFamily("ignite_reports_waiting", "Reports that no receiver has taken yet.", value=reports)
        for queue in sorted({*free, *queued}):
            length.add_metric([queue], queued.get(queue, 0))
            slots.add_metric([queue], free.get(queue, 0))
            age.add_metric([queue], oldest_ms.get(queue, 0) / 1000)
        lacks = GaugeMetricFamily("ignite_node_lacks", "Nodes that take no builds, and why.", labels=["node", "why"])
        for node, why in sorted(lacking.items()):
            lacks.add_metric([node, why], 1)
        yield from (length, slots, age, waiting, lacks)

    def describe(self) -> Iterator[Metric]:
        """So that registering does not already ask for the levels."""
        yield from ()
