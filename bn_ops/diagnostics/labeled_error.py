"""The error on labeled samples before and after a run.

Labels are never used for the statistics. Samples are paired, so only those whose prediction became
right or wrong carry information; an exact sign test gives the probability of their imbalance.

Source: McNemar 1947, "Note on the Sampling Error of the Difference Between Correlated Proportions";
the exact form, a binomial with p = 1/2 over the discordant pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.batches import as_array
from bn_ops.core.signature import is_floating
from bn_ops.diagnostics.forward_pass import ForwardRunner
from bn_ops.diagnostics.metric import paired_interval
from bn_ops.diagnostics.report import EvaluationReport, Report
from bn_ops.errors import BatchError, OptionError

__all__ = ["Evaluation", "evaluation_warnings", "paired_difference_interval", "sign_test"]

BatchT = TypeVar("BatchT")

_PAIR = 2
_MIN_CLASSES = 2

# A rise of the error with a p-value below this is reported as significant.
_SIGNIFICANCE = 0.05

# Quantile of the normal distribution of a two-sided 95 % interval.
_NORMAL_95 = 1.959964


class Evaluation(Generic[BatchT]):
    """Labeled batches, scored with two sets of statistics.

    Args:
        batches: the inputs, checked by the engine.
        labels: classes of each batch, int64, (N, *positions); negative labels are ignored.
    """

    def __init__(self, batches: Sequence[BatchT], labels: Sequence[NDArray[np.int64]]) -> None:
        self._batches = batches
        self._labels = labels
        self._scores: dict[str, _Scores] = {}

    @classmethod
    def of(
        cls, pairs: Iterable[Any], check: Callable[[Iterable[Any]], Iterable[BatchT]]
    ) -> Evaluation[BatchT]:
        """Read `(inputs, labels)` pairs.

        Args:
            pairs: inputs as in the stream, and integer labels.
            check: the engine's reader of a stream.

        Raises:
            OptionError: there is no label, an item is not a pair, labels are not integers, or
                inputs do not fit the model.
        """
        read = [_pair(number, pair) for number, pair in enumerate(pairs)]
        if not any((labels >= 0).any() for _, labels in read):
            raise OptionError("evaluate= holds no labels (negative labels are ignored)")
        try:
            batches = list(check([inputs for inputs, _ in read]))
        except BatchError as error:
            raise OptionError(f"evaluate=: {error.message}") from error
        return cls(batches, [labels for _, labels in read])

    def score(self, runner: ForwardRunner[BatchT], key: str) -> None:
        """Run the network with its current statistics, and keep its errors under a key.

        Raises:
            OptionError: no output fits the labels, or a label is beyond the last class.
        """
        scores = _Scores(self._labels)
        runner(self._batches, on_outputs=scores.add)
        self._scores[key] = scores

    def value(self, key: str) -> float:
        """Return the accuracy of what was scored under a key."""
        return 1 - float(np.concatenate(self._scores[key].wrong).mean())

    def added_to(self, report: Report, before: str, after: str) -> Report:
        """Return the report with the errors under two keys, and a warning if the error rose."""
        found = self._compared(self._scores[before], self._scores[after])
        return replace(
            report, evaluation=found, warnings=(*report.warnings, *evaluation_warnings(found))
        )

    def _compared(self, first: _Scores, second: _Scores) -> EvaluationReport:
        before, after = np.concatenate(first.wrong), np.concatenate(second.wrong)
        newly_wrong, newly_right = int((after & ~before).sum()), int((before & ~after).sum())
        one_per_sample = all(labels.ndim == 1 for labels in self._labels)
        low, high = (
            paired_difference_interval(newly_right, newly_wrong, before.size)
            if one_per_sample
            else self._interval_over_samples(before, after)
        )
        return EvaluationReport(
            output=first.output,
            samples=sum(labels.shape[0] for labels in self._labels),
            labels=int(before.size),
            error_before=float(before.mean()),
            error_after=float(after.mean()),
            newly_wrong=newly_wrong,
            newly_right=newly_right,
            # Pixels of one sample are not independent, so a test over them would mean nothing.
            p_value=sign_test(newly_wrong, newly_right) if one_per_sample else None,
            change_low=low,
            change_high=high,
        )

    def _interval_over_samples(
        self, before: NDArray[np.bool_], after: NDArray[np.bool_]
    ) -> tuple[float | None, float | None]:
        """Return the interval of the accuracy's change for several labels per sample."""
        known = [(labels >= 0).reshape(labels.shape[0], -1).sum(axis=1) for labels in self._labels]
        counts = np.concatenate(known)
        owner = np.repeat(np.arange(counts.size), counts)
        rise = np.bincount(owner, before.astype(float) - after, minlength=counts.size)

        def change(rows: NDArray[np.intp]) -> float:
            labels = int(counts[rows].sum())
            return float(rise[rows].sum()) / labels if labels else math.nan

        return paired_interval(change, counts.size)


@dataclass(slots=True)
class _Scores:
    """Which labels a network predicts wrongly, batch by batch."""

    labels: Sequence[NDArray[np.int64]]
    output: str = ""
    wrong: list[NDArray[np.bool_]] = field(default_factory=list)

    def add(self, outputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Score the next batch; see `bn_ops.diagnostics.forward_pass.OnOutputs`."""
        number = len(self.wrong)
        labels = self.labels[number]
        scores = outputs[self._head(outputs, labels, number)]
        known = labels >= 0
        self.wrong.append((scores.astype(np.float64).argmax(axis=1) != labels)[known])

    def _head(
        self, outputs: Mapping[str, NDArray[np.generic]], labels: NDArray[np.int64], number: int
    ) -> str:
        highest = max(int(batch.max(initial=0)) for batch in self.labels)
        names = [self.output] if self.output else list(outputs)
        for name in names:
            if _fits(outputs[name], labels, highest):
                self.output = name
                return name
        shapes = {name: list(out.shape) for name, out in outputs.items()}
        raise OptionError(
            f"evaluate=: the labels of batch {number} have shape {list(labels.shape)}; no output "
            f"has scores along axis 1 for each of them and the classes 0 to {highest} "
            f"(outputs: {shapes})"
        )


def _pair(number: int, pair: Any) -> tuple[Any, NDArray[np.int64]]:
    if not isinstance(pair, tuple | list) or len(pair) != _PAIR:
        raise OptionError(
            f"evaluate= takes pairs (inputs, labels); item {number} is a {type(pair).__name__}"
        )
    labels = np.asarray(as_array(pair[1]))
    if labels.dtype.kind not in "iu" or labels.ndim == 0:
        raise OptionError(
            f"evaluate=: the labels of item {number} are {labels.dtype} of shape "
            f"{list(labels.shape)}; expected integers, one class per sample (or position)"
        )
    return pair[0], labels.astype(np.int64)


def _fits(output: NDArray[np.generic], labels: NDArray[np.int64], highest: int) -> bool:
    shape = output.shape
    has_classes = len(shape) > 1 and shape[1] >= max(_MIN_CLASSES, highest + 1)
    return has_classes and is_floating(output.dtype) and (shape[0], *shape[2:]) == labels.shape


def sign_test(newly_wrong: int, newly_right: int) -> float:
    """Return the two-sided p-value of the exact sign test over the changed predictions."""
    pairs, fewer = newly_wrong + newly_right, min(newly_wrong, newly_right)
    logs = (
        math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1)
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(log - pairs * math.log(2)) for log in logs))


def paired_difference_interval(
    newly_right: int, newly_wrong: int, pairs: int
) -> tuple[float, float]:
    """Return the 95 % confidence interval of the change of the accuracy.

    Source: Agresti & Min 2005, "Simple improved confidence intervals for comparing matched
        proportions", equation 3: the Wald interval after 1/2 is added to each of the four counts.
    """
    total = pairs + 2
    change = (newly_right - newly_wrong) / total
    error = math.sqrt(max(0.0, (newly_right + newly_wrong + 1) / total - change**2) / total)
    return change - _NORMAL_95 * error, change + _NORMAL_95 * error


def evaluation_warnings(found: EvaluationReport) -> tuple[str, ...]:
    """Warn if the error on the labeled samples rose."""
    if found.error_after <= found.error_before:
        return ()
    if found.p_value is None:
        significance = ""
    elif found.p_value < _SIGNIFICANCE:
        significance = f", more than chance explains (p = {found.p_value:.2g})"
    else:
        significance = f", which may be chance (p = {found.p_value:.2g}): label more samples"
    sentence = (
        f"on {found.samples} labeled samples the error rose from "
        f"{100 * found.error_before:.1f} % to {100 * found.error_after:.1f} % "
        f"({found.newly_wrong} predictions became wrong, {found.newly_right} right){significance}"
    )
    return (sentence,)
