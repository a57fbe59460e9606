"""Figures for Prometheus, in its text format, without a library: counters, gauges, histograms.

Labels never grow with the data or with what strangers send: routes and not paths, known methods,
codes of the table of problems.
"""

from __future__ import annotations

import bisect
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

Labels = tuple[tuple[str, str], ...]
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a batch of kilobytes on a fast disk to a run of hours.
SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3600.0)


class Family(ABC):
    """One name with its meaning and its labels.

    Attributes:
        kind: its type in the text format.
        name: as Prometheus knows it.
        text: what it counts.
        labels: their names, sorted.
    """

    kind: ClassVar[str] = "gauge"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        self.name = name
        self.text = text
        self.labels = tuple(sorted(labels))
        self._lock = threading.Lock()

    def lines(self) -> Iterator[str]:
        """Write it."""
        yield f"# HELP {self.name} {self.text}"
        yield f"# TYPE {self.name} {self.kind}"
        with self._lock:
            samples = list(self._samples())
        yield from samples

    @abstractmethod
    def _samples(self) -> Iterator[str]:
        """Write each series; called under the lock."""

    def _key(self, labels: Mapping[str, str]) -> Labels:
        key = tuple(sorted(labels.items()))
        assert tuple(name for name, _ in key) == self.labels
        return key


class Counter(Family):
    """A figure that only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        # Without labels there is one series, which must be there before anything is counted.
        self._values: defaultdict[Labels, float] = defaultdict(float, {} if labels else {(): 0.0})

    def add(self, amount: float, **labels: str) -> None:
        """Add to it."""
        key = self._key(labels)
        with self._lock:
            self._values[key] += amount

    def _samples(self) -> Iterator[str]:
        for key, value in sorted(self._values.items()):
            yield f"{self.name}{_labels(key)} {_number(value)}"


class Level(Family):
    """How many of something are under way now."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(name, text)
        self._value = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one more for a while."""
        with self._lock:
            self._value += 1
        try:
            yield
        finally:
            with self._lock:
                self._value -= 1

    def _samples(self) -> Iterator[str]:
        yield f"{self.name} {self._value}"


class Gauge(Family):
    """A figure that is read when somebody looks; by one label, or alone under the empty name."""

    def __init__(
        self, name: str, text: str, *labels: str, values: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(name, text, *labels)
        self._values = dict(values or {})

    def showing(self, values: Mapping[str, float]) -> Self:
        """Return the same gauge with these values."""
        return type(self)(self.name, self.text, *self.labels, values=values)

    def _samples(self) -> Iterator[str]:
        for value, figure in sorted(self._values.items()):
            key = tuple((label, value) for label in self.labels)
            yield f"{self.name}{_labels(key)} {_number(figure)}"


class Total(Gauge):
    """A counter that somebody else counts."""

    kind = "counter"


class Histogram(Family):
    """How long something took."""

    kind = "histogram"

    def __init__(self, name: str, text: str, *labels: str) -> None:
        super().__init__(name, text, *labels)
        self._counts: defaultdict[Labels, list[int]] = defaultdict(lambda: [0] * (len(SECONDS) + 1))
        self._sums: defaultdict[Labels, float] = defaultdict(float)

    def observe(self, seconds: float, **labels: str) -> None:
        """Count one more."""
        key = self._key(labels)
        with self._lock:
            self._counts[key][bisect.bisect_left(SECONDS, seconds)] += 1
            self._sums[key] += seconds

    def _samples(self) -> Iterator[str]:
        for key, each in sorted(self._counts.items()):
            total = 0
            for bound, count in zip((*map(str, SECONDS), "+Inf"), each, strict=True):
                total += count
                yield f"{self.name}_bucket{_labels((*key, ('le', bound)))} {total}"
            yield f"{self.name}_sum{_labels(key)} {self._sums[key]:.6f}"
            yield f"{self.name}_count{_labels(key)} {total}"


class Metrics:
    """What one server counts as it goes."""

    def __init__(self) -> None:
        self.requests = Counter(
            "bnrecal_requests_total", "Requests answered.", "method", "route", "status"
        )
        self.request_seconds = Histogram(
            "bnrecal_request_seconds", "Time to answer a request.", "method", "route"
        )
        self.requests_open = Level("bnrecal_requests_open", "Requests under way.")
        self.event_streams = Level("bnrecal_event_streams", "Open streams of events.")
        self.problems = Counter("bnrecal_problems_total", "Problems answered, by code.", "code")
        self.ingest_bytes = Counter("bnrecal_ingest_bytes_total", "Bytes of acknowledged batches.")
        self.ingest_batches = Counter("bnrecal_ingest_batches_total", "Acknowledged batches.")
        self.running = Level("bnrecal_running", "Runs under way.")
        self.run_seconds = Histogram(
            "bnrecal_run_seconds", "Time of a run, by the state after it.", "state"
        )
        self.failures = Counter("bnrecal_failures_total", "Failed recalibrations.", "code")
        self.commit_seconds = Histogram("bnrecal_ledger_commit_seconds", "Time of a ledger commit.")

    def count_failure(self, problem: Mapping[str, Any] | None) -> None:
        """Count a recalibration that has failed; None: it has not."""
        if problem is not None:
            self.failures.add(1, code=str(problem["code"]))

    def families(self) -> list[Family]:
        """Return them in the order in which they are written."""
        return list(vars(self).values())


def render(families: list[Family]) -> str:
    """Write figures in Prometheus' text format."""
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _labels(key: Labels) -> str:
    if not key:
        return ""
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in key)
    return f"{{{inner}}}"


def _number(value: float) -> str:
    """Write every digit: a rate over rounded totals would stand still and jump."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
