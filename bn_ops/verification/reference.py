"""Run a reference model and candidates on the same samples and compare their outputs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bn_ops.core.batches import named_batches
from bn_ops.core.reduction import thread_count
from bn_ops.core.signature import is_floating
from bn_ops.diagnostics.report import OutputParity, Parity
from bn_ops.engines.onnx.rebatch import fixed_batch_size, rebatch
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import EngineError, OptionError
from bn_ops.folding.result import Folded
from bn_ops.verification.compare import Finding, compare, rounding, share
from bn_ops.verification.decision import OutputFindings, refolded
from bn_ops.verification.exact_comparison import (
    ExactComparison,
    Expected,
    WideRun,
    start_float64,
)
from bn_ops.verification.float64 import Float64Model, NotExactError, evaluation
from bn_ops.verification.layer_outputs import preserved_outputs
from bn_ops.verification.native import NativeModel
from bn_ops.verification.probes import Probe, synthetic_probes
from bn_ops.verification.rounding_sensitivity import perturb_batch, perturb_model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    from bn_ops.core.signature import Batch
    from bn_ops.verification.decision import ExactWeights

__all__ = ["DEFAULT_SEED", "DEFAULT_THREADS", "Reference", "verify"]

Array = NDArray[np.generic]

_IMPLAUSIBLE = 0.05
"""Difference between float64 and native results, relative to the output's scale, that rounding does
not explain even in bfloat16 networks unless they are ill-conditioned: the two implementations then
interpret an operator differently."""

_IMPLAUSIBLE_FACTOR = 16.0
"""The same, relative to the effect of one unit in the last place on the reference: a network may
amplify rounding until its output is meaningless."""

_PERTURBATIONS = 3
"""Number of random perturbations: each shows the effect of one draw of roundings."""


DEFAULT_THREADS = 2
DEFAULT_SEED = 0

_TOLERANCES: dict[int, float] = {
    onnx.TensorProto.BFLOAT16: 1.6e-2,
    onnx.TensorProto.FLOAT16: 2e-3,
    onnx.TensorProto.FLOAT: 1e-5,
    onnx.TensorProto.DOUBLE: 1e-12,
}
"""Relative error of a correct fold, by the coarsest element type of the model: about twice the
rounding unit for 16-bit types (one multiplication, one addition), and enough for sums of some
thousand terms for the others."""

_MAX_SMALL_ELEMENTS = 8
"""Elements up to which a stored tensor is assumed to hold sizes or bounds, not weights."""


def verify(
    reference: onnx.ModelProto,
    candidate: onnx.ModelProto | Folded,
    batches: Iterable[Any],
    *,
    tolerance: float | None = None,
    threads: int | None = DEFAULT_THREADS,
    seed: int = DEFAULT_SEED,
) -> Parity:
    """Run two models on the same samples and report how much their outputs differ.

    Neither model is changed. For the criteria see `bn_ops.verification.decision`.

    Args:
        reference: the unfolded model.
        candidate: the folded model, with the same inputs and outputs; or the result of
            `bn_ops.fold`, which includes the exact weights.
        batches: calibration samples, as for `bn_ops.recalibrate`; if empty, only synthetic samples
            are run.
        tolerance: allowed relative error; None means 1e-5 for float32, 2e-3 for float16 and 1e-12
            for float64 models, and more where rounding alone moves the reference further.
        threads: threads, over which samples are spread; None means every core.
        seed: seed of the random samples.

    Raises:
        OptionError: the models differ in their inputs or outputs.
        ModelInvalidError: onnxruntime cannot load the reference.
        EngineError: onnxruntime cannot run the reference on the caller's batches.
        BatchError: a batch does not fit the model.
    """
    prepared = Reference(reference, batches, threads=threads, seed=seed)
    return prepared.verify(candidate, tolerance=tolerance)


class Reference:
    """A model with its outputs on a set of samples, for comparing any number of candidates.

    Args:
        model: the unfolded model; not changed.
        batches: calibration samples.
        threads: threads, over which samples are spread; None means every core.
        seed: seed of the random samples.
    """

    def __init__(
        self, model: onnx.ModelProto, batches: Iterable[Any], *, threads: int | None, seed: int
    ) -> None:
        self._model = model
        self._threads = threads
        self._seed = seed
        self._names = list(output_names(model))
        self._notes: list[str] = []
        self._samples = 0
        self._perturbed: list[list[Finding]] | None = None
        self._preserved = preserved_outputs(model)
        self._float64 = self._widened()
        self._runs: list[tuple[Probe, list[Array]]] = []
        self._expected = self._run(list(self._probes(batches)))

    @property
    def in_float64(self) -> bool:
        """Return whether some outputs were computed in float64."""
        return any(expected.exact is not None for expected in self._expected)

    def verify(
        self, candidate: onnx.ModelProto | Folded, *, tolerance: float | None = None
    ) -> Parity:
        """Compare a candidate with the reference; see the function `verify`."""
        model, weights = (
            (candidate.model, candidate.exact)
            if isinstance(candidate, Folded)
            else (candidate, None)
        )
        self._check_signature(model)
        allowed = default_tolerance(self._model) if tolerance is None else tolerance
        findings = [OutputFindings(name) for name in self._names]
        notes: list[str] = []
        with self._pool() as pool:
            exact = None if weights is None else self._start_exact(pool, model, weights)
            probes = [expected.probe for expected in self._expected]
            native = self._open(model).start_all(pool, self._names, probes)
            if exact is not None:
                # The weights are compared while the models run.
                notes += exact.add_to(findings)
            for expected, arrays in zip(self._expected, native(), strict=True):
                self._add(findings, expected, _required(arrays))
            if weights is None and tolerance is None and _exceeded(findings, allowed):
                weights = refolded(self._model, model)
                if weights is not None:
                    notes += self._start_exact(pool, model, weights).add_to(findings)
        outputs = tuple(
            output.decide(
                allowed, strict=tolerance is not None, perturbed=partial(self._sensitivity, i)
            )
            for i, output in enumerate(findings)
        )
        return self._parity(outputs, allowed, notes)

    def _add(self, findings: list[OutputFindings], expected: Expected, found: list[Array]) -> None:
        for index, output in enumerate(findings):
            native = expected.native[index]
            exact = None if expected.exact is None else expected.exact[index]
            finding = compare(native, found[index], exact)
            output.native.append((expected.probe.label, finding))
            if exact is not None:
                output.own.append(rounding(native, exact))
            if expected.probe.usual:
                output.usual = max(output.usual, finding.scale)

    @contextmanager
    def _pool(self) -> Iterator[Executor]:
        """Open the threads on which models run, in onnxruntime and in float64."""
        with evaluation(), ThreadPoolExecutor(thread_count(self._threads), "verify") as pool:
            yield pool

    def _start_exact(
        self, pool: Executor, model: onnx.ModelProto, weights: ExactWeights
    ) -> ExactComparison:
        return ExactComparison(
            pool,
            self._model,
            model,
            weights,
            outputs=self._names,
            expected=self._expected,
            preserved=self._preserved,
        )

    def _sensitivity(self, output: int) -> list[Finding]:
        """Return how rounding-sized perturbations move an output of the reference, per batch."""
        if self._perturbed is None:
            self._perturbed = [[] for _ in self._names]
            for number in range(_PERTURBATIONS):
                generator = np.random.default_rng((self._seed, number))
                self._perturb(generator, self._perturbed)
        return self._perturbed[output]

    def _perturb(self, generator: np.random.Generator, found: list[list[Finding]]) -> None:
        model = self._open(perturb_model(self._model, generator))
        probes = [
            replace(probe, batch=perturb_batch(probe.batch, generator)) for probe, _ in self._runs
        ]
        perturbed = model.run_all(self._names, probes)
        for (_, native), outputs in zip(self._runs, perturbed, strict=True):
            for index, output in enumerate(_required(outputs)):
                found[index].append(compare(native[index], output, None))

    def _run(self, probes: Sequence[Probe]) -> list[Expected]:
        """Run the reference on every probe, and on the selected ones in float64."""
        chosen = [] if self._float64 is None else [probe for probe in probes if probe.exact]
        with self._pool() as pool:
            wide: dict[str, Future[WideRun]] = {}
            if self._float64 is not None:
                runs = start_float64(pool, self._float64, self._names, chosen, self._preserved)
                wide = {probe.label: run for probe, run in zip(chosen, runs, strict=True)}
            native = self._open(self._model).start_all(pool, self._names, probes)
            self._runs += self._usable(probes, native())
            found = self._plausible(wide)
        if not self._runs:
            raise EngineError(
                f"nothing to compare: no synthetic sample runs ({self._notes[-1]}); provide samples"
            )
        return [
            Expected(probe=probe, native=native, exact=exact, layers=layers)
            for probe, native in self._runs
            for exact, layers in (found.get(probe.label, (None, {})),)
        ]

    def _usable(
        self, probes: Sequence[Probe], found: Sequence[list[Array] | EngineError]
    ) -> Iterator[tuple[Probe, list[Array]]]:
        for probe, outputs in zip(probes, found, strict=True):
            if isinstance(outputs, EngineError) and probe.synthetic:
                self._notes.append(f"{probe.label}: skipped, {_first_line(outputs)}")
            else:
                yield probe, _required(outputs)

    def _open(self, model: onnx.ModelProto) -> NativeModel:
        """Open a model as the element types of the reference require."""
        optimize = default_tolerance(self._model) == _TOLERANCES[onnx.TensorProto.FLOAT]
        return NativeModel(model, threads=self._threads, optimize=optimize)

    def _widened(self) -> Float64Model | None:
        try:
            return Float64Model(self._model)
        except NotExactError as error:
            self._notes.append(f"not compared in float64: {error}")
            return None

    def _plausible(self, started: Mapping[str, Future[WideRun]]) -> dict[str, WideRun]:
        """Return the results in float64 by probe; none, and note why, if one cannot be used."""
        found: dict[str, WideRun] = {}
        try:
            for probe, native in self._runs:
                if probe.label in started:
                    found[probe.label] = started[probe.label].result()
                    self._check_plausible(native, found[probe.label][0])
        except NotExactError as error:
            self._notes.append(f"not compared in float64: {error}")
            return {}
        return found

    def _check_plausible(self, native: list[Array], exact: list[Array]) -> None:
        """Reject a float64 result far from onnxruntime's: it computes another function."""
        for index, (own, wide) in enumerate(zip(native, exact, strict=True)):
            if own.shape == wide.shape and not (
                is_floating(own.dtype) and np.all(np.isfinite(own))
            ):
                continue
            error = share(rounding(own, wide))
            if error > _IMPLAUSIBLE and error > _IMPLAUSIBLE_FACTOR * self._largest_sensitivity(
                index
            ):
                raise NotExactError("the reference operators of onnx disagree with onnxruntime")

    def _largest_sensitivity(self, output: int) -> float:
        moves = (share(finding) for finding in self._sensitivity(output))
        return max((move for move in moves if np.isfinite(move)), default=0.0)

    def _parity(
        self, outputs: tuple[OutputParity, ...], tolerance: float, notes: Iterable[str]
    ) -> Parity:
        return Parity(
            outputs=outputs,
            samples=self._samples,
            tolerance=tolerance,
            passed=bool(outputs) and all(output.passed for output in outputs),
            max_relative_error=max(output.max_relative_error for output in outputs),
            reference="float64" if self.in_float64 else "native",
            notes=(*self._notes, *notes),
        )

    def _probes(self, batches: Iterable[Any]) -> Iterator[Probe]:
        inputs = model_inputs(self._model)
        size = fixed_batch_size(inputs)
        example: Batch | None = None
        for group in rebatch(named_batches(batches, inputs), size):
            example = group.arrays if example is None else example
            self._samples += group.samples
            yield Probe(
                label="given samples",
                batch=group.arrays,
                synthetic=False,
                given=True,
                usual=True,
            )
        yield from synthetic_probes(
            inputs, example, size=size, seed=self._seed, affordable=self._affordable
        )

    def _affordable(self, batch: Batch) -> int:
        return 1 if self._float64 is None else self._float64.affordable(batch)

    def _check_signature(self, candidate: onnx.ModelProto) -> None:
        ours = [info.name for info in model_inputs(self._model)]
        theirs = [info.name for info in model_inputs(candidate)]
        if ours != theirs or self._names != list(output_names(candidate)):
            raise OptionError(
                f"the models differ in inputs or outputs: {ours} → {self._names}, "
                f"{theirs} → {list(output_names(candidate))}"
            )


def _exceeded(findings: list[OutputFindings], tolerance: float) -> bool:
    return any(not output.within(tolerance) for output in findings)


def _required(outputs: list[Array] | EngineError) -> list[Array]:
    if isinstance(outputs, EngineError):
        raise outputs
    return outputs


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def default_tolerance(model: onnx.ModelProto) -> float:
    """Return the tolerance of the coarsest float type among weights, inputs and outputs."""
    types = {_element_type(value) for value in (*model.graph.input, *model.graph.output)}
    types |= {
        tensor.data_type
        for tensor in model.graph.initializer
        if len(tensor.dims) > 0 and _elements(tensor) > _MAX_SMALL_ELEMENTS
    }
    known = [_TOLERANCES[kind] for kind in types if kind in _TOLERANCES]
    return max(known, default=_TOLERANCES[onnx.TensorProto.FLOAT])


def _elements(tensor: onnx.TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


def _element_type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type


def output_names(model: onnx.ModelProto) -> Iterator[str]:
    """Yield the names of the outputs, in order."""
    return (value.name for value in model.graph.output)
