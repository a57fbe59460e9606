"""The frontier of an ONNX model: one segment per step, each sample through it once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Protocol, Self

from bn_ops.core.engine import Positions
from bn_ops.core.moment_tree import MomentTree
from bn_ops.core.options import Budget, Execution, Progress
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics
from bn_ops.engines.onnx.graph_executor import GraphExecutor
from bn_ops.engines.onnx.optimized.executor import OptimizedGraphExecutor
from bn_ops.engines.onnx.optimized.model import OptimizedModel, open_optimized
from bn_ops.engines.onnx.optimized.replay import Replay
from bn_ops.engines.onnx.optimized.self_test import block_channels
from bn_ops.engines.onnx.prepare import PreparedModel, StatisticsWriter
from bn_ops.engines.onnx.rebatch import fixed_batch_size
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.engines.onnx.tensor_store import TensorStore
from bn_ops.errors import EngineError, ModelInvalidError, OptionError
from bn_ops.onnx_files.session import onnxruntime, runs_on_cpu

__all__ = ["OnnxFrontier"]


class _Executor(Protocol):
    def advance(self) -> Mapping[LayerName, MomentTree]: ...

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None: ...

    def replay(self) -> Replay | None: ...

    def close(self) -> None: ...


class OnnxFrontier:
    """Implements `bn_ops.core.frontier.Frontier` for a prepared ONNX model.

    Use as a context manager: leaving it removes spilled tensors.

    Args:
        prepared: the model. Modified: `commit` writes statistics into it.
        batches: the stream, read once.
        layers: the layers to measure.
        budget: memory and files for waiting tensors.
        progress: called between steps.
        threads: number of threads; None for every core.
        executor: how to run the model.
        observed: the samples to observe for `replay`; None for none.
        start: position of the first sample in the stream of which `batches` is a part.
        optimized: the optimized model of an earlier run over the same layers, also with samples
            observed; None to optimize the model again.
        known: statistics of layers that are not measured where `optimized` is given.
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
        executor: Execution = "auto",
        observed: Positions | None = None,
        start: int = 0,
        optimized: OptimizedModel | None = None,
        known: Mapping[LayerName, RunningStatistics] | None = None,
    ) -> None:
        self._prepared = prepared
        self._writer = StatisticsWriter(prepared)
        self._batches = batches
        self._layers = frozenset(layers)
        self._store = TensorStore(budget)
        self._progress = progress
        self._threads = threads
        self._choice = executor
        self._start = start
        self._reused = optimized
        self._known = known or {}
        # The report shows every layer that can be recalibrated; only measured ones are observed.
        self._observed = observed if self._layers == prepared.eligible.keys() else None
        self._executor: _Executor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._executor is not None:
            self._executor.close()
        self._store.close()

    @property
    def store(self) -> TensorStore:
        """The store of waiting tensors, with its peak sizes."""
        return self._store

    def advance(self) -> Mapping[LayerName, MomentTree]:
        """Run every sample through the next segment; return the moments of its layers."""
        if not self._layers:
            return {}
        if self._executor is None:
            self._executor = self._choose()
        return self._executor.advance()

    def commit(self, statistics: Mapping[LayerName, RunningStatistics]) -> None:
        """Write the statistics into the prepared model and into the executor."""
        self._writer.write(statistics)
        if self._executor is not None:
            self._executor.commit(statistics)

    def kernels(self) -> Mapping[str, str]:
        """See `bn_ops.core.engine.EngineFrontier.kernels`."""
        optimized = isinstance(self._executor, OptimizedGraphExecutor)
        execution = f"optimized in blocks of {block_channels()}" if optimized else "graph"
        return {"execution": execution, "onnxruntime": onnxruntime().__version__}

    def replay(self) -> Replay | None:
        """See `bn_ops.core.engine.EngineFrontier.replay`."""
        return None if self._executor is None else self._executor.replay()

    def uncut(self) -> OptimizedModel | None:
        """Return the optimized model if the observed samples can be run through it uncut."""
        executor = self._executor
        return executor.uncut() if isinstance(executor, OptimizedGraphExecutor) else None

    def _choose(self) -> _Executor:
        batches: Iterator[Batch] = iter(self._batches)
        if self._choice != "graph":
            first = next(batches, None)
            batches = itertools.chain([] if first is None else [first], batches)
            model = "there is no batch" if first is None else self._optimized(first)
            if isinstance(model, OptimizedModel):
                return OptimizedGraphExecutor(
                    model,
                    batches,
                    store=self._store,
                    progress=self._progress,
                    threads=self._threads,
                    observed=self._observed,
                    start=self._start,
                )
            if self._choice == "optimized":
                raise OptionError(f'executor="optimized" cannot run this model: {model}')
        return GraphExecutor(
            self._prepared,
            batches,
            layers=self._layers,
            store=self._store,
            progress=self._progress,
            threads=self._threads,
            start=self._start,
        )

    def _optimized(self, first: Batch) -> OptimizedModel | str:
        """Return the optimized model, tried on the first sample, or why it cannot be used."""
        if not runs_on_cpu():
            return "the optimized layout is that of the CPU"
        block = block_channels()
        if block is None:
            return "the installed onnxruntime optimizes differently"
        if fixed_batch_size(model_inputs(self._prepared.model)) is not None:
            return "the model fixes its number of samples"
        if any(array.dtype.name == "bfloat16" for array in first.values()):
            return "an input is bfloat16, which numpy has no native type for"
        try:
            model = self._opened(block)
            if isinstance(model, OptimizedModel):
                model.try_shapes(first)
        except (EngineError, ModelInvalidError) as error:
            # The graph executor either runs the model or reports its fault more precisely.
            return error.message
        return model

    def _opened(self, block: int) -> OptimizedModel | str:
        if self._reused is not None and self._observed is not None:
            return self._reused.reopened(self._known)
        return open_optimized(
            self._prepared, self._layers, block=block, with_head=self._observed is not None
        )
