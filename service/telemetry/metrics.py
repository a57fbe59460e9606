"""The server's metrics for Prometheus.

Labels never grow with the data or with what clients send: routes instead of paths, known methods
only, and codes from the table of problems.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as MEDIA_TYPE

from bn_ops.core.version import __version__

__all__ = ["MEDIA_TYPE", "METHODS", "OTHER", "Metrics"]

# Otherwise a client could create labels with methods of its own.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})
OTHER = "(other)"

# From a batch of kilobytes on a fast disk to a run of hours.
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0)

# The library's one switch for this is global. Prometheus itself reads no `_created` series from the
# text format; they would only double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library types only some functions


class StateGauges:
    """Gauges of the server's state, which `service.health` sets for each scrape.

    Args:
        gauge: makes a gauge with a name, a description and label names.
    """

    def __init__(self, gauge: Callable[..., Gauge]) -> None:
        self.recalibrations = gauge(
            "bnrecal_recalibrations", "Recalibrations; state `queued` is the queue.", "state"
        )
        self.stored_bytes = gauge(
            "bnrecal_stored_bytes",
            "Bytes of models and batches that count against the total limit.",
        )
        self.stored_limit_bytes = gauge("bnrecal_stored_limit_bytes", "The total limit.")
        self.disk_free_bytes = gauge(
            "bnrecal_disk_free_bytes", "Free bytes on the file system of the data folder."
        )
        self.storage_failed = gauge(
            "bnrecal_storage_failed", "1 if the part rejects writes until a restart.", "part"
        )


class Metrics:
    """The metrics of one server, in a registry of their own.

    Attributes:
        registry: holds every metric below and those of the process.
        state: gauges that are set for each scrape; all others count while the server works.
        labels: the label names of each metric that has labels, for the documentation.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.labels: dict[str, tuple[str, ...]] = {}
        self.requests = self._counter(
            "bnrecal_requests_total", "Responses sent.", "method", "route", "status"
        )
        self.request_seconds = self._histogram(
            "bnrecal_request_seconds", "Time to respond to a request.", "method", "route"
        )
        self.requests_open = self._gauge("bnrecal_requests_open", "Requests in progress.")
        self.event_streams = self._gauge("bnrecal_event_streams", "Open event streams.")
        self.problems = self._counter(
            "bnrecal_problems_total", "Problem responses, by code.", "code"
        )
        self.ingest_bytes = self._counter(
            "bnrecal_ingest_bytes_total", "Bytes of acknowledged batches."
        )
        self.ingest_batches = self._counter("bnrecal_ingest_batches_total", "Acknowledged batches.")
        self.running = self._gauge("bnrecal_running", "Runs in progress.")
        self.run_seconds = self._histogram(
            "bnrecal_run_seconds", "Duration of a run, by the state that it ended in.", "state"
        )
        self.failures = self._counter(
            "bnrecal_failures_total", "Failed recalibrations, by code.", "code"
        )
        self.verdicts = self._counter(
            "bnrecal_verdicts_total", "Succeeded recalibrations, by verdict.", "verdict"
        )
        self.commit_seconds = self._histogram(
            "bnrecal_ledger_commit_seconds", "Duration of a ledger commit."
        )
        self.state = StateGauges(self._gauge)
        self._shows_shared = True
        info = self._gauge(
            "bnrecal_info", "Always 1; the label is the server's version.", "version"
        )
        info.labels(version=__version__).set(1)
        ProcessCollector(registry=self.registry)

    def show_shared(self, shown: bool) -> None:  # noqa: FBT001 - the only argument
        """Show or hide the gauges of what all processes that share a ledger have in common."""
        if shown == self._shows_shared:
            return
        self._shows_shared = shown
        change = self.registry.register if shown else self.registry.unregister
        for gauge in (self.state.recalibrations, self.state.stored_bytes):
            change(gauge)

    def count_failure(self, problem: Mapping[str, Any] | None) -> None:
        """Count a failed recalibration; None means that it has not failed."""
        if problem is not None:
            self.failures.labels(code=str(problem["code"])).inc()

    def count_verdict(self, verdict: Mapping[str, Any] | None) -> None:
        """Count the verdict of a succeeded recalibration; None means that it has none."""
        if verdict is not None:
            self.verdicts.labels(verdict=str(verdict["code"])).inc()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        self.labels[name] = labels
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self.labels[name] = labels
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        self.labels[name] = labels
        return Histogram(name, text, labels, registry=self.registry, buckets=SECONDS)
