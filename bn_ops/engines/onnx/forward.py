"""Run a model in onnxruntime and observe its outputs and the inputs of its layers."""

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

    To observe layers, samples run one by one, so that only the tensors of one sample are in memory;
    a model that does not accept single samples gets whole batches.

    Args:
        prepared: the model, with the statistics to run with. Modified: no.
        threads: threads within an operator; None for every core.
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
        observed = {} if on_layer_input is None else self._observed()
        inner = self._session([name for name in observed if name not in outputs])
        names = list(dict.fromkeys([*outputs, *observed]))
        for batch in batches:
            singly = bool(observed) and self._size is None
            for group, found in self._found(inner, names, batch, singly=singly):
                seen = {**group.arrays, **found}
                if on_layer_input is not None:
                    for tensor, layers in observed.items():
                        moments = measure(self._without_padding(seen[tensor], group))
                        for layer in layers:
                            on_layer_input(layer, moments)
                # A sequence or a map is returned as a list.
                tensors = {n: seen[n] for n in outputs if isinstance(seen[n], np.ndarray)}
                on_outputs(
                    {name: self._without_padding(array, group) for name, array in tensors.items()}
                )

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

    def _observed(self) -> dict[str, list[LayerName]]:
        """Return the tensors that layers read, in graph order, each with its layers."""
        observed: dict[str, list[LayerName]] = {}
        for _, node in batchnorm_nodes(self._model.graph):
            if node.name in self._eligible:
                observed.setdefault(node.input[INPUT], []).append(node.name)
        return observed

    def _session(self, extra: list[str]) -> Session:
        given = {value.name for value in self._model.graph.input}
        more = [name for name in extra if name not in given]
        return session(self._model, threads=self._threads, more_outputs=more)

    def _without_padding(
        self, array: NDArray[np.generic], group: PaddedBatch
    ) -> NDArray[np.generic]:
        """Remove the rows of padding from a tensor with one row per sample."""
        if group.padded and array.shape[:1] == (self._size,):
            return array[: group.samples]
        return array


def _singles(batch: Batch) -> Iterator[Batch]:
    samples = next(iter(batch.values())).shape[0]
    return ({n: array[i : i + 1] for n, array in batch.items()} for i in range(samples))
