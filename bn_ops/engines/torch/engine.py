"""The torch engine: an `nn.Module`, run and recalibrated in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils import _pytree as pytree

from bn_ops.core.batches import as_array
from bn_ops.core.engine import (
    JOINED_SAMPLES,
    EngineNotes,
    OnBatchMoments,
    OnLayerInput,
    OnOutputs,
    Positions,
    Residual,
    content_digest,
)
from bn_ops.core.layers import LayerInfo
from bn_ops.core.options import Budget, Execution, RecalibrateOptions, in_phase
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.diagnostics.autocorrelation import feature_step
from bn_ops.engines.torch.forward import ModuleForward
from bn_ops.engines.torch.frontier import TorchFrontier
from bn_ops.engines.torch.functional import find_functional, may_be_functional
from bn_ops.engines.torch.layers import TorchLayer, find_layers, layer_info
from bn_ops.engines.torch.network_start import TorchStart
from bn_ops.engines.torch.selected_layers import ModuleDigests, SelectedLayers, check_runnable
from bn_ops.engines.torch.train_pass import run_train_pass
from bn_ops.input_check.judging import check_start
from bn_ops.input_check.result import InputCheck
from bn_ops.torch_modules.arguments import (
    Call,
    Item,
    device_of,
    first_samples,
    named_arrays,
    read_items,
)
from bn_ops.torch_modules.samples import (
    SampleForm,
    as_bytes,
    join_samples,
    one_sample,
    pack_sample,
    sample_leaves,
    unpack_sample,
)

__all__ = ["TorchEngine", "describe_module", "open_engine"]


def describe_module(module: torch.nn.Module, *, adopt_untracked: bool = False) -> list[LayerInfo]:
    """List the BatchNorm layers of a module in the order of registration. Modified: no."""
    return [layer_info(layer) for layer in find_layers(module, adopt_untracked=adopt_untracked)]


def open_engine(
    module: torch.nn.Module, batches: Iterable[Any], options: RecalibrateOptions
) -> TorchEngine:
    """Open the engine on a module.

    Raises:
        ModelUnsupportedError: TorchScript, or a module without data (meta device).
        ModelWithoutBatchNormError: no layer can be recalibrated.
        OptionError: an option applies to ONNX models only, or the patterns match no layer.
    """
    options.require_default(
        ("threads",),
        reason="applies to an ONNX model; use torch.set_num_threads for an nn.Module",
    )
    check_runnable(module)
    return TorchEngine(module, batches, options)


class TorchEngine:
    """Implements `bn_ops.core.engine.Engine` for an `nn.Module`.

    Args:
        module: any module, on any device. Modified: only by `store`, and meanwhile while it runs;
            then everything is restored bit for bit.
        batches: the stream.
        options: the run's options.
    """

    name = "torch"

    def __init__(
        self, module: torch.nn.Module, batches: Iterable[Any], options: RecalibrateOptions
    ) -> None:
        self.model = module
        self._options = options
        self._call: Call | None = options.call
        self.adapter = _Items(module, self._call)
        items = read_items(module, batches, select=options.select, convert=self._call is None)
        functional, self.stream = self._find_functional(items)
        self._layers = SelectedLayers.find(
            module, options.layers, adopt_untracked=options.adopt_untracked, functional=functional
        )
        self.layers: Sequence[LayerInfo] = tuple(self._layers.infos.values())
        self.selected = frozenset(self._layers.selected)
        self._forward = ModuleForward(module, self._layers.found, self._call)
        self._residuals: Mapping[LayerName, Residual] = {}
        self._unmatched: Sequence[str] = ()

    def _find_functional(self, items: Iterator[Item]) -> tuple[list[TorchLayer], Iterator[Item]]:
        """Find functional layers with the first sample; also return the whole stream."""
        known = find_layers(self.model)
        first = next(items, None) if may_be_functional(self.model, known) else None
        if first is None:
            return [], items
        sample = self.adapter.head(first, 1)
        return find_functional(self.model, sample, self._call, known), chain([first], items)

    @contextmanager
    def digests(self) -> Iterator[ModuleDigests]:
        """See `bn_ops.core.engine.Engine.digests`."""
        yield ModuleDigests(self.model, self._layers.selected.values())

    @contextmanager
    def frontier(
        self,
        stream: Iterable[Item],
        *,
        phase: str | None = None,
        observed: Positions | None = None,
        start: int = 0,
        execution: Execution = "auto",
        known: Mapping[LayerName, RunningStatistics] | None = None,
    ) -> Iterator[TorchFrontier]:
        """See `bn_ops.core.engine.Engine.frontier`; no sample is observed, every layer measured."""
        del observed, execution, known
        with TorchFrontier(
            self.model,
            stream,
            layers=self._layers.selected.values(),
            call=self._call,
            progress=in_phase(self._options.progress, phase),
            budget=self._options.budget or _default_budget(self.model),
            shared_passes=self._options.shared_passes,
            shared_tolerance=self._options.shared_tolerance,
            start=start,
        ) as frontier:
            yield frontier
        self._residuals = frontier.residuals
        self._unmatched = frontier.unmatched_calls

    def train_pass(self, stream: Iterable[Item], on_moments: OnBatchMoments) -> None:
        """See `bn_ops.core.engine.Engine.train_pass`."""
        self._unmatched = run_train_pass(
            self.model,
            stream,
            layers=self._layers.selected,
            on_moments=on_moments,
            call=self._call,
            progress=self._options.progress,
        )

    def forward(
        self,
        batches: Iterable[Item],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """See `bn_ops.core.engine.Engine.forward`."""
        self._forward(batches, on_outputs=on_outputs, on_layer_input=on_layer_input)

    def store(self, statistics: Mapping[LayerName, RunningStatistics]) -> Callable[[], None]:
        """See `bn_ops.core.engine.Engine.store`."""
        return self._layers.store(statistics)

    def check_input(self, samples: Sequence[Item]) -> InputCheck:
        """See `bn_ops.input_check.engine.CheckedEngine.check_input`."""
        infos = {info.name: info.statistics for info in self.layers if info.reason is None}
        start = TorchStart(
            self.model,
            self._call,
            layers=[
                (layer, statistics)
                for layer in self._layers.found
                if (statistics := infos.get(layer.name)) is not None
            ],
        )
        return check_start(start, start.arrays(samples))

    def notes(self, updated: Iterable[LayerName]) -> EngineNotes:
        """Return layers in the order of execution, unreached ones last; residuals and warnings."""
        order = {name: rank for rank, name in enumerate(updated)}
        functional = {layer.form.mean for layer in self._layers.found if layer.functional}
        unmatched = [path for path in self._unmatched if path not in functional]
        return EngineNotes(
            layers=sorted(self.layers, key=lambda info: order.get(info.name, len(order))),
            residuals=self._residuals,
            warnings=(
                *_residual_warnings(self._residuals, self._options.shared_tolerance),
                *_unmatched_call_warnings(unmatched),
            ),
        )


class _Items:
    """Implements `bn_ops.core.engine.BatchAdapter` for items of a torch stream.

    With the caller's own `call`, a batch can only be kept whole, and its arguments have no names.
    """

    def __init__(self, module: torch.nn.Module, call: Call | None) -> None:
        self._module = module
        self._call = call

    def read(self, items: Iterable[Any]) -> Iterator[Item]:
        return read_items(self._module, items, select=None, convert=self._call is None)

    def samples(self, batch: Item) -> int:
        return batch.samples

    def head(self, batch: Item, samples: int) -> Item:
        return batch if self._call is not None else first_samples(batch, samples)

    def digests(self, batch: Item) -> list[bytes] | None:
        if self._call is not None:
            return None
        leaves = [as_bytes(leaf) for leaf in sample_leaves(batch)]
        return [content_digest(leaf[index] for leaf in leaves) for index in range(batch.samples)]

    def sample(self, batch: Item, index: int) -> Item:
        return one_sample(batch, index)

    def pack(self, batch: Item, index: int) -> tuple[SampleForm, NDArray[np.uint8]]:
        return pack_sample(batch, index)

    def unpack(self, form: SampleForm, data: NDArray[np.uint8]) -> Item:
        return unpack_sample(form, data)

    def join(self, samples: Sequence[Item]) -> list[Item]:
        return join_samples(samples, JOINED_SAMPLES)

    def features(self, batch: Item) -> Batch:
        leaves = [
            leaf
            for leaf in pytree.tree_leaves(batch.value)
            if hasattr(leaf, "shape") and tuple(leaf.shape[:1]) == (batch.samples,)
        ]
        return {str(number): _thinned(leaf) for number, leaf in enumerate(leaves)}

    def named(self, batches: Sequence[Item]) -> tuple[Batch, ...]:
        if self._call is not None:
            return ()
        return tuple(named_arrays(self._module, item) for item in batches)


def _thinned(leaf: Any) -> Any:
    """Select the values that features are computed from on the tensor's device, then copy them."""
    if not isinstance(leaf, torch.Tensor) or leaf.ndim == 1:
        return as_array(leaf)
    shape = leaf.shape[1:]
    values = np.arange(0, shape.numel(), feature_step(shape.numel()))
    # Indexed by coordinates: a reshape would copy the whole of a channels_last tensor.
    places = (torch.from_numpy(axis) for axis in np.unravel_index(values, shape))
    index: tuple[Any, ...] = (slice(None), *places)
    return as_array(leaf.detach()[index])


def _default_budget(module: torch.nn.Module) -> Budget | None:
    """Only CPU tensors can be spilled, so other devices have no limit by default."""
    device = device_of(module)
    return Budget() if device is None or device.type == "cpu" else None


def _unmatched_call_warnings(paths: Sequence[str]) -> list[str]:
    if not paths:
        return []
    return [
        (
            "torch.nn.functional.batch_norm was also called with statistics that belong to no "
            f"layer of this run, which are unchanged: {', '.join(paths)}; a call is a layer if "
            "the first batch reaches it and its statistics are registered buffers"
        )
    ]


def _residual_warnings(residuals: Mapping[LayerName, Residual], tolerance: float) -> list[str]:
    moving = [name for name, r in residuals.items() if max(r.mean, r.var) > tolerance]
    if not moving:
        return []
    return [
        (
            "layers that are called several times per forward still move by more than "
            f"{tolerance:g}: {', '.join(map(repr, moving))}; raise shared_passes, or leave them out"
        )
    ]
