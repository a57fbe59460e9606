"""Run segments of the unchanged graph, one batch at a time.

It accepts every graph. Nothing is assumed about what an operator does with the first axis, so
batches run unchanged, in stream order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.moment_tree import MomentTree
from bn_ops.core.moments import measure
from bn_ops.core.options import Progress
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.accumulator import MomentAccumulator
from bn_ops.engines.onnx.graph import index_graph
from bn_ops.engines.onnx.plan import Segment, make_plan
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.engines.onnx.rebatch import fixed_batch_size, rebatch
from bn_ops.engines.onnx.segment_model import cut_segment
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.engines.onnx.tensor_store import TensorStore
from bn_ops.errors import EngineError, ModelUnsupportedError
from bn_ops.onnx_files.session import Session, session

__all__ = ["GraphExecutor"]

_Tensors = Mapping[str, NDArray[np.generic]]


class GraphExecutor:
    """Runs a prepared model segment by segment; committed statistics are read from the model.

    Args:
        prepared: the model.
        batches: the stream.
        layers: the layers to measure.
        store: holds waiting tensors.
        progress: called after each batch.
        threads: threads within an operator; None for every core.
        start: position of the first sample in the stream of which this one is a part.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        batches: Iterable[Batch],
        *,
        layers: Iterable[LayerName],
        store: TensorStore,
        progress: Callable[[Progress], None],
        threads: int | None,
        start: int = 0,
    ) -> None:
        self._prepared = prepared
        self._batches = batches
        self._plan = make_plan(index_graph(prepared.model.graph), layers, split=True)
        self._accumulator = MomentAccumulator(self._plan)
        self._store = store
        self._progress = progress
        self._threads = threads
        self._level = 0
        self._size = fixed_batch_size(model_inputs(prepared.model))
        self._real: list[int | None] = []
        self._positions: list[int] = []
        self._end = start

    def advance(self) -> Mapping[LayerName, MomentTree]:
        """Run every batch through the next segment; return the moments of its layers."""
        if self._level == len(self._plan.segments):
            return {}
        segment = self._plan.segments[self._level]
        run = _SegmentRun(self._prepared, segment, self._threads)
        for batch, tensors in self._arriving(segment):
            made = run(tensors)
            self._measure(batch, segment, {**tensors, **made})
            self._keep(batch, segment, tensors, made)
            self._report(batch)
        self._level += 1
        return self._accumulator.layers(segment)

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Do nothing: segments are cut from the prepared model, which holds the statistics."""

    def replay(self) -> None:
        """Return None: no sample is observed."""
        return

    def close(self) -> None:
        """Do nothing."""

    def _arriving(self, segment: Segment) -> Iterable[tuple[int, _Tensors]]:
        """Yield each batch's inputs of a segment, from the stream or from the store."""
        if self._level == 0:
            for batch, group in enumerate(rebatch(self._batches, self._size)):
                self._real.append(group.samples if group.padded else None)
                self._positions.append(self._end)
                self._end += group.samples
                yield batch, group.arrays
            return
        for batch in range(len(self._real)):
            yield batch, {name: self._store.get(batch, name) for name in segment.inputs}

    def _measure(self, batch: int, segment: Segment, tensors: _Tensors) -> None:
        for tensor in segment.reduced:
            found = measure(self._without_padding(batch, tensor, tensors[tensor]))
            # After rebatching, indices are not those of the caller's batches.
            number = batch if self._size is None else None
            self._accumulator.add(tensor, self._positions[batch], found, batch=number)

    def _without_padding(
        self, batch: int, name: str, tensor: NDArray[np.generic]
    ) -> NDArray[np.generic]:
        real = self._real[batch]
        if real is None:
            return tensor
        if tensor.shape[0] != self._size:
            raise ModelUnsupportedError(
                f"the model takes exactly {self._size} samples at a time, and the input of layer "
                f"{self._accumulator.owner(name)!r} does not have one row per sample, so padding "
                f"cannot be separated from the last {real} samples: send a multiple of "
                f"{self._size} samples"
            )
        return tensor[:real]

    def _keep(self, batch: int, segment: Segment, tensors: _Tensors, made: _Tensors) -> None:
        if self._level == 0:
            for name in tensors.keys() & self._plan.stored - segment.released:
                # A copy: the stream may reuse the array for its next batch.
                self._store.put(batch, name, tensors[name].copy())
        else:
            for name in segment.released:
                self._store.drop(batch, name)
        for name, array in made.items():
            if name in self._plan.stored:
                self._store.put(batch, name, array)

    def _report(self, batch: int) -> None:
        if self._level == 0:
            self._progress(Progress(phase="reading", done=batch + 1, total=None))
        else:
            total = len(self._real) * (len(self._plan.segments) - 1)
            done = len(self._real) * (self._level - 1) + batch + 1
            self._progress(Progress(phase="measuring", done=done, total=total))


class _SegmentRun:
    """Runs one segment; opens its session at the first batch, which determines element types."""

    def __init__(self, prepared: PreparedModel, segment: Segment, threads: int | None) -> None:
        self._prepared = prepared
        self._segment = segment
        self._threads = threads
        self._session: Session | None = None

    def __call__(self, tensors: _Tensors) -> _Tensors:
        outputs = self._segment.outputs
        if not outputs:
            return {}
        feeds = {name: tensors[name] for name in self._segment.inputs}
        if self._session is None:
            self._session = self._open(feeds)
        made = self._session.run(outputs, feeds)
        for name, array in zip(outputs, made, strict=True):
            if not isinstance(array, np.ndarray):
                raise EngineError(
                    f"{name!r} is not a tensor; sequences cannot wait at the frontier"
                )
        return dict(zip(outputs, made, strict=True))

    def _open(self, feeds: _Tensors) -> Session:
        model = self._prepared.model
        cut = cut_segment(model, index_graph(model.graph), self._segment, feeds)
        return session(cut, threads=self._threads)
