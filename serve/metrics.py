"""What the service counts and times, as Prometheus reads it; one registry per app, none for the process."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

# Seconds; from a label lookup to the deadline.
_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_BUCKETS_ITEMS: Final = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cmir_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self.request_s = Histogram(
            "cmir_request_seconds", "Whole time of a request", ["route"], buckets=_BUCKETS_S, registry=self.registry
        )
        self.stage_s = Histogram(
            "cmir_stage_seconds",
            "Time of a query's stage: decode, queue, encode, search",
            ["stage"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self.batch_items = Histogram(
            "cmir_batch_items", "Items in a batch", ["stage"], buckets=_BUCKETS_ITEMS, registry=self.registry
        )
        self.in_flight = Gauge("cmir_in_flight_requests", "Requests under way", registry=self.registry)
        self.ready = Gauge("cmir_ready", "1 where the last end-to-end probe worked", registry=self.registry)
        self.sequence = Gauge("cmir_gallery_sequence", "Sequence of the publish that is served", registry=self.registry)
        self.published_at = Gauge(
            "cmir_gallery_published_timestamp_seconds", "When what is served was published", registry=self.registry
        )
        self.refresh_failures = Counter(
            "cmir_refresh_failures", "Publishes that could not be taken up", registry=self.registry
        )

    def exposition(self) -> bytes:
        """The text format of Prometheus."""
        return generate_latest(self.registry)
