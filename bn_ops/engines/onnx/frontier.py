"""The frontier of an ONNX model: one segment per advance, each sample through it once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Literal, Protocol, Self

from bn_ops.core.moments import Moments
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.graph_executor import PlainCut
from bn_ops.engines.onnx.optimized.executor import OptimisedCut
from bn_ops.engines.onnx.optimized.layout_check import blocked_channels
from bn_ops.engines.onnx.optimized.model import OptimisedModel, open_optimised
from bn_ops.engines.onnx.prepare import PreparedModel, StatisticsWriter
from bn_ops.engines.onnx.rebatch import demanded_size
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.engines.onnx.tensor_store import TensorStore
from bn_ops.errors import EngineError, ModelInvalidError, OptionError
from bn_ops.options import Budget
from bn_ops.progress import Progress

__all__ = ["Cut", "OnnxFrontier"]

Cut = Literal["auto", "plain", "optimised"]


class _Engine(Protocol):
    def advance(self) -> Mapping[LayerName, Moments]: ...

    def settle(self, statistics: Mapping[LayerName, RunningStatistics]) -> None: ...

    def close(self) -> None: ...


class OnnxFrontier:
    """Implements `bn_ops.core.frontier.Frontier` for a prepared ONNX model.

    The prepared model is modified: `commit` writes the statistics into it. Use as a context
    manager, so that spilled tensors are removed.

    Args:
        prepared: the model.
        batches: the stream, read once.
        layers: the layers to measure.
        budget: memory and files for the tensors that wait.
        progress: called between steps.
        threads: threads to run on; None means every core.
        cut: `plain` cuts the model as it is and takes every model; `optimised` cuts what
            onnxruntime makes of it and takes those whose structure allows it; `auto` chooses.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        batches: Iterable[Batch],
        *,
        layers: Iterable[LayerName],
        budget: Budget,
        progress: Callable[[Progress], None],
        threads: int | None = None,
        cut: Cut = "auto",
    ) -> None:
        self._prepared = prepared
        self._writer = StatisticsWriter(prepared)
        self._batches = batches
        self._layers = frozenset(layers)
        self._store = TensorStore(budget)
        self._progress = progress
        self._threads = threads
        self._cut = cut
        self._engine: _Engine | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._engine is not None:
            self._engine.close()
        self._store.close()

    @property
    def store(self) -> TensorStore:
        """The waiting tensors, for its peak figures."""
        return self._store

    def advance(self) -> Mapping[LayerName, Moments]:
        """Run every sample through the next segment; return the moments of its layers."""
        if not self._layers:
            return {}
        if self._engine is None:
            self._engine = self._choose()
        return self._engine.advance()

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write the statistics into the prepared model, and where the next segments read them."""
        self._writer.write(statistics)
        if self._engine is not None:
            self._engine.settle(statistics)

    def _choose(self) -> _Engine:
        batches: Iterator[Batch] = iter(self._batches)
        if self._cut != "plain":
            first = next(batches, None)
            batches = itertools.chain([] if first is None else [first], batches)
            model = "there is no batch" if first is None else self._optimised(first)
            if isinstance(model, OptimisedModel):
                return OptimisedCut(
                    model,
                    batches,
                    store=self._store,
                    progress=self._progress,
                    threads=self._threads,
                )
            if self._cut == "optimised":
                raise OptionError(f'cut="optimised" cannot take this model: {model}')
        return PlainCut(
            self._prepared,
            batches,
            layers=self._layers,
            store=self._store,
            progress=self._progress,
            threads=self._threads,
        )

    def _optimised(self, first: Batch) -> OptimisedModel | str:
        """Open the optimised cut and try it on the first sample; or say why it is not taken."""
        block = blocked_channels()
        if block is None:
            return "the installed onnxruntime optimises otherwise"
        if demanded_size(model_inputs(self._prepared.model)) is not None:
            return "the model fixes its number of samples"
        if any(array.dtype.name == "bfloat16" for array in first.values()):
            return "an input is bfloat16, which has no buffers in numpy's own types"
        try:
            model = open_optimised(self._prepared, self._layers, block=block)
            if isinstance(model, OptimisedModel):
                model.try_shapes(first)
        except (EngineError, ModelInvalidError) as error:
            # The plain cut either takes the model or says better what is wrong with it.
            return error.message
        return model
