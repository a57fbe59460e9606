"""Run a model in onnxruntime and observe its outputs and the inputs of its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.engine import OnLayerInput, OnOutputs
from bn_ops.core.moments import Moments, measure
from bn_ops.core.reduction import thread_count
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.batchnorm import INPUT, batchnorm_nodes
from bn_ops.engines.onnx.optimized.whole_pass import WholePass
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.engines.onnx.rebatch import PaddedBatch, fixed_batch_size, rebatch, singles
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import EngineError
from bn_ops.onnx_files.session import Session, session

__all__ = ["OnnxForward"]

_Found = tuple[Mapping[str, NDArray[np.generic]], Mapping[LayerName, Moments]]
_Observed = Mapping[str, Sequence[LayerName]]


class OnnxForward:
    """Implements `bn_ops.diagnostics.forward_pass.ForwardRunner` for a prepared model.

    To observe layers, and where it is known to give the same outputs, samples run one by one,
    spread over the threads, so that only the tensors of one sample per thread are in memory; a
    model that does not accept single samples gets whole batches.

    Args:
        prepared: the model, with the statistics to run with. Modified: no.
        threads: number of threads; None for every core.
        samplewise: whether the model is known to treat samples independently.
        whole: the optimized model with the same statistics, which takes less time, if there is one.
    """

    def __init__(
        self,
        prepared: PreparedModel,
        *,
        threads: int | None,
        samplewise: bool = False,
        whole: WholePass | None = None,
    ) -> None:
        self._model = prepared.model
        self._eligible = prepared.eligible
        self._size = fixed_batch_size(model_inputs(prepared.model))
        self._threads = threads
        self._samplewise = samplewise
        self._whole = whole
        self._inner: Session | None = None

    def __call__(
        self,
        batches: Iterable[Batch],
        *,
        on_outputs: OnOutputs,
        on_layer_input: OnLayerInput | None = None,
    ) -> None:
        """Run each batch; see `bn_ops.diagnostics.forward_pass.ForwardRunner`.

        Raises:
            EngineError: onnxruntime refused or failed.
        """
        observed = {} if on_layer_input is None else self._observed()
        self._inner = None
        for batch in batches:
            found = self._run_uncut(batch, observe=bool(observed))
            for outputs, inputs in found or self._run_model(observed, batch):
                if on_layer_input is not None:
                    for layer, moments in inputs.items():
                        on_layer_input(layer, moments)
                on_outputs(outputs)

    def _run_uncut(self, batch: Batch, *, observe: bool) -> list[_Found] | None:
        """Run a batch through the optimized graph; None without one, or where it fails."""
        if self._whole is None:
            return None
        try:
            return [self._whole.run(batch, observe=observe)]
        except EngineError:
            self._whole = None
            return None

    def _run_model(self, observed: _Observed, batch: Batch) -> Iterable[_Found]:
        singly = (bool(observed) or self._samplewise) and self._size is None
        if self._inner is None:
            self._inner = self._session(list(observed), threads=1 if singly else self._threads)
        found = self._run_singly(self._inner, observed, batch) if singly else None
        return found or self._run_whole(self._inner, observed, batch)

    def _run_singly(self, inner: Session, observed: _Observed, batch: Batch) -> list[_Found] | None:
        """Run a batch sample by sample; None where the model rejects a single sample."""
        parts = [PaddedBatch(arrays=single, samples=1) for single in singles(batch)]
        try:
            first = self._run(inner, observed, parts[0])
        except EngineError:
            return None
        if not observed and any(array.shape[:1] != (1,) for array in first[0].values()):
            return None  # not a row per sample, so the rows cannot be joined
        workers = thread_count(self._threads)
        if workers == 1:
            found = [first, *(self._run(inner, observed, part) for part in parts[1:])]
        else:
            with ThreadPoolExecutor(workers, "forward") as pool:
                rest = pool.map(lambda part: self._run(inner, observed, part), parts[1:])
                found = [first, *rest]
        return found if observed else [_joined(found)]

    def _run_whole(self, inner: Session, observed: _Observed, batch: Batch) -> Iterator[_Found]:
        return (self._run(inner, observed, group) for group in rebatch([batch], self._size))

    def _run(self, inner: Session, observed: _Observed, group: PaddedBatch) -> _Found:
        """Return the output tensors, and the moments of the inputs of layers."""
        outputs = [output.name for output in self._model.graph.output]
        names = dict.fromkeys([*outputs, *observed])
        wanted = [name for name in names if name not in group.arrays]
        found = inner.run(wanted, group.arrays)
        seen = {**group.arrays, **dict(zip(wanted, found, strict=True))}
        # A sequence or a map is returned as a list.
        tensors = {n: seen[n] for n in outputs if isinstance(seen[n], np.ndarray)}
        moments = {name: measure(self._without_padding(seen[name], group)) for name in observed}
        return (
            {name: self._without_padding(array, group) for name, array in tensors.items()},
            {layer: moments[name] for name, layers in observed.items() for layer in layers},
        )

    def _observed(self) -> dict[str, list[LayerName]]:
        """Return the tensors that layers read, in graph order, each with its layers."""
        observed: dict[str, list[LayerName]] = {}
        for _, node in batchnorm_nodes(self._model.graph):
            if node.name in self._eligible:
                observed.setdefault(node.input[INPUT], []).append(node.name)
        return observed

    def _session(self, observed: list[str], *, threads: int | None) -> Session:
        graph = self._model.graph
        given = {value.name for value in (*graph.input, *graph.output)}
        more = [name for name in observed if name not in given]
        return session(self._model, threads=threads, more_outputs=more)

    def _without_padding(
        self, array: NDArray[np.generic], group: PaddedBatch
    ) -> NDArray[np.generic]:
        """Remove the rows of padding from a tensor with one row per sample."""
        if group.padded and array.shape[:1] == (self._size,):
            return array[: group.samples]
        return array


def _joined(found: Sequence[_Found]) -> _Found:
    """Return the outputs of single samples as those of a batch."""
    names = found[0][0]
    return {name: np.concatenate([outputs[name] for outputs, _ in found]) for name in names}, {}
