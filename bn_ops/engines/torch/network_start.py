"""The start of an `nn.Module`: forwards that end at the first BatchNorm layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch

from bn_ops.core.batches import Select, as_array
from bn_ops.core.statistics import RunningStatistics
from bn_ops.engines.torch.functional import FunctionalCalls, find_functional, may_be_functional
from bn_ops.engines.torch.layers import TorchLayer, find_layers
from bn_ops.engines.torch.moments import positions_of, reduce_tensor
from bn_ops.engines.torch.observation import observed
from bn_ops.engines.torch.thread_state import ThreadState, parked
from bn_ops.errors import BnOpsError, EngineError, ModelWithoutBatchNormError
from bn_ops.input_check.network_start import Arrays
from bn_ops.input_check.sample_moments import SampleMoments, concatenate
from bn_ops.torch_modules.arguments import (
    Call,
    Item,
    as_arguments,
    first_samples,
    read_items,
    run_item,
    to_tensors,
)

__all__ = ["TorchStart"]

# A single tensor argument has this name in the arrays that the checks see.
_ONLY = "input"


class _ReachedLayerError(BnOpsError):
    """Ends a forward at the first layer; never leaves this module."""


class TorchStart:
    """Implements `bn_ops.input_check.network_start.NetworkStart` for a module in eval mode.

    The first layer is the one that the first batch reaches first. Each forward ends there.

    Args:
        module: the module. Modified: only during a call, and restored bit for bit.
        call: the caller's own way to run a batch.
        layers: the layers with their source statistics; None to find them with the first batch.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        call: Call | None = None,
        *,
        layers: Sequence[tuple[TorchLayer, RunningStatistics]] | None = None,
    ) -> None:
        self._module = module
        self._call = call
        self._items: dict[int, Item] = {}
        self._layers = layers
        self._first: TorchLayer | None = None

    def batches(
        self, items: Iterable[Any], *, select: Select | None, samples: int
    ) -> tuple[Arrays, ...]:
        """Return the first samples of a stream, at most `samples`.

        A batch is one array where the module takes one tensor; other calls have no arrays, and only
        their moments can be compared.

        Raises:
            BatchError: a batch does not fit the module.
        """
        found: list[Item] = []
        for read in read_items(self._module, items, select=select, convert=self._call is None):
            item = read if self._call is not None else first_samples(read, samples)
            found.append(item)
            samples -= item.samples
            if samples <= 0:
                break
        return self.arrays(found)

    def arrays(self, items: Iterable[Item]) -> tuple[Arrays, ...]:
        """Return the arrays of batches that have been read; `measure` finds their items again."""
        found = [(self._arrays(item), item) for item in items]
        # Looked up by identity: a call may take what has no arrays.
        self._items = {id(arrays): item for arrays, item in found}
        return tuple(arrays for arrays, _ in found)

    def measure(self, batches: Sequence[Arrays]) -> SampleMoments:
        """Return the moments of each sample at the first BatchNorm layer.

        Raises:
            EngineError: the forward failed, or reached no layer.
            ModelWithoutBatchNormError: no layer has running statistics.
        """
        items = [self._item(batch) for batch in batches]
        layers = self._known_layers(items[0])
        found: list[SampleMoments] = []
        state = ThreadState.current()

        def on_input(layer: TorchLayer, x: torch.Tensor) -> None:
            if self._first is not None and layer is not self._first:
                return
            self._first = layer
            source = next(statistics for known, statistics in layers if known is layer)
            with parked(state.neutral()):
                mean, sq_dev = reduce_tensor(x)
            found.append(
                SampleMoments(
                    layers=(layer.name,), source=source, mean=mean, var=sq_dev / positions_of(x)
                )
            )
            raise _ReachedLayerError(layer.name)

        watched = [layer for layer, _ in layers]
        with observed(self._module, watched, on_input):
            calls = FunctionalCalls(self._module, watched, on_input)
            for item in items:
                state.without_grad().apply()
                with suppress(_ReachedLayerError), calls.watching():
                    run_item(self._module, item, self._call)
        if len(found) != len(items):
            raise EngineError("the forward reaches no BatchNorm layer")
        return concatenate(found)

    def _arrays(self, item: Item) -> Arrays:
        if self._call is not None:
            return {}
        args, kwargs = as_arguments(self._module, item.value)
        if kwargs or len(args) != 1 or not isinstance(args[0], torch.Tensor):
            return {}
        return {_ONLY: as_array(args[0])}

    def _item(self, batch: Arrays) -> Item:
        known = self._items.get(id(batch))
        if known is not None:
            return known
        tensor = to_tensors(self._module, np.ascontiguousarray(batch[_ONLY]))
        dtype = next((p.dtype for p in self._module.parameters() if p.is_floating_point()), None)
        value = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        return Item(index=0, value=value, samples=int(value.shape[0]))

    def _known_layers(self, item: Item) -> Sequence[tuple[TorchLayer, RunningStatistics]]:
        if self._layers is None:
            modules = find_layers(self._module)
            functional: Sequence[TorchLayer] = ()
            if may_be_functional(self._module, modules):
                functional = find_functional(self._module, item, self._call, modules)
            self._layers = [
                (layer, statistics)
                for layer in (*modules, *functional)
                if layer.reason is None and (statistics := layer.read()) is not None
            ]
        if not self._layers:
            raise ModelWithoutBatchNormError("no BatchNorm layer of the module is tracked")
        return self._layers
