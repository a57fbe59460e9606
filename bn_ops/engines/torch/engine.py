"""Recalibration of a torch module, in place and as a transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from bn_ops.core.batches import Select
from bn_ops.core.estimators import Estimator, Replace
from bn_ops.core.frontier import Settlement, settle
from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.core.train_accumulator import Variance, check_variance
from bn_ops.diagnostics.before_after import Comparison
from bn_ops.diagnostics.build_report import warnings_of
from bn_ops.diagnostics.labeled_error import Evaluation
from bn_ops.diagnostics.report import FrozenReport, Report, StreamReport
from bn_ops.engines.torch.digests import tensor_digests
from bn_ops.engines.torch.forward import ModuleRun
from bn_ops.engines.torch.frontier import SHARED_PASSES, SHARED_TOLERANCE, TorchFrontier
from bn_ops.engines.torch.functional import find_functional, may_be_functional
from bn_ops.engines.torch.layers import TorchLayer, find_layers, layer_info
from bn_ops.engines.torch.reporting import (
    stranger_warnings,
    torch_layer_reports,
    unsettled_warnings,
)
from bn_ops.engines.torch.selected_layers import ChosenLayers, check_devices
from bn_ops.engines.torch.shared_layers import Residual
from bn_ops.engines.torch.stream import CountedStream, first_samples
from bn_ops.engines.torch.train_pass import settle_batches
from bn_ops.onnx_files.digests import combined
from bn_ops.options import Budget
from bn_ops.progress import ProgressCallback, silent
from bn_ops.result import Recalibration
from bn_ops.torch_modules.arguments import Call, Item, device_of, items_of
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
    compare: bool = False,
    evaluate: Iterable[Any] | None = None,
) -> Recalibration[torch.nn.Module]:
    """Recompute the running statistics of a module; see `bn_ops.recalibrate`.

    Args:
        module: any module, on any device. Modified: running statistics of the chosen layers, and
            only when all has succeeded; everything else is as before, bit for bit, always.
        batches: tensors or arrays, tuples (positional arguments) or dicts (named arguments).
        method: `exact` or `batch`.
        estimator: default `Replace()`.
        layers: glob patterns.
        budget: memory and files for the activations that wait; default `Budget()`. Only CPU
            tensors can be spilled: on other devices None means no limit, and a budget given ends a
            run that takes more memory.
        progress: called between steps.
        select: applied to each batch first, for `(input, label)` pairs.
        call: `call(module, batch)` runs the module in any other way; batches then come to it as
            they are, neither converted nor moved to the module's device.
        adopt_untracked: give running statistics to layers with `track_running_stats=False`.
        variance: for `method="batch"`: `population`, `unbiased` or `mean_of_batches`.
        shared_passes: bound on passes over the data where a layer is called several times.
        shared_tolerance: movement in units of σ below which such layers count as settled.
        compare: as for `bn_ops.recalibrate`; with `call=` what it returns is taken for the
            module's output, and the first batches are kept whole.
        evaluate: as for `bn_ops.recalibrate`.

    Raises:
        BatchError: a batch is at fault.
        StreamEmptyError: no batch came.
        ModelWithoutBatchNormError: no layer can be recalibrated.
        LayerNotFiniteError: NaN or Inf arises inside the network.
        EngineError: the module's forward failed; the cause is chained.
        SpillLimitError: the waiting activations fit neither memory nor files.
    """
    check_variance(variance)
    check_devices(module)
    items = items_of(module, batches, select=select, adapt=call is None)
    functional, items = _functional(module, items, call)
    run = _Run(
        module=module,
        chosen=ChosenLayers.find(
            module, layers, adopt_untracked=adopt_untracked, functional=functional
        ),
        estimator=estimator or Replace(),
        call=call,
        progress=progress or silent,
    )
    labelled = None if evaluate is None else _labelled(evaluate, module, call)
    if labelled is not None:
        labelled.score(run.trial)
    run.read(items)
    if method == "batch":
        run.batch(variance)
    else:
        run.exact(
            budget=budget or _default_budget(module),
            shared_passes=shared_passes,
            shared_tolerance=shared_tolerance,
        )
    return _stored(run, method=method, layers=layers, compare=compare, labelled=labelled)


def _stored(
    run: _Run,
    *,
    method: str,
    layers: Sequence[str] | None,
    compare: bool,
    labelled: Evaluation[Item] | None,
) -> Recalibration[torch.nn.Module]:
    """Write the new statistics, and report; if anything fails, put the old ones back."""
    kept = run.stream.kept
    comparison = Comparison(kept, sum(item.samples for item in kept)) if compare else None
    if comparison is not None:
        comparison.observe(run.trial)
    restore = run.chosen.store(run.statistics)
    try:
        report = run.report(method, layers)
        if comparison is not None:
            comparison.observe(run.trial)
            report = comparison.added_to(report, run.chosen.infos.values(), run.settled)
        if labelled is not None:
            labelled.score(run.trial)
            report = labelled.added_to(report)
        calibration = run.stream.calibration()
    except BaseException:
        restore()
        raise
    return Recalibration(
        model=run.module,
        statistics=run.statistics,
        report=report,
        calibration=calibration,
        _restore=restore,
    )


def _functional(
    module: torch.nn.Module, items: Iterator[Item], call: Call | None
) -> tuple[list[TorchLayer], Iterator[Item]]:
    """Look for layers that are no modules, with the first sample; return the whole stream too."""
    known = find_layers(module)
    first = next(items, None) if may_be_functional(module, known) else None
    if first is None:
        return [], items
    found = find_functional(module, first if call else first_samples(first, 1), call, known)
    return found, chain([first], items)


def _default_budget(module: torch.nn.Module) -> Budget | None:
    device = device_of(module)
    return Budget() if device is None or device.type == "cpu" else None


def _labelled(pairs: Iterable[Any], module: torch.nn.Module, call: Call | None) -> Evaluation[Item]:
    return Evaluation.of(
        pairs, lambda batches: items_of(module, batches, select=None, adapt=call is None)
    )


class _Run:
    """What both methods need, and what they leave behind."""

    def __init__(
        self,
        *,
        module: torch.nn.Module,
        chosen: ChosenLayers,
        estimator: Estimator,
        call: Call | None,
        progress: ProgressCallback,
    ) -> None:
        self._started = time.perf_counter()
        self.module = module
        self._estimator = estimator
        self._call = call
        self._progress = progress
        self._digests = tensor_digests(module, chosen.chosen.values())
        self._warnings: Sequence[str] = ()
        self._residuals: Mapping[LayerName, Residual] = {}
        self.chosen = chosen
        self.trial = ModuleRun(module, chosen.found, call)
        self.settled: Mapping[LayerName, Settlement] = {}

    def read(self, items: Iterator[Item]) -> None:
        """Take the stream that the method will read."""
        self.stream = CountedStream(
            module=self.module, items=items, own_call=self._call is not None
        )

    def batch(self, variance: Variance) -> None:
        self.settled, strangers = settle_batches(
            self.module,
            self.stream,
            layers=self.chosen.chosen,
            infos=self.chosen.infos,
            estimator=self._estimator,
            variance=variance,
            call=self._call,
            progress=self._progress,
        )
        self._warnings = self._left_alone(strangers)

    def exact(self, *, budget: Budget | None, shared_passes: int, shared_tolerance: float) -> None:
        with TorchFrontier(
            self.module,
            self.stream,
            layers=self.chosen.chosen.values(),
            call=self._call,
            progress=self._progress,
            budget=budget,
            shared_passes=shared_passes,
            shared_tolerance=shared_tolerance,
        ) as frontier:
            self.settled = settle(frontier, self.chosen.infos, self._estimator)
        self._residuals = frontier.residuals
        self._warnings = [
            *unsettled_warnings(frontier.residuals, shared_tolerance),
            *self._left_alone(frontier.strangers),
        ]

    def _left_alone(self, strangers: Iterable[str]) -> list[str]:
        """Warn of functional calls that no layer stands for, be it one that was left out."""
        found = {layer.form.mean for layer in self.chosen.found if layer.functional}
        return stranger_warnings([path for path in strangers if path not in found])

    @property
    def statistics(self) -> dict[LayerName, RunningStatistics]:
        """The new statistics of the settled layers."""
        return {name: settlement.statistics for name, settlement in self.settled.items()}

    def report(self, method: str, layers: Sequence[str] | None) -> Report:
        """Report the run; the new statistics have been stored."""
        reports = torch_layer_reports(self.chosen, self.settled, self._residuals)
        correlation = self.stream.series.correlation()
        samples = self.stream.samples
        before, after = self._digests, tensor_digests(self.module, self.chosen.chosen.values())
        return Report(
            bnrecal=__version__,
            engine="torch",
            method=method,
            estimator=self._estimator.to_json(),
            layers_selected=None if layers is None else tuple(layers),
            source_sha256=None,
            stream=StreamReport(
                batches=self.stream.batches, samples=samples, correlation=correlation
            ),
            layers=reports,
            frozen=FrozenReport(
                tensors=before,
                sha256_before=combined(before),
                sha256_after=combined({name: after[name] for name in before}),
            ),
            timings={"recalibrate": time.perf_counter() - self._started},
            warnings=(*warnings_of(reports, samples, correlation), *self._warnings),
        )
