"""The server's metrics, which Prometheus reads, as OpenTelemetry's data; needs the extra `otel`.

Both have the same values: they are counted once, and copied when they are exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from bn_ops.core.version import __version__

__all__ = ["metrics_data"]

_CUMULATIVE = AggregationTemporality.CUMULATIVE


def metrics_data(
    registry: CollectorRegistry, resource: Resource, *, started: int, now: int
) -> MetricsData:
    """Return the present values of all metrics.

    Args:
        registry: the metrics.
        resource: what they are about.
        started: since when they are counted, in nanoseconds since 1970.
        now: the present time, in the same unit.
    """
    scope = ScopeMetrics(
        scope=InstrumentationScope("bnrecal", __version__),
        metrics=[
            Metric(
                name=family.name,
                description=family.documentation,
                unit="s" if family.name.endswith("_seconds") else "",
                data=_data(family, started, now),
            )
            for family in registry.collect()
            if family.samples
        ],
        schema_url="",
    )
    return MetricsData(
        resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=[scope], schema_url="")]
    )


def _data(family: Family, started: int, now: int) -> Sum | Gauge | Histogram:
    if family.type == "histogram":
        points = [_histogram(part, started, now) for part in _by_labels(family.samples)]
        return Histogram(data_points=points, aggregation_temporality=_CUMULATIVE)
    numbers = [
        NumberDataPoint(
            attributes=sample.labels,
            start_time_unix_nano=started,
            time_unix_nano=now,
            value=sample.value,
        )
        for sample in family.samples
    ]
    if family.type == "counter":
        return Sum(data_points=numbers, aggregation_temporality=_CUMULATIVE, is_monotonic=True)
    return Gauge(data_points=numbers)


def _by_labels(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Return the samples of each histogram of a family."""
    found: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        key = tuple(sorted(_without_bound(sample.labels).items()))
        found.setdefault(key, []).append(sample)
    return list(found.values())


def _histogram(samples: Iterable[Sample], started: int, now: int) -> HistogramDataPoint:
    bounds: list[float] = []
    cumulative = [0.0]
    total, attributes = 0.0, dict[str, str]()
    for sample in samples:
        if sample.name.endswith("_bucket"):
            bounds.append(float(sample.labels["le"]))
            cumulative.append(sample.value)
            attributes = _without_bound(sample.labels)
        elif sample.name.endswith("_sum"):
            total = sample.value
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=started,
        time_unix_nano=now,
        count=int(cumulative[-1]),
        sum=total,
        bucket_counts=[int(upper - lower) for lower, upper in pairwise(cumulative)],
        explicit_bounds=bounds[:-1],  # the last one is infinite
        # Prometheus does not know them, and OTLP can leave them out, unlike the library's types.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
    )


def _without_bound(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != "le"}
