"""Run one of the models that are compared in onnxruntime, in its own element types."""

from __future__ import annotations

from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.reduction import thread_count
from bn_ops.errors import EngineError
from bn_ops.onnx_files.session import session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import onnx

    from bn_ops.core.signature import Batch
    from bn_ops.verification.probes import Probe

__all__ = ["NativeModel"]

Array = NDArray[np.generic]
_Memory = tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...]

_FOLDING_FUSIONS = (
    "ConvAddFusion",
    "ConvBNFusion",
    "ConvMulFusion",
    "MatMul_BatchNormalization_Fusion",
)
"""The fusions by which onnxruntime folds BatchNorm itself."""


class NativeModel:
    """A model in onnxruntime.

    A float32 model runs with the optimizations that onnxruntime applies by default, in its blocked
    layout, which takes half the time; only the fusions that fold BatchNorm are off, so that a fold
    is never compared with onnxruntime's own. With 16-bit types the optimizer decides where numbers
    are widened to float32, and in float64 it has nothing to offer: such models run as they are.

    Args:
        model: the model; not changed.
        threads: threads, in total; None means every core.
        optimize: whether the model's floating-point numbers are all float32.

    Raises:
        ModelInvalidError: onnxruntime cannot load it.
    """

    def __init__(self, model: onnx.ModelProto, *, threads: int | None, optimize: bool) -> None:
        self._threads = thread_count(threads)
        disabled = _FOLDING_FUSIONS if optimize else ()
        # Runs are spread over the threads, without a barrier per operator.
        self._session = session(model, threads=1, optimize=optimize, disabled=disabled)

    def run_all(
        self, outputs: Sequence[str], probes: Sequence[Probe]
    ) -> list[list[Array] | EngineError]:
        """Run every probe; return the outputs of each, or why it could not be run.

        Probes of given samples run sample by sample, whose tensors fit into a processor's cache.
        They run whole where the model rejects a single sample or an output does not have one row
        per sample. A model that mixes the samples of a batch computes something else for single
        ones; the same probes are given to both models, and the random ones hold two samples. A
        given sample that is part of two probes runs once.
        """
        with ThreadPoolExecutor(self._threads, "verify") as pool:
            return self.start_all(pool, outputs, probes)()

    def start_all(
        self, pool: Executor, outputs: Sequence[str], probes: Sequence[Probe]
    ) -> Callable[[], list[list[Array] | EngineError]]:
        """Start every probe in a pool; return a function that waits for what `run_all` returns."""
        known: dict[_Memory, Future[list[Array]]] = {}
        started = [(probe, self._start(pool, outputs, probe, known)) for probe in probes]
        return lambda: [self._finish(outputs, probe, parts) for probe, parts in started]

    def _start(
        self,
        pool: Executor,
        outputs: Sequence[str],
        probe: Probe,
        known: dict[_Memory, Future[list[Array]]],
    ) -> list[Future[list[Array]]]:
        if not probe.given:
            return [pool.submit(self._session.run, outputs, probe.batch)]
        found = []
        for part in _singles(probe.batch):
            key = _memory(part)
            if key not in known:
                known[key] = pool.submit(self._session.run, outputs, part)
            found.append(known[key])
        return found

    def _finish(
        self, outputs: Sequence[str], probe: Probe, parts: list[Future[list[Array]]]
    ) -> list[Array] | EngineError:
        try:
            found = [part.result() for part in parts]
        except EngineError as error:
            if len(parts) == 1:
                return error
            found = []
        if len(found) == 1:
            return found[0]
        return _joined(found) or self._run_whole(outputs, probe)

    def _run_whole(self, outputs: Sequence[str], probe: Probe) -> list[Array] | EngineError:
        try:
            return self._session.run(outputs, probe.batch)
        except EngineError as error:
            return error


def _memory(batch: Batch) -> _Memory:
    """Return where the arrays of a batch are in memory: parts of the same array are equal."""
    return tuple((a.__array_interface__["data"][0], a.shape, a.strides) for a in batch.values())


def _singles(batch: Batch) -> list[Batch]:
    samples = min((len(array) for array in batch.values()), default=0)
    return [{n: a[i : i + 1] for n, a in batch.items()} for i in range(samples)] or [batch]


def _joined(parts: list[list[Array]]) -> list[Array] | None:
    """Join the outputs of single samples; None where one does not have one row per sample."""
    outputs = list(zip(*parts, strict=True))
    if not outputs or any(
        not isinstance(array, np.ndarray) or array.shape != (1, *output[0].shape[1:])
        for output in outputs
        for array in output
    ):
        return None
    return [np.concatenate(output) for output in outputs]
