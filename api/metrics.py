"""Prometheus metrics of one API process; labels are routes, methods and statuses, never anything a client sent."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from framewright.rows import QueueRow, WorkerRow

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MULTIPROCESS_DIR = "PROMETHEUS_MULTIPROC_DIR"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counters of this process, and of its siblings when `--workers` started several."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "framewright_http_requests", "Requests answered.", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "framewright_http_request_seconds",
            "Time to answer (s); streams count until they end.",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self.submitted = Counter(
            "framewright_jobs_submitted", "Jobs accepted.", ("kind", "replayed"), registry=self._registry
        )
        self.listeners = Gauge(
            "framewright_listeners",
            "Open sockets, event streams and waiting requests.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )

    def record(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request."""
        method = method if method in _METHODS else "other"
        self.requests.labels(method, route, status).inc()
        self.seconds.labels(method, route).observe(seconds)

    def exposition(self, house: Collector) -> bytes:
        """The text that Prometheus reads: this API's own numbers, then the whole system's."""
        registry = CollectorRegistry()
        registry.register(house)
        own: CollectorRegistry = self._registry
        if MULTIPROCESS_DIR in os.environ:
            own = CollectorRegistry()
            MultiProcessCollector(own)  # type: ignore[no-untyped-call]
        return generate_latest(own) + generate_latest(registry)


class House(Collector):
    """The whole system as Postgres has it, read when it is scraped; a part that cannot be read is left out."""

    def __init__(self, queues: Callable[[], Iterable[QueueRow]], workers: Callable[[], Iterable[WorkerRow]]) -> None:
        self._queues = queues
        self._workers = workers

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        depth = GaugeMetricFamily("framewright_queue_depth", "Due steps that wait.", labels=["queue"])
        running = GaugeMetricFamily("framewright_queue_running", "Steps that run.", labels=["queue"])
        oldest = GaugeMetricFamily("framewright_queue_oldest_seconds", "Age of the longest wait (s).", labels=["queue"])
        for row in self._queues():
            depth.add_metric([row.queue], row.depth)
            running.add_metric([row.queue], row.running)
            oldest.add_metric([row.queue], row.oldest_age_s or 0.0)
        alive = GaugeMetricFamily("framewright_workers", "Live workers by what they are doing.", labels=["state"])
        states: dict[str, int] = {}
        for worker in self._workers():
            if worker.alive:
                states[worker.state] = states.get(worker.state, 0) + 1
        for state, count in sorted(states.items()):
            alive.add_metric([state], count)
        yield from (depth, running, oldest, alive)
