"""What `/metrics` shows of one control side: what it counted, and what waits and is free when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from builder.store.events import Event

Levels = Callable[[], Mapping[str, int]]
"""Queue → a number, asked for at each scrape."""


class Metrics:
    """A registry of its own: two control sides in one process do not count each other's builds."""

    def __init__(self, queued: Levels, free: Levels) -> None:
        self._registry = CollectorRegistry()
        self._queued, self._free = queued, free
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
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def count(self, event: Event) -> None:
        """A transition."""
        self._transitions.labels(event.action, event.status, event.reason).inc()

    def stale(self, call: str) -> None:
        """A stale write."""
        self._stale.labels(call).inc()

    def dropped(self, messages: int) -> None:
        """What a node has dropped since it last said so."""
        self._dropped.inc(messages)

    def page(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """The levels; called by the registry."""
        free, queued = self._free(), self._queued()
        length = GaugeMetricFamily("ignite_queue_length", "Builds that wait for a slot.", labels=["queue"])
        slots = GaugeMetricFamily("ignite_free_slots", "Free slots of the live nodes.", labels=["queue"])
        for queue in sorted({*free, *queued}):
            length.add_metric([queue], queued.get(queue, 0))
            slots.add_metric([queue], free.get(queue, 0))
        yield from (length, slots)

    def describe(self) -> Iterator[Metric]:
        """So that registering does not already ask for the levels."""
        yield from ()
