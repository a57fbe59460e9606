"""Running both models on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.batches import named_batches
from bn_ops.errors import EngineError, OptionError
from bn_ops.onnx_engine.regroup import demanded_size, regroup
from bn_ops.onnx_engine.signature import model_inputs
from bn_ops.verify.compare import Tally, compare
from bn_ops.verify.model import default_tolerance, open_model, output_names
from bn_ops.verify.probes import Probe, made_up
from bn_ops.verify.result import OutputParity, Parity

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

    from bn_ops.signature import Batch

__all__ = ["DEFAULT_SEED", "DEFAULT_THREADS", "Reference", "verify"]

Array = NDArray[np.generic]

DEFAULT_THREADS = 2
DEFAULT_SEED = 0


def verify(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto,
    batches: Iterable[Any],
    *,
    tolerance: float | None = None,
    threads: int = DEFAULT_THREADS,
    seed: int = DEFAULT_SEED,
) -> Parity:
    """Run two models on the same samples and tell how far apart their outputs are.

    Neither model is changed.

    Args:
        reference: the unfolded model.
        candidate: the folded model, with the same inputs and outputs.
        batches: calibration samples, as for `bn_ops.recalibrate`; may be empty, then only made-up
            samples are run.
        tolerance: allowed relative error; None takes 1e-5 for float32, 2e-3 for float16, 1e-12 for
            float64 models.
        threads: threads within an operator.
        seed: of the random samples.

    Raises:
        OptionError: the models have other inputs or outputs than each other.
        ModelInvalidError: onnxruntime cannot load the reference.
        EngineError: onnxruntime cannot run the reference on the caller's batches.
        BatchError: a batch does not fit the model.
    """
    prepared = Reference(reference, batches, threads=threads, seed=seed)
    return prepared.judge(candidate, tolerance=tolerance)


class Reference:
    """A model with its outputs on a set of samples, to hold any number of candidates against."""

    def __init__(
        self, model: onnx.ModelProto, batches: Iterable[Any], *, threads: int, seed: int
    ) -> None:
        self._model = model
        self._threads = threads
        self._names = list(output_names(model))
        self._notes: list[str] = []
        self._samples = 0
        session = open_model(model, threads=threads)
        self._runs: list[tuple[Probe, list[Array]]] = []
        for probe in self._probes(batches, seed):
            try:
                self._runs.append((probe, session.run(self._names, probe.batch)))
            except EngineError as error:
                if not probe.made_up:
                    raise
                self._notes.append(f"{probe.label}: not run, {_first_line(error)}")

    def judge(self, candidate: onnx.ModelProto, *, tolerance: float | None = None) -> Parity:
        """Hold a candidate against the reference; arguments and errors are those of `verify`."""
        self._check_ends(candidate)
        allowed = default_tolerance(self._model) if tolerance is None else tolerance
        tallies = [Tally(name) for name in self._names]
        session = open_model(candidate, threads=self._threads)
        for probe, expected in self._runs:
            found = session.run(self._names, probe.batch)
            for tally, want, got in zip(tallies, expected, found, strict=True):
                finding = compare(want, got, None)
                tally.add(probe.label, finding, None, usual=probe.usual)
        outputs = tuple(tally.judge(allowed) for tally in tallies)
        return self._parity(outputs, allowed)

    def _parity(self, outputs: tuple[OutputParity, ...], tolerance: float) -> Parity:
        return Parity(
            outputs=outputs,
            samples=self._samples,
            tolerance=tolerance,
            passed=bool(outputs) and all(output.passed for output in outputs),
            max_relative_error=max(output.max_relative_error for output in outputs),
            reference="native",
            notes=tuple(self._notes),
        )

    def _probes(self, batches: Iterable[Any], seed: int) -> Iterator[Probe]:
        inputs = model_inputs(self._model)
        size = demanded_size(inputs)
        example: Batch | None = None
        for group in regroup(named_batches(batches, inputs), size):
            example = group.arrays if example is None else example
            self._samples += group.samples
            yield Probe(label="given samples", batch=group.arrays, made_up=False, usual=True)
        yield from made_up(inputs, example, size=size, seed=seed)

    def _check_ends(self, candidate: onnx.ModelProto) -> None:
        ours = [info.name for info in model_inputs(self._model)]
        theirs = [info.name for info in model_inputs(candidate)]
        if ours != theirs or self._names != list(output_names(candidate)):
            raise OptionError(
                f"the models differ in inputs or outputs: {ours} → {self._names}, "
                f"{theirs} → {list(output_names(candidate))}"
            )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
