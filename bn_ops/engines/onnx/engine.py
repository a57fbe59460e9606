"""The ONNX engine: an ONNX model, run in segments by onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.batches import named_batches
from bn_ops.core.engine import (
    JOINED_SAMPLES,
    EngineNotes,
    OnBatchMoments,
    OnLayerInput,
    OnOutputs,
    Positions,
    content_digest,
)
from bn_ops.core.layers import LayerInfo, select_layers
from bn_ops.core.options import Budget, Execution, RecalibrateOptions, in_phase
from bn_ops.core.signature import Batch, TensorInfo
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.batchnorm import statistics_tensors
from bn_ops.engines.onnx.describe import require_layers
from bn_ops.engines.onnx.forward import OnnxForward
from bn_ops.engines.onnx.frontier import OnnxFrontier
from bn_ops.engines.onnx.network_start import OnnxStart
from bn_ops.engines.onnx.optimized.model import OptimizedModel
from bn_ops.engines.onnx.optimized.whole_pass import WholePass
from bn_ops.engines.onnx.prepare import PreparedModel, StatisticsWriter, prepare
from bn_ops.engines.onnx.rebatch import group_samples
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.engines.onnx.train_pass import run_train_pass
from bn_ops.errors import ModelWithoutBatchNormError
from bn_ops.input_check.judging import check_start
from bn_ops.input_check.result import InputCheck
from bn_ops.onnx_files.large_models import bare_copy, model_digest, tensor_digest

if TYPE_CHECKING:
    import onnx

__all__ = ["STRUCTURE", "FrozenDigests", "OnnxEngine", "open_engine"]

# Digests of everything in an ONNX model except the statistics that a run may change.

STRUCTURE = "(graph structure)"


class FrozenDigests:
    """sha256 of each tensor that must not change, and of the graph without its tensors.

    Implements `bn_ops.core.engine.Digests`. Hashing a large model takes as long as some of its
    batches. So the tensors that the private copy shares with the source are hashed from the source,
    which nothing writes to, in a thread during the run. At the end they are compared with the
    source byte by byte, which proves as much as hashing them again and is twenty times as fast. Use
    as a context manager around the run.

    Args:
        source: the caller's model.
        copy: the private copy that the run works on.
        changeable: names of the initializers with the statistics of the recalibrated layers.
    """

    def __init__(
        self, source: onnx.ModelProto, copy: onnx.ModelProto, changeable: frozenset[str]
    ) -> None:
        self._model = copy
        self._changeable = changeable
        given = {tensor.name: tensor for tensor in source.graph.initializer}
        # `==` compares messages field by field, tensors' bytes included.
        self._shared = {t.name: given[t.name] for t in self._frozen() if t == given.get(t.name)}
        self._own = {t.name: tensor_digest(t) for t in self._frozen() if t.name not in self._shared}
        self._own[STRUCTURE] = self._structure()
        self._thread = ThreadPoolExecutor(1, "digests")
        self._source = self._thread.submit(model_digest, source)
        self._given = self._thread.submit(
            lambda: {name: tensor_digest(tensor) for name, tensor in self._shared.items()}
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    @property
    def source(self) -> str:
        """Return the sha256 of the caller's model."""
        return self._source.result()

    def before(self) -> Mapping[str, str]:
        """Return the digests from before the run: tensors by name, the graph structure last."""
        digests = {**self._given.result(), **self._own}
        tensors = {name: digests[name] for name in sorted(digests.keys() - {STRUCTURE})}
        return {**tensors, STRUCTURE: digests[STRUCTURE]}

    def after(self) -> Mapping[str, str]:
        """Return the digests now."""
        before = {**self._given.result(), **self._own}
        after = {t.name: self._digest_now(t, before) for t in self._frozen()}
        return {**after, STRUCTURE: self._structure()}

    def _digest_now(self, tensor: onnx.TensorProto, before: Mapping[str, str]) -> str:
        if tensor == self._shared.get(tensor.name):
            return before[tensor.name]
        return tensor_digest(tensor)

    def _frozen(self) -> list[onnx.TensorProto]:
        return [t for t in self._model.graph.initializer if t.name not in self._changeable]

    def _structure(self) -> str:
        """Return the digest of the model without its tensors."""
        return model_digest(bare_copy(self._model))


_TORCH_OPTIONS = ("call", "adopt_untracked", "shared_passes", "shared_tolerance")


def open_engine(
    source: onnx.ModelProto, batches: Iterable[Any], options: RecalibrateOptions
) -> OnnxEngine:
    """Open the engine on a checked model.

    Raises:
        ModelWithoutBatchNormError: no layer can be recalibrated.
        OptionError: an option applies to torch modules only, or the patterns match no layer.
    """
    options.require_default(_TORCH_OPTIONS, reason="applies to an nn.Module, not to an ONNX model")
    return OnnxEngine(source, batches, options)


class OnnxEngine:
    """Implements `bn_ops.core.engine.Engine` for an ONNX model.

    Args:
        source: the caller's model. Modified: no; the engine works on a private copy.
        batches: the stream.
        options: the run's options.
    """

    name = "onnx"

    def __init__(
        self, source: onnx.ModelProto, batches: Iterable[Any], options: RecalibrateOptions
    ) -> None:
        self._source = source
        self._prepared = prepare(source)
        self._options = options
        self._writer = StatisticsWriter(self._prepared)
        # The optimized model of a run that observed samples, for the runs and passes before other
        # statistics are stored.
        self._uncut: OptimizedModel | None = None
        # Runs the source model through it.
        self._whole: WholePass | None = None
        self._samplewise = False
        self.layers: Sequence[LayerInfo] = self._prepared.layers
        self.selected = _select(self._prepared, options.layers)
        self.adapter = _OnnxBatches(model_inputs(self._prepared.model))
        self.stream: Iterator[Batch] = named_batches(
            batches, self.adapter.inputs, select=options.select
        )

    @property
    def model(self) -> onnx.ModelProto:
        """The private copy."""
        return self._prepared.model

    def digests(self) -> FrozenDigests:
        """See `bn_ops.core.engine.Engine.digests`."""
        tensors = statistics_tensors(self._prepared.model.graph)
        changeable = frozenset(tensor for name in self.selected for tensor in tensors[name])
        return FrozenDigests(self._source, self._prepared.model, changeable)

    @contextmanager
    def frontier(
        self,
        stream: Iterable[Batch],
        *,
        phase: str | None = None,
        observed: Positions | None = None,
        start: int = 0,
        execution: Execution = "auto",
        known: Mapping[LayerName, RunningStatistics] | None = None,
    ) -> Iterator[OnnxFrontier]:
        """See `bn_ops.core.engine.Engine.frontier`."""
        self._close_whole()
        with OnnxFrontier(
            self._prepared,
            stream,
            layers=self.selected,
            budget=self._options.budget or Budget(),
            progress=in_phase(self._options.progress, phase),
            threads=self._options.threads,
            executor=execution,
            observed=observed,
            start=start,
            optimized=self._uncut,
            known=known,
        ) as frontier:
            yield frontier
            if not known:
                self._uncut = frontier.uncut()
                self._samplewise = self._uncut is not None
        self._writer.write(self._source_statistics())

    def train_pass(self, stream: Iterable[Batch], on_moments: OnBatchMoments) -> None:
        """See `bn_ops.core.engine.Engine.train_pass`."""
        run_train_pass(
            self._prepared,
            stream,
            layers=self.selected,
            on_moments=on_moments,
            progress=self._options.progress,
            threads=self._options.threads,
        )

    def forward(
        self,
        batches: Iterable[Batch],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """See `bn_ops.core.engine.Engine.forward`."""
        if self._whole is None and self._uncut is not None:
            statistics = self._source_statistics()
            self._whole = WholePass(self._uncut, statistics, threads=self._options.threads)
        run = OnnxForward(
            self._prepared,
            threads=self._options.threads,
            samplewise=self._samplewise,
            whole=self._whole,
        )
        try:
            run(batches, on_outputs=on_outputs, on_layer_input=on_layer_input)
        except BaseException:
            self._close_whole()
            raise

    def store(self, statistics: Mapping[LayerName, RunningStatistics]) -> Callable[[], None]:
        """Write statistics into the private copy."""
        self._close_whole()
        self._uncut = None
        self._writer.write(statistics)
        return lambda: self._writer.write(self._source_statistics())

    def _close_whole(self) -> None:
        if self._whole is not None:
            self._whole.close()
            self._whole = None

    def check_input(self, samples: Sequence[Batch]) -> InputCheck:
        """See `bn_ops.input_check.engine.CheckedEngine.check_input`."""
        return check_start(OnnxStart(self._prepared, threads=self._options.threads), samples)

    def notes(self, updated: Iterable[LayerName]) -> EngineNotes:
        """Return the layers in graph order."""
        del updated
        return EngineNotes(layers=self.layers)

    def _source_statistics(self) -> dict[LayerName, RunningStatistics]:
        return {
            layer.name: layer.statistics
            for layer in self.layers
            if layer.name in self.selected and layer.statistics is not None
        }


_Form: TypeAlias = tuple[tuple[np.dtype[np.generic], tuple[int, ...]], ...]
"""Element type and shape of a sample's inputs."""


class _OnnxBatches:
    """Implements `bn_ops.core.engine.BatchAdapter` for named arrays."""

    def __init__(self, inputs: Sequence[TensorInfo]) -> None:
        self.inputs = inputs

    def read(self, items: Iterable[Any]) -> Iterator[Batch]:
        return named_batches(items, self.inputs)

    def samples(self, batch: Batch) -> int:
        return int(next(iter(batch.values())).shape[0])

    def head(self, batch: Batch, samples: int) -> Batch:
        return {name: array[:samples].copy() for name, array in batch.items()}

    def digests(self, batch: Batch) -> list[bytes]:
        arrays = [np.ascontiguousarray(batch[info.name]) for info in self.inputs]
        return [
            content_digest(array[index].reshape(-1).view(np.uint8).data for array in arrays)
            for index in range(self.samples(batch))
        ]

    def sample(self, batch: Batch, index: int) -> Batch:
        return {name: array[index : index + 1].copy() for name, array in batch.items()}

    def pack(self, batch: Batch, index: int) -> tuple[_Form, NDArray[np.uint8]]:
        rows = [np.ascontiguousarray(batch[info.name][index]) for info in self.inputs]
        form = tuple((row.dtype, row.shape) for row in rows)
        return form, np.concatenate([row.reshape(-1).view(np.uint8) for row in rows])

    def unpack(self, form: _Form, data: NDArray[np.uint8]) -> Batch:
        sample, start = dict[str, NDArray[np.generic]](), 0
        for info, (dtype, shape) in zip(self.inputs, form, strict=True):
            stop = start + dtype.itemsize * math.prod(shape)
            sample[info.name] = data[start:stop].view(dtype).reshape(1, *shape)
            start = stop
        return sample

    def join(self, samples: Sequence[Batch]) -> list[Batch]:
        return [group.arrays for group in group_samples(samples, JOINED_SAMPLES)]

    def features(self, batch: Batch) -> Batch:
        return batch

    def named(self, batches: Sequence[Batch]) -> tuple[Batch, ...]:
        return tuple(batches)


def _select(prepared: PreparedModel, patterns: Sequence[str] | None) -> frozenset[LayerName]:
    require_layers(prepared)
    eligible = prepared.eligible
    if not eligible:
        first = prepared.layers[0]
        raise ModelWithoutBatchNormError(
            f"none of the model's {len(prepared.layers)} BatchNorm layers can be recalibrated; "
            f"{first.name!r}: {first.reason}"
        )
    return select_layers(eligible, patterns)
