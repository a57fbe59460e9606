"""Run the optimized graph uncut, with the inputs of all layers observed.

A session of the given model that also outputs the inputs of its layers converts each of them from
onnxruntime's blocked layout and writes it to fresh memory. The optimized graph is one whose layers'
inputs can be read as they are, into memory that is used again for the next sample.
"""

from __future__ import annotations

from collections.abc import Mapping
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

if TYPE_CHECKING:
    from bn_ops.core.signature import Batch
    from bn_ops.core.statistics import LayerName, RunningStatistics
    from bn_ops.engines.onnx.optimized.segment_runner import SegmentRunner

__all__ = ["WholePass"]

_Arrays = Mapping[str, NDArray[np.generic]]
_Shapes = tuple[tuple[int, ...], ...]
_Seen = tuple[Mapping[str, NDArray[np.generic]], Mapping["LayerName", Moments]]


class WholePass:
    """Runs samples one by one, spread over the threads.

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
        self._threads = thread_count(threads)
        self._scratch = Scratch()
        self._runner: SegmentRunner | None = None
        self._kinds: dict[_Shapes, Mapping[str, Kind]] = {}
        model.commit(statistics)

    def run(self, batch: Batch) -> list[_Seen]:
        """Return each sample's outputs, and the moments of the inputs of its layers.

        Raises:
            EngineError: onnxruntime failed, or an output does not have one row per sample.
        """
        # Bound by address, so contiguous.
        parts = singles({name: np.ascontiguousarray(array) for name, array in batch.items()})
        if self._runner is None:
            self._runner = self._model.whole(parts[0])
            self._runner.bind()
        runner = self._runner
        shapes = tuple(array.shape for _, array in sorted(parts[0].items()))
        found = [] if shapes in self._kinds else [self._try_out(runner, shapes, parts.pop(0))]
        with ThreadPoolExecutor(self._threads, "forward") as pool:
            return [*found, *pool.map(partial(self._run, runner, shapes), parts)]

    def _try_out(self, runner: SegmentRunner, shapes: _Shapes, single: Batch) -> _Seen:
        """Run a sample of new shapes, which shows the shapes of all outputs."""
        made = runner.try_out({name: single[name] for name in runner.segment.inputs})
        if any(array.shape[:1] != (1,) for array in made.values()):
            raise EngineError("an output has no row per sample")
        self._kinds[shapes] = {
            name: Kind(shape=array.shape[1:], dtype=array.dtype) for name, array in made.items()
        }
        return self._seen(single, made)

    def _run(self, runner: SegmentRunner, shapes: _Shapes, single: Batch) -> _Seen:
        outputs = self._scratch.arrays(self._kinds[shapes], 1)
        runner.run({name: single[name] for name in runner.segment.inputs}, outputs)
        return self._seen(single, outputs)

    def _seen(self, single: Batch, made: _Arrays) -> _Seen:
        found = {**single, **made}
        moments: dict[str, Moments] = {}
        layers: dict[LayerName, Moments] = {}
        for layer, parts in self._model.parts.items():
            for name in parts:
                if name not in moments:
                    moments[name] = self._measure(name, found[name])
            layers[layer] = join([moments[name] for name in parts])
        return {name: found[name].copy() for name in self._model.outputs}, layers

    def _measure(self, name: str, tensor: NDArray[np.generic]) -> Moments:
        mean, sq_dev = self._model.reduce(name, tensor)
        with np.errstate(over="ignore", invalid="ignore"):
            return from_samples(mean, sq_dev, int(np.prod(tensor.shape[2:], dtype=np.int64)))
