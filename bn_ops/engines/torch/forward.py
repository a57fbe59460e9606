"""Run a module and observe its outputs and the inputs of its layers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from bn_ops.core.engine import OnLayerInput, OnOutputs
from bn_ops.engines.torch.functional import FunctionalCalls
from bn_ops.engines.torch.layers import TorchLayer
from bn_ops.engines.torch.moments import measure_tensor
from bn_ops.engines.torch.observation import observed
from bn_ops.engines.torch.thread_state import ThreadState, parked
from bn_ops.torch_modules.arguments import Call, Item, key_name, run_item, unique_names

__all__ = ["ModuleForward"]


class ModuleForward:
    """Implements `bn_ops.diagnostics.forward_pass.ForwardRunner` for a module in eval mode.

    Args:
        module: the module, with the statistics to run with. Modified: only during the run.
        layers: the layers to observe; layers without running statistics are skipped.
        call: the caller's function to run a batch; its return value is taken as the output.
    """

    def __init__(
        self, module: torch.nn.Module, layers: Iterable[TorchLayer], call: Call | None
    ) -> None:
        self._module = module
        self._layers = tuple(layers)
        self._call = call

    def __call__(
        self,
        batches: Iterable[Item],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """Run each batch; see `bn_ops.diagnostics.forward_pass.ForwardRunner`.

        Raises:
            EngineError: the module's forward failed.
        """
        state = ThreadState.current()
        running: list[Item] = []
        # Evaluated for each run: `store` may have given a layer statistics since the last one.
        layers = [layer for layer in self._layers if layer.reason is None and layer.tracked]
        watched = layers if on_layer_input else []

        def on_input(layer: TorchLayer, x: torch.Tensor) -> None:
            if on_layer_input is not None and running:
                with parked(state.neutral()):
                    on_layer_input(layer.name, measure_tensor(x))

        with observed(self._module, watched, on_input):
            calls = FunctionalCalls(self._module, watched, on_input)
            state.without_grad().apply()
            for item in batches:
                running.append(item)
                with calls.watching():
                    output = run_item(self._module, item, self._call)
                running.clear()
                on_outputs(_named(output))


def _named(output: object) -> dict[str, NDArray[np.generic]]:
    """Name the tensors of an output as `bn_ops.export` names them; 16-bit floats are widened."""
    leaves = [
        (("output", *(key_name(key) for key in path)), leaf)
        for path, leaf in pytree.tree_flatten_with_path(output)[0]
        if isinstance(leaf, torch.Tensor)
    ]
    names = unique_names([path for path, _ in leaves])
    return {name: _array(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}


def _array(tensor: torch.Tensor) -> NDArray[np.generic]:
    tensor = tensor.detach().cpu()
    narrow = tensor.is_floating_point() and tensor.dtype != torch.float64
    return np.asarray((tensor.float() if narrow else tensor).numpy())
