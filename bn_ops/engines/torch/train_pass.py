"""method="batch": one pass in which each batch is normalised by its own moments, as in training.

What other tools do, for comparison and for whoever must match them. Dropout stays off, everything
but BatchNorm is in eval mode, and no module updates itself: the input is observed, its moments
are lent to the layer for that one call, and the buffers are put back afterwards. A layer that is
called several times counts each call as a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bn_ops.core.estimators import Estimator
from bn_ops.core.frontier import Settlement, check_finite
from bn_ops.core.layers import LayerInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.core.train_accumulator import Tally, Variance, settle_tally
from bn_ops.engines.torch.functional import FunctionalCalls
from bn_ops.engines.torch.layers import TorchLayer, write
from bn_ops.engines.torch.moments import measure_tensor
from bn_ops.engines.torch.observation import observed
from bn_ops.engines.torch.thread_state import ThreadState, parked
from bn_ops.progress import Progress, ProgressCallback
from bn_ops.torch_modules.arguments import Call, Item, run_item

if TYPE_CHECKING:
    import torch

__all__ = ["settle_batches"]


def settle_batches(
    module: torch.nn.Module,
    items: Iterable[Item],
    *,
    layers: Mapping[LayerName, TorchLayer],
    infos: Mapping[LayerName, LayerInfo],
    estimator: Estimator,
    variance: Variance,
    call: Call | None,
    progress: ProgressCallback,
) -> tuple[dict[LayerName, Settlement], tuple[str, ...]]:
    """Measure every layer in one pass. Modified: the module, while it runs; nothing after.

    Returns:
        The settled layers in the order in which they were first reached, and the statistics of
        functional calls that are no layer of this run.

    Raises:
        LayerNotFiniteError: NaN or Inf arises inside the network.
        BatchShapeError: a batch leaves one value per channel and the variance needs two.
        EngineError: the module's forward failed.
    """
    tallies: dict[LayerName, Tally] = {}
    state = ThreadState.current()
    reading: list[int] = []

    def arrived(layer: TorchLayer, x: torch.Tensor) -> None:
        if not reading:
            return
        with parked(state.neutral()):
            moments = measure_tensor(x)
            check_finite(layer.name, moments, batch=reading[-1])
            if layer.name not in tallies:
                source = infos[layer.name].statistics
                tallies[layer.name] = Tally(layer.name, source, estimator, variance)
            tallies[layer.name].add(moments, batch=reading[-1])
            lent = RunningStatistics(mean=moments.mean, var=moments.var_population)
            write({layer.name: layer}, {layer.name: lent})

    with observed(module, tuple(layers.values()), arrived):
        calls = FunctionalCalls(module, layers.values(), arrived)
        state.without_grad().apply()
        for item in items:
            reading.append(item.index)
            with calls.watching():
                run_item(module, item, call)
            reading.clear()
            progress(Progress(phase="measuring", done=item.index + 1, total=None))
    settled = {name: settle_tally(infos[name], tally) for name, tally in tallies.items()}
    return settled, tuple(calls.strangers)
