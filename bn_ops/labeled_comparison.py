"""Compare two finished models on labeled samples, where the run itself had no labels.

A run with `evaluate=` compares its candidates itself. This is for a result that came from
elsewhere, such as a server that never sees the labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bn_ops.auto.run_verdict import verdict_on_labels
from bn_ops.core.batches import named_batches
from bn_ops.core.signature import Batch
from bn_ops.diagnostics.labeled import LabeledSamples
from bn_ops.diagnostics.labeled_error import Evaluation
from bn_ops.diagnostics.metric import MetricEvaluation
from bn_ops.engines.onnx.forward import OnnxForward
from bn_ops.engines.onnx.prepare import prepare
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.model_sources import as_onnx
from bn_ops.onnx_files.load import load_model

if TYPE_CHECKING:
    from bn_ops.api import OnnxSource
    from bn_ops.core.signature import TensorInfo
    from bn_ops.diagnostics.report import Report
    from bn_ops.options import Metric

__all__ = ["compare_on_labels"]

_SOURCE, _RESULT = "source", "result"


def compare_on_labels(
    source: OnnxSource,
    result: OnnxSource,
    report: Report,
    pairs: Iterable[Any],
    *,
    metric: Metric | None = None,
    max_drop: float = 0.0,
    threads: int | None = None,
) -> Report:
    """Return a run's report with its two models compared on labeled samples, which decide.

    Args:
        source: the source model.
        result: the recalibrated model, folded or not.
        report: the report of the run.
        pairs: `(inputs, labels)` pairs, as `evaluate=` of `bn_ops.recalibrate`.
        metric: as for `bn_ops.recalibrate`.
        max_drop: as for `bn_ops.recalibrate`.
        threads: threads within an operator; None for every core.

    Returns:
        The report with `evaluation` or `metric`, and the verdict that follows from it.

    Raises:
        OptionError: the labels do not fit the samples or the outputs.
        ModelError: a model cannot be run.
    """
    before, after = (prepare(load_model(as_onnx(model))) for model in (source, result))
    labeled = _labeled(pairs, model_inputs(before.model), metric)
    labeled.score(OnnxForward(before, threads=threads), _SOURCE)
    labeled.score(OnnxForward(after, threads=threads), _RESULT)
    compared = labeled.added_to(report, _SOURCE, _RESULT)
    return replace(compared, verdict=verdict_on_labels(compared, max_drop=max_drop))


def _labeled(
    pairs: Iterable[Any], inputs: tuple[TensorInfo, ...], metric: Metric | None
) -> LabeledSamples[Batch]:
    def read(items: Iterable[Any]) -> Iterable[Batch]:
        return named_batches(items, inputs)

    if metric is None:
        return Evaluation.of(pairs, read)
    return MetricEvaluation.of(pairs, read, lambda batch: len(next(iter(batch.values()))), metric)
