"""The caller's own metric on labeled samples, with a paired bootstrap.

Source of the interval: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13
(percentile interval); samples are resampled once for both models, so that the difference is paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.batches import as_array
from bn_ops.core.options import Metric
from bn_ops.diagnostics.forward_pass import ForwardRunner
from bn_ops.diagnostics.report import MetricReport, Report
from bn_ops.errors import BatchError, OptionError

__all__ = ["MetricEvaluation", "paired_interval"]

BatchT = TypeVar("BatchT")

_PAIR = 2
_RESAMPLES = 400
_SEED = 0

# A percentile needs this many numbers; the metric may be undefined on some resamples.
_MIN_RESAMPLES = 200

_Rows = NDArray[np.generic] | list[Any]


class MetricEvaluation(Generic[BatchT]):
    """Labeled batches, scored by the caller's metric under several sets of statistics.

    Args:
        batches: the inputs, checked by the engine.
        labels: one entry per sample, over all batches.
        sizes: number of samples of each batch.
        metric: called with the outputs and the labels of all samples, or of a resample.
    """

    def __init__(
        self, batches: Sequence[BatchT], labels: _Rows, sizes: Sequence[int], metric: Metric
    ) -> None:
        self._batches = batches
        self._labels = labels
        self._sizes = sizes
        self._metric = metric
        self._outputs: dict[str, Mapping[str, _Rows]] = {}
        self._values: dict[str, float] = {}

    @classmethod
    def of(
        cls,
        pairs: Iterable[Any],
        check: Callable[[Iterable[Any]], Iterable[BatchT]],
        samples: Callable[[BatchT], int],
        metric: Metric,
    ) -> MetricEvaluation[BatchT]:
        """Read `(inputs, labels)` pairs; labels are an array or a list with an entry per sample.

        Args:
            pairs: inputs as in the stream, and their labels.
            check: the engine's reader of a stream.
            samples: the number of samples of a batch.
            metric: the caller's metric.

        Raises:
            OptionError: there is no pair, an item is not a pair, the numbers of samples and labels
                differ, or inputs do not fit the model.
        """
        read = list(pairs)
        for number, pair in enumerate(read):
            if not isinstance(pair, tuple | list) or len(pair) != _PAIR:
                raise OptionError(
                    f"evaluate= takes pairs (inputs, labels); item {number} is a "
                    f"{type(pair).__name__}"
                )
        try:
            batches = list(check([inputs for inputs, _ in read]))
        except BatchError as error:
            raise OptionError(f"evaluate=: {error.message}") from error
        if not batches:
            raise OptionError("evaluate= holds no samples")
        labels = [_entries(labels) for _, labels in read]
        sizes = [samples(batch) for batch in batches]
        for number, (size, entries) in enumerate(zip(sizes, labels, strict=True)):
            if len(entries) != size:
                raise OptionError(
                    f"evaluate=: item {number} has {size} samples and {len(entries)} labels"
                )
        return cls(batches, _joined(labels), sizes, metric)

    @property
    def samples(self) -> int:
        """Number of labeled samples."""
        return sum(self._sizes)

    def score(self, runner: ForwardRunner[BatchT], key: str) -> None:
        """Run the network with its current statistics and score its outputs.

        Raises:
            OptionError: an output has no row per sample, or the metric is not a number.
        """
        collected: dict[str, list[NDArray[np.generic]]] = {}

        def on_outputs(outputs: Mapping[str, NDArray[np.generic]]) -> None:
            for name, array in outputs.items():
                collected.setdefault(name, []).append(array)

        runner(self._batches, on_outputs=on_outputs)
        for name, parts in collected.items():
            if sum(part.shape[0] if part.ndim else 0 for part in parts) != self.samples:
                raise OptionError(f"metric=: output {name!r} has no row per sample")
        self._outputs[key] = {name: _joined(parts) for name, parts in collected.items()}
        value = self._value(key, None)
        if not math.isfinite(value):
            raise OptionError(f"metric= returned {value} on the labeled samples")
        self._values[key] = value

    def value(self, key: str) -> float:
        """Return the metric of the outputs that were scored under a key."""
        return self._values[key]

    def added_to(self, report: Report, before: str, after: str) -> Report:
        """Return the report with the metric under two keys, and a warning if it fell."""
        low, high = paired_interval(
            lambda rows: self._value(after, rows) - self._value(before, rows), self.samples
        )
        found = MetricReport(
            samples=self.samples,
            before=self.value(before),
            after=self.value(after),
            change_low=low,
            change_high=high,
        )
        return replace(report, metric=found, warnings=(*report.warnings, *_warnings(found)))

    def _value(self, key: str, rows: NDArray[np.intp] | None) -> float:
        outputs = {name: _taken(values, rows) for name, values in self._outputs[key].items()}
        only = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return float(self._metric(only, _taken(self._labels, rows)))


def _warnings(found: MetricReport) -> tuple[str, ...]:
    if found.after >= found.before:
        return ()
    sentence = (
        f"on {found.samples} labeled samples the metric fell from {found.before:.4g} to "
        f"{found.after:.4g}"
    )
    return (sentence,)


def paired_interval(
    change: Callable[[NDArray[np.intp]], float], samples: int
) -> tuple[float | None, float | None]:
    """Return the 95 % percentile interval of a change over resamples of the samples.

    The seed is fixed, so that the same data give the same interval.

    Args:
        change: returns the change on the samples with these indices; NaN where it is undefined.
        samples: number of samples.

    Returns:
        Low and high, or None twice where the change is undefined on too many resamples.
    """
    random = np.random.default_rng(_SEED)
    found = [change(random.integers(samples, size=samples)) for _ in range(_RESAMPLES)]
    known = [value for value in found if not math.isnan(value)]
    if len(known) < _MIN_RESAMPLES:
        return None, None
    low, high = np.percentile(known, [2.5, 97.5])
    return float(low), float(high)


def _entries(labels: Any) -> _Rows:
    return labels if isinstance(labels, list) else as_array(labels)


def _joined(parts: Sequence[_Rows]) -> _Rows:
    """Join parts to one array where their rows have the same shape, else to a list of rows."""
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    return [row for part in parts for row in part]


def _taken(rows: _Rows, picked: NDArray[np.intp] | None) -> _Rows:
    if picked is None:
        return rows
    return rows[picked] if isinstance(rows, np.ndarray) else [rows[i] for i in picked]
