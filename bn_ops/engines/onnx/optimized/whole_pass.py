"""Run the optimized graph uncut, and observe the inputs of its layers.

A session of the given model that also outputs the inputs of its layers converts each of them from
onnxruntime's blocked layout and writes it to fresh memory. The optimized graph is one whose layers'
inputs can be read as they are, into memory that is used again for the next sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moments import Moments, from_samples, join
from bn_ops.core.reduction import thread_count
from bn_ops.engines.onnx.optimized.executor import Scratch
from bn_ops.engines.onnx.optimized.model import Kind, OptimizedModel
from bn_ops.engines.onnx.rebatch import singles
from bn_ops.errors import EngineError
from bn_ops.onnx_files.shared_arena import free_arena

if TYPE_CHECKING:
    from bn_ops.core.signature import Batch
    from bn_ops.core.statistics import Float64Array, LayerName, RunningStatistics
    from bn_ops.engines.onnx.optimized.segment_runner import SegmentRunner

__all__ = ["WholePass"]

_Arrays = Mapping[str, NDArray[np.generic]]
_Shapes = tuple[tuple[int, ...], ...]
_Reduced = Mapping[str, tuple["Float64Array", "Float64Array", int]]
"""Tensor → mean and squared deviations, each (1, C), and the number of positions."""


class WholePass:
    """Runs samples one by one, spread over the threads; `close` it after the last run.

    Args:
        model: the optimized model, with the network's outputs planned. Modified: the statistics.
        statistics: the statistics to run with, of every layer of the model.
        threads: number of threads; None for every core.
    """

    def __init__(
        self,
        model: OptimizedModel,
        statistics: Mapping[LayerName, RunningStatistics],
        *,
        threads: int | None,
    ) -> None:
        self._model = model
        # Kept from one batch to the next, because each thread has memory of its own.
        self._workers = ThreadPoolExecutor(thread_count(threads), "forward")
        self._scratch = Scratch()
        self._runner: SegmentRunner | None = None
        self._kinds: dict[_Shapes, Mapping[str, Kind]] = {}
        self._measured = frozenset(name for parts in model.parts.values() for name in parts)
        model.commit(statistics)

    def close(self) -> None:
        """Stop the threads, and return their memory to the system."""
        self._workers.shutdown()
        free_arena()

    def run(self, batch: Batch, *, observe: bool) -> tuple[_Arrays, Mapping[LayerName, Moments]]:
        """Return the outputs of a batch, and the moments of the inputs of its layers.

        Args:
            batch: the inputs.
            observe: whether the inputs of layers are wanted; without, there are no moments.

        Raises:
            EngineError: onnxruntime failed, or an output does not have one row per sample.
        """
        # Bound by address, so contiguous.
        parts = singles({name: np.ascontiguousarray(array) for name, array in batch.items()})
        if self._runner is None:
            self._runner = self._model.whole(parts[0])
            self._runner.bind()
        runner = self._runner
        measured = self._measured if observe else frozenset[str]()
        shapes = tuple(array.shape for _, array in sorted(parts[0].items()))
        found = []
        if shapes not in self._kinds:
            made = self._try_out(runner, shapes, parts[0])
            found.append(self._seen(parts.pop(0), made, measured))
        wanted = measured | set(self._model.outputs)
        kinds = {name: kind for name, kind in self._kinds[shapes].items() if name in wanted}
        found += self._workers.map(partial(self._run, runner, kinds, measured), parts)
        outputs = {name: np.concatenate([made[name] for made, _ in found]) for name in found[0][0]}
        return outputs, self._moments([reduced for _, reduced in found]) if observe else {}

    def _try_out(self, runner: SegmentRunner, shapes: _Shapes, single: Batch) -> _Arrays:
        """Run a sample of new shapes, which shows the shapes of all outputs."""
        made = runner.try_out({name: single[name] for name in runner.segment.inputs})
        if any(array.shape[:1] != (1,) for array in made.values()):
            raise EngineError("an output has no row per sample")
        self._kinds[shapes] = {
            name: Kind(shape=array.shape[1:], dtype=array.dtype) for name, array in made.items()
        }
        return made

    def _run(
        self,
        runner: SegmentRunner,
        kinds: Mapping[str, Kind],
        measured: frozenset[str],
        single: Batch,
    ) -> tuple[_Arrays, _Reduced]:
        made = self._scratch.arrays(kinds, 1)
        runner.run({name: single[name] for name in runner.segment.inputs}, made)
        return self._seen(single, made, measured)

    def _seen(
        self, single: Batch, made: _Arrays, measured: frozenset[str]
    ) -> tuple[_Arrays, _Reduced]:
        """Return the outputs of a sample, and the measured tensors reduced."""
        tensors = {**single, **made}
        reduced = {name: self._reduce(name, tensors[name]) for name in measured}
        return {name: tensors[name].copy() for name in self._model.outputs}, reduced

    def _reduce(
        self, name: str, tensor: NDArray[np.generic]
    ) -> tuple[Float64Array, Float64Array, int]:
        return (*self._model.reduce(name, tensor), math.prod(tensor.shape[2:]))

    def _moments(self, samples: Sequence[_Reduced]) -> dict[LayerName, Moments]:
        """Pool the moments of a batch's samples, by layer."""
        pooled: dict[str, Moments] = {}
        with np.errstate(over="ignore", invalid="ignore"):
            for name, (_, _, positions) in samples[0].items():
                mean, sq_dev = (np.concatenate([one[name][i] for one in samples]) for i in (0, 1))
                pooled[name] = from_samples(mean, sq_dev, positions)
        return {
            layer: join([pooled[name] for name in parts])
            for layer, parts in self._model.parts.items()
        }
