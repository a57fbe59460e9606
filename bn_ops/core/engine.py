"""The interface between a run and the engine that executes the network.

`bn_ops.pipeline` performs a run once for all engines; an engine implements what is specific to its
runtime. A new engine is one implementation of `Engine` and one line in `bn_ops.engines`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.frontier import Frontier
from bn_ops.core.layers import LayerInfo
from bn_ops.core.moments import Moments
from bn_ops.core.options import Execution
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName, RunningStatistics

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "JOINED_SAMPLES",
    "BatchAdapter",
    "Digests",
    "Engine",
    "EngineFrontier",
    "EngineNotes",
    "OnBatchMoments",
    "OnLayerInput",
    "OnOutputs",
    "Positions",
    "Replay",
    "Residual",
    "content_digest",
]

JOINED_SAMPLES = 16
"""Samples of a batch that `BatchAdapter.join` makes."""

ModelT_co = TypeVar("ModelT_co", covariant=True)
BatchT = TypeVar("BatchT")

OnBatchMoments = Callable[[LayerName, Moments, int], None]
"""Receives a layer, the moments of one batch of its input, and the index of the batch."""

OnOutputs = Callable[[Mapping[str, NDArray[np.generic]]], None]
"""Receives the output tensors of each batch by name."""

OnLayerInput = Callable[[LayerName, Moments], None]
"""Receives the moments of each input of a layer."""


Positions = Callable[[], Sequence[int]]
"""Returns the positions in the stream of the samples to observe. While the stream is read, these
are among the samples read so far, and a sample that has been dropped does not come back."""


class Replay(Protocol):
    """Reports the values that were kept of the samples observed in a run."""

    def __call__(
        self,
        batches: Iterable[Sequence[int]],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """Report the outputs, and layer inputs if a callback is given.

        Args:
            batches: positions of observed samples; those of a batch have equal shapes.
            on_outputs: called with the outputs of each batch.
            on_layer_input: called with the moments of each layer's input, for each batch.

        Raises:
            EngineError: the rest of the network cannot be run.
        """
        ...


class EngineFrontier(Frontier, Protocol):
    """A frontier over an engine's stream."""

    def kernels(self) -> Mapping[str, str]:
        """Return what the last bits of moments depend on, other than model, data and options.

        Called after the first `advance`.
        """
        ...

    def replay(self) -> Replay | None:
        """Return the results of the observed samples under the committed statistics.

        They are what `Engine.forward` would report with these statistics, without running the
        samples again. Called inside the frontier's context, after the last layer was committed.

        Returns:
            None where the engine observed nothing.
        """
        ...


def content_digest(arrays: Iterable[ReadableBuffer]) -> bytes:
    """Return the sha256 of one sample: of the bytes of its arrays, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(array)
    return digest.digest()


class BatchAdapter(Protocol[BatchT]):
    """What a run needs to know about an engine's batches."""

    def read(self, items: Iterable[Any]) -> Iterator[BatchT]:
        """Yield the items of a stream as checked batches, without `select`."""
        ...

    def samples(self, batch: BatchT) -> int:
        """Return the number of samples in a batch."""
        ...

    def head(self, batch: BatchT, samples: int) -> BatchT:
        """Copy the first samples of a batch."""
        ...

    def digests(self, batch: BatchT) -> Sequence[bytes] | None:
        """Return the sha256 of each sample's bytes; None where a batch cannot be split."""
        ...

    def sample(self, batch: BatchT, index: int) -> BatchT:
        """Copy one sample of a batch that can be split."""
        ...

    def pack(self, batch: BatchT, index: int) -> tuple[Any, NDArray[np.uint8]]:
        """Copy one sample of a batch that can be split, as what describes it and its bytes."""
        ...

    def unpack(self, form: Any, data: NDArray[np.uint8]) -> BatchT:
        """Return a sample of `pack` as a batch, which may share the memory of `data`."""
        ...

    def join(self, samples: Sequence[BatchT]) -> Sequence[BatchT]:
        """Join consecutive samples of equal shapes to batches of up to `JOINED_SAMPLES`."""
        ...

    def features(self, batch: BatchT) -> Batch:
        """Return the arrays with one row per sample, for the autocorrelation of the stream.

        Rows may be thinned by `bn_ops.diagnostics.autocorrelation.feature_step`.
        """
        ...

    def named(self, batches: Sequence[BatchT]) -> tuple[Batch, ...]:
        """Return batches as arrays under the input names of the exported model, where known."""
        ...


class Digests(Protocol):
    """sha256 of everything that a run must not change, by name."""

    @property
    def source(self) -> str | None:
        """sha256 of the caller's model file; None for a model that is not a file."""
        ...

    def before(self) -> Mapping[str, str]:
        """Return the digests from before the run."""
        ...

    def after(self) -> Mapping[str, str]:
        """Return the digests now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """How far the last pass moved a layer's statistics, as the maximum over its channels.

    Attributes:
        mean: |Δμ| / √(σ² + ε).
        var: |Δσ²| / (σ² + ε).
    """

    mean: float
    var: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineNotes:
    """Facts about a finished pass that the engine reports.

    Attributes:
        layers: every layer, in the order of the report.
        residuals: of the layers that are called several times per forward.
        warnings: sentences for the report.
    """

    layers: Sequence[LayerInfo]
    residuals: Mapping[LayerName, Residual] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class Engine(Protocol[ModelT_co, BatchT]):
    """One model and one stream, ready to run.

    After `exact` or `train_pass` the model holds its source statistics again; only `store` changes
    them permanently.
    """

    @property
    def name(self) -> str:
        """The engine's name in reports."""
        ...

    @property
    def model(self) -> ModelT_co:
        """The model; after `store`, the result."""
        ...

    @property
    def layers(self) -> Sequence[LayerInfo]:
        """Every BatchNorm layer, with its source statistics."""
        ...

    @property
    def selected(self) -> frozenset[LayerName]:
        """The layers to recalibrate."""
        ...

    @property
    def stream(self) -> Iterator[BatchT]:
        """The caller's stream as checked batches; read once."""
        ...

    @property
    def adapter(self) -> BatchAdapter[BatchT]:
        """How to handle one batch."""
        ...

    def digests(self) -> AbstractContextManager[Digests]:
        """Take the digests of everything but the statistics of the selected layers."""
        ...

    def frontier(
        self,
        stream: Iterable[BatchT],
        *,
        phase: str | None = None,
        observed: Positions | None = None,
        start: int = 0,
        execution: Execution = "auto",
        known: Mapping[LayerName, RunningStatistics] | None = None,
    ) -> AbstractContextManager[EngineFrontier]:
        """Open a frontier over the selected layers.

        Args:
            stream: the batches to measure.
            phase: reported as the phase of all progress; None for the usual phases.
            observed: the samples to observe for `EngineFrontier.replay`, if the engine can.
            start: position of the first sample in the stream of which `stream` is a part.
            execution: how the network is run, where the engine has a choice.
            known: statistics of layers that are given. The engine may run these layers with
                them instead of measuring their inputs, which `EngineFrontier.replay` then lacks.
        """
        ...

    def train_pass(self, stream: Iterable[BatchT], on_moments: OnBatchMoments) -> None:
        """Run one pass in which each batch is normalized by its own moments."""
        ...

    def forward(
        self,
        batches: Iterable[BatchT],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """Run the model, with the statistics that it holds now, on batches."""
        ...

    def store(self, statistics: Mapping[LayerName, RunningStatistics]) -> Callable[[], None]:
        """Write statistics into the model; return a function that restores the source statistics.

        May be called again after the statistics were restored.
        """
        ...

    def notes(self, updated: Iterable[LayerName]) -> EngineNotes:
        """Return facts about the finished pass.

        Args:
            updated: the recalibrated layers, in the order of their updates.
        """
        ...
