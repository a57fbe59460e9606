"""The network before against after, on a few samples: what every engine adds to a report.

An engine gives two runs of the same network, with the source and with the new statistics; what is
made of them is the same for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from bn_ops.core.frontier import Settlement
from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName
from bn_ops.diagnostics.activations import activation_summary
from bn_ops.diagnostics.build_report import prediction_warnings
from bn_ops.diagnostics.forward_trial import Run, Trial, try_out
from bn_ops.diagnostics.prediction_counts import compare_heads
from bn_ops.diagnostics.report import ActivationReport, LayerReport, Report

__all__ = ["COMPARED_SAMPLES", "Comparison"]

# Samples of the stream that are kept, to compare with and to verify a folded model with.
COMPARED_SAMPLES = 32

BatchT = TypeVar("BatchT")


class Comparison(Generic[BatchT]):
    """Two trials on the same samples, and what a report says of them.

    Args:
        batches: the samples, checked by the engine.
        samples: how many they are.
    """

    def __init__(self, batches: Sequence[BatchT], samples: int) -> None:
        self._batches = batches
        self._samples = samples
        self._trials: list[Trial] = []

    def look(self, run: Run[BatchT]) -> None:
        """Run the network: first with the source statistics, then with the new ones."""
        self._trials.append(try_out(run, self._batches))

    def added_to(
        self,
        report: Report,
        infos: Iterable[LayerInfo],
        settled: Mapping[LayerName, Settlement],
    ) -> Report:
        """Return the report with predictions, activations by depth, and their warnings."""
        before, after = self._trials
        predictions = compare_heads(before, after, samples=self._samples)
        known = {info.name: info for info in infos}
        return replace(
            report,
            predictions=predictions,
            layers=tuple(
                _with_activations(layer, before, after, known[layer.name], settled.get(layer.name))
                for layer in report.layers
            ),
            warnings=(
                *report.warnings,
                *(() if predictions is None else prediction_warnings(predictions)),
            ),
        )


def _with_activations(
    layer: LayerReport,
    before: Trial,
    after: Trial,
    info: LayerInfo,
    settlement: Settlement | None,
) -> LayerReport:
    old, new = before.inputs.get(info.name), after.inputs.get(info.name)
    source = info.statistics
    if old is None or new is None or source is None:
        return layer
    stored = source if settlement is None else settlement.statistics
    return replace(
        layer,
        activations=ActivationReport(
            samples=new.samples,
            before=activation_summary(old, source, eps=info.eps),
            after=activation_summary(new, stored, eps=info.eps),
        ),
    )
