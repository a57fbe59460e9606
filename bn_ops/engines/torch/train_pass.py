"""method="batch" for torch: one pass in which each batch is normalized by its own moments.

This is what other tools do; it serves comparison and exact agreement with them. Dropout stays off,
every module except BatchNorm is in eval mode, and no module updates itself: the input of a layer is
measured, its moments are written into the layer's buffers for that one call, and the buffers are
restored afterwards. A layer that is called several times counts each call as a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from bn_ops.core.engine import OnBatchMoments
from bn_ops.core.frontier import check_finite
from bn_ops.core.options import Progress, ProgressCallback
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.torch.functional import FunctionalCalls
from bn_ops.engines.torch.layers import TorchLayer, write
from bn_ops.engines.torch.moments import measure_tensor
from bn_ops.engines.torch.observation import observed
from bn_ops.engines.torch.thread_state import ThreadState, parked
from bn_ops.torch_modules.arguments import Call, Item, run_item

if TYPE_CHECKING:
    import torch

__all__ = ["run_train_pass"]


def run_train_pass(
    module: torch.nn.Module,
    items: Iterable[Item],
    *,
    layers: Mapping[LayerName, TorchLayer],
    on_moments: OnBatchMoments,
    call: Call | None,
    progress: ProgressCallback,
) -> tuple[str, ...]:
    """Measure every layer in one pass. Modified: the module, only during the pass.

    Returns:
        The statistics of functional calls that are not layers of this run.

    Raises:
        LayerNotFiniteError: NaN or Inf arises inside the network.
        EngineError: the module's forward failed.
    """
    state = ThreadState.current()
    running: list[int] = []

    def on_input(layer: TorchLayer, x: torch.Tensor) -> None:
        if not running:
            return
        with parked(state.neutral()):
            moments = measure_tensor(x)
            check_finite(layer.name, moments, batch=running[-1])
            on_moments(layer.name, moments, running[-1])
            fed = RunningStatistics(mean=moments.mean, var=moments.var_population)
            write({layer.name: layer}, {layer.name: fed})

    with observed(module, tuple(layers.values()), on_input):
        calls = FunctionalCalls(module, layers.values(), on_input)
        state.without_grad().apply()
        for item in items:
            running.append(item.index)
            with calls.watching():
                run_item(module, item, call)
            running.clear()
            progress(Progress(phase="measuring", done=item.index + 1, total=None))
    return tuple(calls.unmatched_calls)
