"""method="batch" for ONNX: one pass in which each batch is normalized by its own moments.

onnxruntime has no train-mode BatchNormalization on the CPU, and none is needed: a layer that is fed
the batch's own mean and population variance computes the same. So the graph is cut into segments as
for the exact method, the statistics become inputs of the segments, and each batch runs through all
segments before the next one starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_ops.core.engine import OnBatchMoments
from bn_ops.core.frontier import check_finite
from bn_ops.core.moments import Moments, measure
from bn_ops.core.options import Progress, ProgressCallback
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.batchnorm import statistics_tensors
from bn_ops.engines.onnx.graph import GraphIndex, index_graph
from bn_ops.engines.onnx.plan import Segment, make_plan
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.engines.onnx.segment_model import cut_segment
from bn_ops.onnx_files.session import Session, session

__all__ = ["run_train_pass"]

_Tensors = Mapping[str, NDArray[np.generic]]


def run_train_pass(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    *,
    layers: frozenset[LayerName],
    on_moments: OnBatchMoments,
    progress: ProgressCallback,
    threads: int | None = None,
) -> None:
    """Measure the given layers in one train-mode pass.

    Args:
        prepared: the model. Modified: no.
        batches: the stream.
        layers: the layers to measure; all others keep their statistics.
        on_moments: receives the moments of each layer and batch, layers in the order of levels.
        progress: called after each batch.
        threads: threads within an operator; None for every core.

    Raises:
        LayerNotFiniteError: NaN or Inf arises inside the network.
    """
    run = _TrainPass(prepared, layers, threads)
    for index, batch in enumerate(batches):
        for name, moments in run(index, batch).items():
            on_moments(name, moments, index)
        progress(Progress(phase="measuring", done=index + 1, total=None))


class _TrainPass:
    """Runs one batch through every segment, feeding each layer the batch's own statistics."""

    def __init__(
        self, prepared: PreparedModel, layers: frozenset[LayerName], threads: int | None
    ) -> None:
        self._model = prepared.model
        index = index_graph(prepared.model.graph)
        self._plan = make_plan(index, layers)
        own = statistics_tensors(prepared.model.graph)
        self._slots = {name: own[name] for name in layers}
        fed = {tensor for slots in self._slots.values() for tensor in slots}
        self._index = _without(index, fed)
        self._segments = [self._with_fed(segment, index) for segment in self._plan.segments]
        self._sessions: dict[int, Session] = {}
        self._dtypes = {
            name: onnx.helper.tensor_dtype_to_np_dtype(index.initializers[name].data_type)
            for name in fed
        }
        self._threads = threads

    def __call__(self, index: int, batch: Batch) -> dict[LayerName, Moments]:
        held: dict[str, NDArray[np.generic]] = dict(batch)
        found: dict[LayerName, Moments] = {}
        for level, segment in enumerate(self._segments):
            held |= self._run(level, segment, held)
            measured: dict[str, Moments] = {}
            for layer, tensor in segment.measured.items():
                if tensor not in measured:
                    measured[tensor] = measure(held[tensor])
                    check_finite(layer, measured[tensor], batch=index)
                found[layer] = measured[tensor]
                held |= self._feed(layer, measured[tensor])
            for name in segment.released:
                held.pop(name, None)
        return found

    def _run(self, level: int, segment: Segment, held: _Tensors) -> _Tensors:
        if not segment.outputs:
            return {}
        feeds = {name: held[name] for name in segment.inputs}
        if level not in self._sessions:
            cut = cut_segment(self._model, self._index, segment, feeds)
            self._sessions[level] = session(cut, threads=self._threads)
        made = self._sessions[level].run(segment.outputs, feeds)
        return dict(zip(segment.outputs, made, strict=True))

    def _feed(self, layer: LayerName, moments: Moments) -> _Tensors:
        mean, var = self._slots[layer]
        return {
            mean: moments.mean.astype(self._dtypes[mean]),
            var: moments.var_population.astype(self._dtypes[var]),
        }

    def _with_fed(self, segment: Segment, index: GraphIndex) -> Segment:
        nodes = [index.graph.node[position] for position in segment.nodes]
        names = [slot for node in nodes for slot in self._slots.get(node.name, ())]
        return replace(segment, inputs=(*segment.inputs, *sorted(names)))


def _without(index: GraphIndex, names: set[str]) -> GraphIndex:
    kept = {name: tensor for name, tensor in index.initializers.items() if name not in names}
    return replace(index, initializers=kept)
