"""Error before and after on labelled samples: the one check that no statistic can replace.

Labels never enter the statistics. Samples are paired, so what counts are those whose answer became
right or wrong; whether their balance is more than chance is an exact sign test.

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
from bn_ops.diagnostics.forward_trial import Run
from bn_ops.diagnostics.report import EvaluationReport, Report
from bn_ops.errors import BatchError, OptionError

__all__ = ["Evaluation", "evaluation_warnings", "sign_test"]

BatchT = TypeVar("BatchT")

_PAIR = 2
_FEWEST_CLASSES = 2

# Below this probability a rise of the error is called more than chance.
_UNLIKELY = 0.05


class Evaluation(Generic[BatchT]):
    """Labelled batches, and how two networks answer them.

    Args:
        batches: the inputs, checked by the engine.
        labels: classes of each batch, int64, (N, *positions); negative ones are left out.
    """

    def __init__(self, batches: Sequence[BatchT], labels: Sequence[NDArray[np.int64]]) -> None:
        self._batches = batches
        self._labels = labels
        self._answers: list[_Answers] = []

    @classmethod
    def of(
        cls, pairs: Iterable[Any], check: Callable[[Iterable[Any]], Iterable[BatchT]]
    ) -> Evaluation[BatchT]:
        """Read `(inputs, labels)` pairs.

        Args:
            pairs: inputs as the stream has them, labels as whole numbers.
            check: the engine's reading of a stream.

        Raises:
            OptionError: no label, an item that is no pair, labels that are no whole numbers, or
                inputs that do not fit the model.
        """
        read = [_pair(number, pair) for number, pair in enumerate(pairs)]
        if not any((labels >= 0).any() for _, labels in read):
            raise OptionError(
                "evaluate= holds no label (negative ones are left out); leave it out where there "
                "are none"
            )
        try:
            batches = list(check([inputs for inputs, _ in read]))
        except BatchError as error:
            raise OptionError(f"evaluate=: {error.message}") from error
        return cls(batches, [labels for _, labels in read])

    def judge(self, run: Run[BatchT]) -> None:
        """Run a network: first with the source statistics, then with the new ones.

        Raises:
            OptionError: no output fits the labels, or a label is beyond the last class.
        """
        answers = _Answers(self._labels)
        run(self._batches, made=answers.take)
        self._answers.append(answers)

    def added_to(self, report: Report) -> Report:
        """Return the report with the two errors and a warning if they rose."""
        found = self._compared()
        return replace(
            report, evaluation=found, warnings=(*report.warnings, *evaluation_warnings(found))
        )

    def _compared(self) -> EvaluationReport:
        first, second = self._answers
        before, after = np.concatenate(first.wrong), np.concatenate(second.wrong)
        broken, mended = int((after & ~before).sum()), int((before & ~after).sum())
        singly = all(labels.ndim == 1 for labels in self._labels)
        return EvaluationReport(
            output=first.output,
            samples=sum(labels.shape[0] for labels in self._labels),
            labels=int(before.size),
            error_before=float(before.mean()),
            error_after=float(after.mean()),
            broken=broken,
            mended=mended,
            # Pixels of one sample are not independent: no test over them would mean anything.
            chance=sign_test(broken, mended) if singly else None,
        )


@dataclass(slots=True)
class _Answers:
    """Which labels a network gets wrong, batch by batch."""

    labels: Sequence[NDArray[np.int64]]
    output: str = ""
    wrong: list[NDArray[np.bool_]] = field(default_factory=list)

    def take(self, outputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Judge the next batch by its outputs; see `bn_ops.diagnostics.forward_trial.Made`."""
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
            f"gives each of them scores along axis 1 for the classes 0 to {highest} "
            f"(outputs: {shapes})"
        )


def _pair(number: int, pair: Any) -> tuple[Any, NDArray[np.int64]]:
    if not isinstance(pair, tuple | list) or len(pair) != _PAIR:
        raise OptionError(
            f"evaluate= takes pairs (inputs, labels), item {number} is a {type(pair).__name__}"
        )
    labels = np.asarray(as_array(pair[1]))
    if labels.dtype.kind not in "iu" or labels.ndim == 0:
        raise OptionError(
            f"evaluate=: the labels of item {number} are {labels.dtype} of shape "
            f"{list(labels.shape)}; they must be whole numbers, one class per sample (or position)"
        )
    return pair[0], labels.astype(np.int64)


def _fits(output: NDArray[np.generic], labels: NDArray[np.int64], highest: int) -> bool:
    shape = output.shape
    wide = len(shape) > 1 and shape[1] >= max(_FEWEST_CLASSES, highest + 1)
    return wide and is_floating(output.dtype) and (shape[0], *shape[2:]) == labels.shape


def sign_test(broken: int, mended: int) -> float:
    """Return the chance of so uneven a balance, either way, if both were equally likely."""
    pairs, fewer = broken + mended, min(broken, mended)
    logs = (
        math.lgamma(pairs + 1) - math.lgamma(k + 1) - math.lgamma(pairs - k + 1)
        for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(log - pairs * math.log(2)) for log in logs))


def evaluation_warnings(found: EvaluationReport) -> tuple[str, ...]:
    """Warn when the labelled samples say that the recalibration does harm."""
    if found.error_after <= found.error_before:
        return ()
    if found.chance is None:
        doubt = ""
    elif found.chance < _UNLIKELY:
        doubt = f", more than chance explains (p = {found.chance:.2g})"
    else:
        doubt = f", which may be chance (p = {found.chance:.2g}): label more samples"
    sentence = (
        f"on {found.samples} labelled samples the error rose from "
        f"{100 * found.error_before:.1f} % to {100 * found.error_after:.1f} % "
        f"({found.broken} answers became wrong, {found.mended} right){doubt}"
    )
    return (sentence,)
