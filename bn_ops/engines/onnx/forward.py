"""Running a model in onnxruntime to see its outputs and what reaches its layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.engine import OnLayerInput, OnOutputs
from bn_ops.core.moments import measure
from bn_ops.core.signature import Batch
from bn_ops.core.statistics import LayerName
from bn_ops.engines.onnx.batchnorm import INPUT, batchnorm_nodes
from bn_ops.engines.onnx.prepare import PreparedModel
from bn_ops.engines.onnx.rebatch import PaddedBatch, fixed_batch_size, rebatch
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import EngineError
from bn_ops.onnx_files.session import Session, session

__all__ = ["OnnxForward"]

_Arrays = Mapping[str, NDArray[np.generic]]


class OnnxForward:
    """Implements `bn_ops.diagnostics.forward_pass.ForwardRunner` for a prepared model.

    With watched layers each sample runs alone, so that the tensors of one sample are all that is
    held at a time; a model that does not take single samples gets the batches as they came.

    Args:
        prepared: the model, with the statistics that it is to run with. Modified: no.
        threads: threads within an operator; None means every core.
    """

    def __init__(self, prepared: PreparedModel, *, threads: int | None) -> None:
        self._model = prepared.model
        self._eligible = prepared.eligible
        self._size = fixed_batch_size(model_inputs(prepared.model))
        self._threads = threads

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
        outputs = [output.name for output in self._model.graph.output]
        watched = {} if on_layer_input is None else self._watched()
        inner = self._session([name for name in watched if name not in outputs])
        names = list(dict.fromkeys([*outputs, *watched]))
        for batch in batches:
            singly = bool(watched) and self._size is None
            for group, found in self._found(inner, names, batch, singly=singly):
                seen = {**group.arrays, **found}
                if on_layer_input is not None:
                    for tensor, layers in watched.items():
                        moments = measure(self._real(seen[tensor], group))
                        for layer in layers:
                            on_layer_input(layer, moments)
                # A sequence or a map comes as a list.
                tensors = {n: seen[n] for n in outputs if isinstance(seen[n], np.ndarray)}
                on_outputs({name: self._real(array, group) for name, array in tensors.items()})

    def _found(
        self, inner: Session, names: list[str], batch: Batch, *, singly: bool
    ) -> Iterator[tuple[PaddedBatch, _Arrays]]:
        fed = {name for name in names if name in batch}
        wanted = [name for name in names if name not in fed]
        parts = list(_singles(batch)) if singly else [batch]
        for number, group in enumerate(rebatch(parts, self._size)):
            try:
                found = inner.run(wanted, group.arrays)
            except EngineError:
                if not singly or number:
                    raise
                yield from self._found(inner, names, batch, singly=False)
                return
            yield group, dict(zip(wanted, found, strict=True))

    def _watched(self) -> dict[str, list[LayerName]]:
        """Tensors that enter layers, in the order of the graph, each with its layers."""
        watched: dict[str, list[LayerName]] = {}
        for _, node in batchnorm_nodes(self._model.graph):
            if node.name in self._eligible:
                watched.setdefault(node.input[INPUT], []).append(node.name)
        return watched

    def _session(self, extra: list[str]) -> Session:
        given = {value.name for value in self._model.graph.input}
        more = [name for name in extra if name not in given]
        return session(self._model, threads=self._threads, more_outputs=more)

    def _real(self, array: NDArray[np.generic], group: PaddedBatch) -> NDArray[np.generic]:
        """Leave out the rows of filling, where there is one row per sample."""
        if group.padded and array.shape[:1] == (self._size,):
            return array[: group.samples]
        return array


def _singles(batch: Batch) -> Iterator[Batch]:
    samples = next(iter(batch.values())).shape[0]
    return ({n: array[i : i + 1] for n, array in batch.items()} for i in range(samples))
