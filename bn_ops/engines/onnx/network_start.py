"""The segment of an ONNX model before its first BatchNorm layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bn_ops.core.batches import Select, named_batches
from bn_ops.core.layers import LayerInfo
from bn_ops.core.signature import Batch, TensorInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.graph import index_graph
from bn_ops.engines.onnx.plan import Segment, make_plan
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.engines.onnx.rebatch import PaddedBatch, fixed_batch_size, rebatch
from bn_ops.engines.onnx.segment_model import cut_segment
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import EngineError
from bn_ops.input_check.network_start import Arrays
from bn_ops.input_check.sample_moments import SampleMoments, concatenate, measure_samples
from bn_ops.onnx_files.session import Session, session

__all__ = ["OnnxStart"]

# Samples per run: the first convolution's output of four photographs takes 6 MB in MobileNetV2, in
# memory that the next run uses again.
_RUN_SAMPLES = 4


class OnnxStart:
    """Implements `bn_ops.input_check.network_start.NetworkStart` for a prepared ONNX model.

    Args:
        prepared: the model, with at least one layer that can be recalibrated.
        threads: threads within an operator; None means every core.
    """

    def __init__(self, prepared: PreparedModel, *, threads: int | None = None) -> None:
        self._model = prepared.model
        self._index = index_graph(prepared.model.graph)
        self._inputs = model_inputs(prepared.model)
        self._size = fixed_batch_size(self._inputs)
        self._threads = threads
        plan = make_plan(self._index, prepared.eligible)
        self._measured = dict(plan.segments[0].measured)
        self._segment = _only_measured(plan.segments[0])
        self._source = _joined(prepared.eligible, self._measured)
        self._session: Session | None = None

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """The model's inputs."""
        return self._inputs

    def batches(
        self, items: Iterable[Any], *, select: Select | None, samples: int
    ) -> tuple[Arrays, ...]:
        """Return the first samples of a stream, at most `samples`, in batches as they come.

        Raises:
            BatchError: a batch does not fit the model.
        """
        found: list[Batch] = []
        for batch in named_batches(items, self._inputs, select=select):
            count = next(iter(batch.values())).shape[0]
            found.append({name: array[:samples] for name, array in batch.items()})
            samples -= count
            if samples <= 0:
                break
        return tuple(found)

    def measure(self, batches: Sequence[Arrays]) -> SampleMoments:
        """Return the moments of each sample at the first BatchNorm layers.

        Raises:
            EngineError: onnxruntime refused or failed.
        """
        return concatenate([self._measure(group) for group in self._groups(batches)])

    def _groups(self, batches: Sequence[Arrays]) -> Iterator[PaddedBatch]:
        parts = (part for batch in batches for part in _pieces(batch, _RUN_SAMPLES))
        return rebatch(parts, self._size)

    def _measure(self, group: PaddedBatch) -> SampleMoments:
        feeds = {name: group.arrays[name] for name in self._segment.inputs}
        tensors = {**group.arrays, **self._run(feeds)}
        found = [measure_samples(tensors[name][: group.samples]) for name in self._distinct()]
        return SampleMoments(
            layers=tuple(self._measured),
            source=self._source,
            mean=np.concatenate([mean for mean, _ in found], axis=1),
            var=np.concatenate([var for _, var in found], axis=1),
        )

    def _distinct(self) -> list[str]:
        return list(self._measured.values())

    def _run(self, feeds: Arrays) -> Arrays:
        outputs = self._segment.outputs
        if not outputs:
            return {}
        if self._session is None:
            cut = cut_segment(self._model, self._index, self._segment, feeds)
            self._session = session(cut, threads=self._threads)
        return dict(zip(outputs, self._session.run(outputs, feeds), strict=True))


def _only_measured(segment: Segment) -> Segment:
    """Drop the outputs that later segments would read: only the layers' inputs are of interest."""
    wanted = set(segment.measured.values())
    return replace(segment, outputs=tuple(name for name in segment.outputs if name in wanted))


def _joined(layers: Mapping[LayerName, LayerInfo], names: Iterable[LayerName]) -> RunningStatistics:
    found = [layers[name].statistics for name in names]
    known = [statistics for statistics in found if statistics is not None]
    if len(known) != len(found):
        raise EngineError("a layer without stored statistics cannot be compared with its input")
    return RunningStatistics(
        mean=np.concatenate([statistics.mean for statistics in known]),
        var=np.concatenate([statistics.var for statistics in known]),
    )


def _pieces(batch: Arrays, size: int) -> Iterator[Batch]:
    samples = next(iter(batch.values())).shape[0]
    for start in range(0, samples, size):
        yield {name: array[start : start + size] for name, array in batch.items()}
