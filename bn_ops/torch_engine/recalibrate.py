"""Recalibration of a torch module, in place and as a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bn_ops.batches import Select
from bn_ops.budget import Budget
from bn_ops.digests import combined
from bn_ops.estimators import Estimator, Replace
from bn_ops.frontier import Settlement, settle
from bn_ops.layers import LayerInfo
from bn_ops.progress import ProgressCallback, silent
from bn_ops.recalibration import Recalibration
from bn_ops.report import FrozenReport, Report, StreamReport
from bn_ops.reporting import warnings_of
from bn_ops.statistics import LayerName
from bn_ops.tally import Variance, check_variance
from bn_ops.torch_engine._calls import Call, items_of
from bn_ops.torch_engine._chosen import ChosenLayers
from bn_ops.torch_engine._digests import tensor_digests
from bn_ops.torch_engine._layers import find_layers, layer_info
from bn_ops.torch_engine._reporting import torch_layer_reports, unsettled_warnings
from bn_ops.torch_engine._shared import Residual
from bn_ops.torch_engine._stream import CountedStream
from bn_ops.torch_engine.batch_pass import settle_batches
from bn_ops.torch_engine.frontier import SHARED_PASSES, SHARED_TOLERANCE, TorchFrontier
from bn_ops.version import __version__

if TYPE_CHECKING:
    import torch

__all__ = ["describe_module", "recalibrate_module"]


def describe_module(module: torch.nn.Module, *, adopt_untracked: bool = False) -> list[LayerInfo]:
    """List the BatchNorm layers of a module in the order of registration. Modified: no."""
    return [layer_info(layer) for layer in find_layers(module, adopt_untracked=adopt_untracked)]


def recalibrate_module(
    module: torch.nn.Module,
    batches: Iterable[Any],
    *,
    method: str = "exact",
    estimator: Estimator | None = None,
    layers: Sequence[str] | None = None,
    budget: Budget | None = None,
    progress: ProgressCallback | None = None,
    select: Select | None = None,
    call: Call | None = None,
    adopt_untracked: bool = False,
    variance: Variance = "population",
    shared_passes: int = SHARED_PASSES,
    shared_tolerance: float = SHARED_TOLERANCE,
) -> Recalibration[torch.nn.Module]:
    """Recompute the running statistics of a module; see `bn_ops.recalibrate`.

    Args:
        module: any module, on any device. Modified: running statistics of the chosen layers, and
            only when all has succeeded; everything else is as before, bit for bit, always.
        batches: tensors or arrays, tuples (positional arguments) or dicts (named arguments).
        method: `exact` or `batch`.
        estimator: default `Replace()`.
        layers: glob patterns.
        budget: its `memory_bytes` ends a run whose waiting activations take more; this engine
            cannot spill. None means no limit.
        progress: called between steps.
        select: applied to each batch first, for `(input, label)` pairs.
        call: `call(module, batch)` runs the module in any other way; batches then come to it as
            they are, neither converted nor moved to the module's device.
        adopt_untracked: give running statistics to layers with `track_running_stats=False`.
        variance: for `method="batch"`: `population`, `unbiased` or `mean_of_batches`.
        shared_passes: bound on passes over the data where a layer is called several times.
        shared_tolerance: movement in units of σ below which such layers count as settled.

    Raises:
        BatchError: a batch is at fault.
        StreamEmptyError: no batch came.
        ModelWithoutBatchNormError: no layer can be recalibrated.
        LayerNotFiniteError: NaN or Inf arises inside the network.
        EngineError: the module's forward failed; the cause is chained.
        SpillLimitError: the waiting activations take more than the budget.
    """
    started = time.perf_counter()
    check_variance(variance)
    how = estimator or Replace()
    chosen = ChosenLayers.find(module, layers, adopt_untracked=adopt_untracked)
    items = items_of(module, batches, select=select, adapt=call is None)
    stream = CountedStream(module=module, items=items, keep=call is None)
    before = tensor_digests(module, chosen.chosen.values())
    residuals: Mapping[LayerName, Residual] = {}
    settled: Mapping[LayerName, Settlement]
    if method == "batch":
        settled = settle_batches(
            module,
            stream,
            layers=chosen.chosen,
            infos=chosen.infos,
            estimator=how,
            variance=variance,
            call=call,
            progress=progress or silent,
        )
    else:
        with TorchFrontier(
            module,
            stream,
            layers=chosen.chosen.values(),
            call=call,
            progress=progress or silent,
            memory_bytes=None if budget is None else budget.memory_bytes,
            shared_passes=shared_passes,
            shared_tolerance=shared_tolerance,
        ) as frontier:
            settled = settle(frontier, chosen.infos, how)
        residuals = frontier.residuals
    statistics = {name: settlement.statistics for name, settlement in settled.items()}
    restore = chosen.store(statistics)
    reports = torch_layer_reports(chosen, settled, residuals)
    after = tensor_digests(module, chosen.chosen.values())
    report = Report(
        bnrecal=__version__,
        engine="torch",
        method=method,
        estimator=how.to_json(),
        layers_selected=None if layers is None else tuple(layers),
        source_sha256=None,
        stream=StreamReport(batches=stream.batches, samples=stream.samples),
        layers=reports,
        frozen=FrozenReport(
            tensors=before,
            sha256_before=combined(before),
            sha256_after=combined({name: after[name] for name in before}),
        ),
        timings={"recalibrate": time.perf_counter() - started},
        warnings=(
            *warnings_of(reports, stream.samples),
            *unsettled_warnings(residuals, shared_tolerance),
        ),
    )
    return Recalibration(
        model=module,
        statistics=statistics,
        report=report,
        calibration=tuple(stream.kept),
        _restore=restore,
    )
