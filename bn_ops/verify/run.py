"""Running both models on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.batches import named_batches
from bn_ops.errors import EngineError, OptionError
from bn_ops.onnx_engine.regroup import demanded_size, regroup
from bn_ops.onnx_engine.signature import model_inputs
from bn_ops.verify.compare import Tally, compare, is_floating, rounding
from bn_ops.verify.float64 import Float64Model, NotExactError
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

_IMPLAUSIBLE = 0.05
"""Difference between float64 and native results, over the output's scale, that rounding does not
explain even in bfloat16 networks: the two implementations then understand an operator differently.
"""


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
            float64 models, and more where the reference's own rounding error is larger.
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Expected:
    """What the reference gives for a probe.

    Attributes:
        probe: the samples.
        native: its outputs in its own element types.
        exact: its outputs in float64, where they were computed.
    """

    probe: Probe
    native: list[Array]
    exact: list[Array] | None


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
        runs: list[tuple[Probe, list[Array]]] = []
        for probe in self._probes(batches, seed):
            try:
                runs.append((probe, session.run(self._names, probe.batch)))
            except EngineError as error:
                if not probe.made_up:
                    raise
                self._notes.append(f"{probe.label}: not run, {_first_line(error)}")
        exact = self._in_float64(runs)
        self._expected = [
            _Expected(probe=probe, native=native, exact=exact.get(probe.label))
            for probe, native in runs
        ]

    def judge(self, candidate: onnx.ModelProto, *, tolerance: float | None = None) -> Parity:
        """Hold a candidate against the reference; arguments and errors are those of `verify`."""
        self._check_ends(candidate)
        allowed = default_tolerance(self._model) if tolerance is None else tolerance
        tallies = [Tally(name) for name in self._names]
        session = open_model(candidate, threads=self._threads)
        for expected in self._expected:
            found = session.run(self._names, expected.probe.batch)
            self._add(tallies, expected, found)
        return self._parity(
            tuple(tally.judge(allowed, strict=tolerance is not None) for tally in tallies), allowed
        )

    def _add(self, tallies: list[Tally], expected: _Expected, found: list[Array]) -> None:
        for index, tally in enumerate(tallies):
            native = expected.native[index]
            exact = None if expected.exact is None else expected.exact[index]
            tally.add(
                expected.probe.label,
                compare(native, found[index], exact),
                None if exact is None else rounding(native, exact),
                usual=expected.probe.usual,
            )

    def _in_float64(self, runs: list[tuple[Probe, list[Array]]]) -> dict[str, list[Array]]:
        """Run the chosen probes in float64; none, with the reason noted, where that fails."""
        found: dict[str, list[Array]] = {}
        try:
            model = Float64Model(self._model)
            for probe, native in runs:
                if probe.exact:
                    found[probe.label] = model.run(self._names, probe.batch)
                    self._check_plausible(native, found[probe.label])
        except NotExactError as error:
            self._notes.append(f"not compared in float64: {error}")
            return {}
        return found

    def _check_plausible(self, native: list[Array], exact: list[Array]) -> None:
        """Distrust a float64 result that is nowhere near onnxruntime's: it is another function."""
        for own, wide in zip(native, exact, strict=True):
            if own.shape == wide.shape and not (is_floating(own) and np.all(np.isfinite(own))):
                continue
            finding = rounding(own, wide)
            if finding.largest > _IMPLAUSIBLE * finding.scale:
                raise NotExactError("onnx's reference operators disagree with onnxruntime's")

    def _parity(self, outputs: tuple[OutputParity, ...], tolerance: float) -> Parity:
        exact = any(expected.exact is not None for expected in self._expected)
        return Parity(
            outputs=outputs,
            samples=self._samples,
            tolerance=tolerance,
            passed=bool(outputs) and all(output.passed for output in outputs),
            max_relative_error=max(output.max_relative_error for output in outputs),
            reference="float64" if exact else "native",
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
