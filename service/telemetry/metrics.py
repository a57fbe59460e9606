"""Figures for Prometheus, in its text format, without a library: counters, gauges, histograms."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

Labels = tuple[tuple[str, str], ...]
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a batch of kilobytes on a fast disk to a run of hours.
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0)


class Counter:
    """A figure that only grows."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._values: defaultdict[Labels, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, amount: float, **labels: str) -> None:
        """Add to it."""
        with self._lock:
            self._values[_key(labels)] += amount

    def lines(self) -> Iterator[str]:
        """Write it."""
        yield from _head(self._name, self._text, "counter")
        with self._lock:
            values = sorted(self._values.items())
        yield from (f"{self._name}{_labels(key)} {value:g}" for key, value in values)


class Gauge:
    """A figure that is asked for when somebody looks."""

    def __init__(self, name: str, text: str, read: Callable[[], dict[str, float]]) -> None:
        """Take a function that returns the value by the label `kind` (empty: no label)."""
        self._name = name
        self._text = text
        self._read = read

    def lines(self) -> Iterator[str]:
        """Write it."""
        yield from _head(self._name, self._text, "gauge")
        for kind, value in sorted(self._read().items()):
            key: Labels = (("kind", kind),) if kind else ()
            yield f"{self._name}{_labels(key)} {value:g}"


class Histogram:
    """How long something took."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._counts: defaultdict[Labels, list[int]] = defaultdict(lambda: [0] * (len(SECONDS) + 1))
        self._sums: defaultdict[Labels, float] = defaultdict(float)
        self._lock = threading.Lock()

    def observe(self, seconds: float, **labels: str) -> None:
        """Count one more."""
        key = _key(labels)
        with self._lock:
            self._counts[key][bisect.bisect_left(SECONDS, seconds)] += 1
            self._sums[key] += seconds

    def lines(self) -> Iterator[str]:
        """Write it."""
        yield from _head(self._name, self._text, "histogram")
        with self._lock:
            counts = sorted((key, list(each)) for key, each in self._counts.items())
            sums = dict(self._sums)
        for key, each in counts:
            total = 0
            for bound, count in zip((*map(str, SECONDS), "+Inf"), each, strict=True):
                total += count
                yield f"{self._name}_bucket{_labels((*key, ('le', bound)))} {total}"
            yield f"{self._name}_sum{_labels(key)} {sums[key]:.6f}"
            yield f"{self._name}_count{_labels(key)} {total}"


class Metrics:
    """All figures of one server."""

    def __init__(self) -> None:
        self.requests = Counter("bnrecal_requests_total", "Requests answered.")
        self.request_seconds = Histogram("bnrecal_request_seconds", "Time to answer a request.")
        self.ingest_bytes = Counter("bnrecal_ingest_bytes_total", "Bytes of acknowledged batches.")
        self.ingest_batches = Counter("bnrecal_ingest_batches_total", "Acknowledged batches.")
        self.run_seconds = Histogram("bnrecal_run_seconds", "Time of a run, by how it ended.")
        self.failures = Counter("bnrecal_failures_total", "Failed recalibrations, by code.")
        self.commit_seconds = Histogram("bnrecal_ledger_commit_seconds", "Time of a ledger commit.")
        self.gauges: list[Gauge] = []

    def render(self) -> str:
        """Write everything in Prometheus' text format."""
        families: list[Counter | Histogram | Gauge] = [
            self.requests,
            self.request_seconds,
            self.ingest_bytes,
            self.ingest_batches,
            self.run_seconds,
            self.failures,
            self.commit_seconds,
            *self.gauges,
        ]
        return "".join(f"{line}\n" for family in families for line in family.lines())


def _key(labels: dict[str, str]) -> Labels:
    return tuple(sorted(labels.items()))


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _labels(key: Labels) -> str:
    if not key:
        return ""
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in key)
    return f"{{{inner}}}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
