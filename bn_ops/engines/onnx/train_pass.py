"""method="batch" for ONNX: each batch is normalised by its own moments, as in training.

onnxruntime has no train-mode BatchNormalization on the CPU. It is not needed: a layer that is lent
a batch's own mean and population variance computes the same. So the graph is cut as for the exact
method, with the statistics as inputs of the segments, and each batch runs through all of them
before the next comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_ops.core.estimators import Estimator
from bn_ops.core.frontier import Settlement, check_finite
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments, measure
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName
from bn_ops.core.train_accumulator import Tally, Variance, settle_tally
from bn_ops.engines.onnx.batchnorm import statistics_tensors
from bn_ops.engines.onnx.graph import GraphIndex, index_graph
from bn_ops.engines.onnx.plan import Segment, make_plan
from bn_ops.engines.onnx.prepare import PreparedModel, StatisticsWriter
from bn_ops.engines.onnx.segment_model import cut_segment
from bn_ops.onnx_files.session import Session, session
from bn_ops.progress import Progress, ProgressCallback

__all__ = ["settle_batches"]

_Tensors = Mapping[str, NDArray[np.generic]]


def settle_batches(
    prepared: PreparedModel,
    batches: Iterable[Batch],
    *,
    layers: Mapping[LayerName, LayerInfo],
    estimator: Estimator,
    variance: Variance,
    progress: ProgressCallback,
    threads: int | None = None,
) -> dict[LayerName, Settlement]:
    """Measure the given layers in one train-mode pass and write their statistics.

    Modified: the prepared model, at the end.

    Returns:
        The settled layers in the order of their levels.

    Raises:
        LayerNotFiniteError: NaN or Inf arises inside the network.
        BatchShapeError: a batch leaves one value per channel and the variance needs two.
    """
    run = _TrainPass(prepared, frozenset(layers), threads)
    tallies: dict[LayerName, Tally] = {}
    for number, batch in enumerate(batches):
        for name, moments in run(number, batch).items():
            if name not in tallies:
                tallies[name] = Tally(name, layers[name].statistics, estimator, variance)
            tallies[name].add(moments, batch=number)
        progress(Progress(phase="measuring", done=number + 1, total=None))
    settled = {name: settle_tally(layers[name], tally) for name, tally in tallies.items()}
    StatisticsWriter(prepared).write({name: s.statistics for name, s in settled.items()})
    return settled


class _TrainPass:
    """Runs one batch through every segment, lending each layer the batch's own statistics."""

    def __init__(
        self, prepared: PreparedModel, layers: frozenset[LayerName], threads: int | None
    ) -> None:
        self._model = prepared.model
        index = index_graph(prepared.model.graph)
        self._plan = make_plan(index, layers)
        own = statistics_tensors(prepared.model.graph)
        self._slots = {name: own[name] for name in layers}
        lent = {tensor for slots in self._slots.values() for tensor in slots}
        self._index = _without(index, lent)
        self._segments = [self._with_lent(segment, index) for segment in self._plan.segments]
        self._sessions: dict[int, Session] = {}
        self._dtypes = {
            name: onnx.helper.tensor_dtype_to_np_dtype(index.initializers[name].data_type)
            for name in lent
        }
        self._threads = threads

    def __call__(self, number: int, batch: Batch) -> dict[LayerName, Moments]:
        held: dict[str, NDArray[np.generic]] = dict(batch)
        found: dict[LayerName, Moments] = {}
        for level, segment in enumerate(self._segments):
            held |= self._run(level, segment, held)
            measured: dict[str, Moments] = {}
            for layer, tensor in segment.measured.items():
                if tensor not in measured:
                    measured[tensor] = measure(held[tensor])
                    check_finite(layer, measured[tensor], batch=number)
                found[layer] = measured[tensor]
                held |= self._lend(layer, measured[tensor])
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

    def _lend(self, layer: LayerName, moments: Moments) -> _Tensors:
        mean, var = self._slots[layer]
        return {
            mean: moments.mean.astype(self._dtypes[mean]),
            var: moments.var_population.astype(self._dtypes[var]),
        }

    def _with_lent(self, segment: Segment, index: GraphIndex) -> Segment:
        nodes = [index.graph.node[position] for position in segment.nodes]
        names = [slot for node in nodes for slot in self._slots.get(node.name, ())]
        return replace(segment, inputs=(*segment.inputs, *sorted(names)))


def _without(index: GraphIndex, names: set[str]) -> GraphIndex:
    kept = {name: tensor for name, tensor in index.initializers.items() if name not in names}
    return replace(index, initializers=kept)
