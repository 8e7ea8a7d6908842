"""What the service counts and times, as Prometheus reads it; one registry per app, none for the process."""

import math
from typing import Final, Protocol
from weakref import WeakSet

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

# Seconds; from a label lookup to the deadline.
_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
# Of stages that work in batches; all others are of requests.
BATCH_FAMILIES: Final = ("cmir_batch_items", "cmir_queue_items")
_BUCKETS_ITEMS: Final = (1, 2, 4, 8, 16, 32, 64)


class Queue(Protocol):
    """What waits for a batch."""

    @property
    def num_waiting(self) -> int: ...


class Metrics:
    """Counters of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, processor time and open files of the replica
        self.requests = Counter(
            "cmir_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_s = Histogram(
            "cmir_request_seconds", "Whole time of a request", ["route"], buckets=_BUCKETS_S, registry=self.registry
        )
        self.stage_s = Histogram(
            "cmir_stage_seconds",
            "Time of a query's stage: decode, queue, encode, search; fetch is the part of search that reads hits",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_items = Histogram(
            "cmir_batch_items", "Items in a batch", ["stage"], buckets=_BUCKETS_ITEMS, registry=self.registry
        )
        self.queue_items = Gauge(
            "cmir_queue_items", "Items that no batch has taken yet", ["stage"], registry=self.registry
        )
        self._queues: dict[str, WeakSet[Queue]] = {}
        self.in_flight = Gauge("cmir_in_flight_requests", "Requests under way", registry=self.registry)
        self.ready = Gauge("cmir_ready", "1 where the last end-to-end probe worked", registry=self.registry)
        self.sequence = Gauge("cmir_gallery_sequence", "Sequence of the publish that is served", registry=self.registry)
        self.published_at = Gauge(
            "cmir_gallery_published_timestamp_seconds", "When what is served was published", registry=self.registry
        )
        self.canary_recall = Gauge(
            "cmir_canary_recall", "Recall@10 of what is served, when it was last measured", registry=self.registry
        )
        self.canary_recall.set(math.nan)
        self.canary_at = Gauge("cmir_canary_timestamp_seconds", "When that was", registry=self.registry)
        self.canary_failures = Counter("cmir_canary_failures", "Times it could not be measured", registry=self.registry)
        self.refresh_failures = Counter(
            "cmir_refresh_failures", "Publishes that could not be taken up", registry=self.registry
        )

    def watch_queue(self, stage: str, queue: Queue) -> None:
        """Count what waits in this queue of a stage, as long as it lives, beside what waits in others."""
        queues = self._queues.setdefault(stage, WeakSet())
        queues.add(queue)
        self.queue_items.labels(stage).set_function(lambda: sum(one.num_waiting for one in list(queues)))

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
