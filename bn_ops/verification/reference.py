"""The unfolded model with its outputs on a set of samples, to hold any number of candidates to."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.batches import named_batches
from bn_ops.core.signature import is_floating
from bn_ops.diagnostics.report import OutputParity, Parity
from bn_ops.engines.onnx.rebatch import fixed_batch_size, rebatch
from bn_ops.engines.onnx.signature import model_inputs
from bn_ops.errors import EngineError, OptionError
from bn_ops.folding.result import Folded
from bn_ops.verification.compare import Finding, compare, rounding, share
from bn_ops.verification.conditioning import shaken_batch, shaken_model
from bn_ops.verification.float64 import Float64Model, NotExactError
from bn_ops.verification.model import default_tolerance, open_model, output_names
from bn_ops.verification.probes import Probe, made_up
from bn_ops.verification.verdict import Tally
from bn_ops.verification.witness import refolded, rounds_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import onnx

    from bn_ops.core.signature import Batch
    from bn_ops.verification.witness import Witness

__all__ = ["Reference"]

Array = NDArray[np.generic]

_IMPLAUSIBLE = 0.05
"""Difference between float64 and native results, over the output's scale, that rounding does not
explain even in bfloat16 networks, unless they are ill-conditioned: the two implementations then
understand an operator differently."""

_IMPLAUSIBLE_FACTOR = 16.0
"""The same, over what a unit in the last place does to the reference: a network may amplify
rounding until nothing of its output is left."""

_SHAKES = 3
"""Times that the last digits are moved: each shows what one draw of roundings does."""


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
    """A model with its outputs on a set of samples, to hold any number of candidates against.

    Args:
        model: the unfolded model; not changed.
        batches: calibration samples.
        threads: threads within an operator; None means every core.
        seed: of the random samples.
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
        self._shaken: list[list[Finding]] | None = None
        self._float64 = self._widened()
        self._runs = list(self._run_native(batches))
        if not self._runs:
            raise EngineError(
                f"nothing can be compared: no made-up sample runs ({self._notes[-1]}); give samples"
            )
        exact = self._in_float64()
        self._expected = [
            _Expected(probe=probe, native=native, exact=exact.get(probe.label))
            for probe, native in self._runs
        ]

    @property
    def in_float64(self) -> bool:
        """Whether some of its outputs were computed in float64."""
        return any(expected.exact is not None for expected in self._expected)

    def judge(
        self, candidate: onnx.ModelProto | Folded, *, tolerance: float | None = None
    ) -> Parity:
        """Hold a candidate against the reference; arguments and errors are those of `verify`."""
        model, witness = (
            (candidate.model, candidate.exact)
            if isinstance(candidate, Folded)
            else (candidate, None)
        )
        self._check_ends(model)
        allowed = default_tolerance(self._model) if tolerance is None else tolerance
        tallies = [Tally(name) for name in self._names]
        session = open_model(model, threads=self._threads)
        for expected in self._expected:
            self._add(tallies, expected, session.run(self._names, expected.probe.batch))
        if witness is None and tolerance is None and _exceeded(tallies, allowed):
            witness = refolded(self._model, model)
        notes = [] if witness is None else list(self._prove(tallies, model, witness))
        outputs = tuple(
            tally.judge(allowed, strict=tolerance is not None, shaken=partial(self._moved, i))
            for i, tally in enumerate(tallies)
        )
        return self._parity(outputs, allowed, notes)

    def _add(self, tallies: list[Tally], expected: _Expected, found: list[Array]) -> None:
        for index, tally in enumerate(tallies):
            native = expected.native[index]
            exact = None if expected.exact is None else expected.exact[index]
            finding = compare(native, found[index], exact)
            tally.native.append((expected.probe.label, finding))
            if exact is not None:
                tally.own.append(rounding(native, exact))
            if expected.probe.usual:
                tally.usual = max(tally.usual, finding.scale)

    def _prove(
        self, tallies: list[Tally], model: onnx.ModelProto, witness: Witness
    ) -> Iterator[str]:
        """Compare both models in float64, before the candidate's weights were rounded."""
        elsewhere = rounds_elsewhere(model, witness)
        for tally in tallies:
            tally.misplaced = elsewhere
        chosen = [expected for expected in self._expected if expected.exact is not None]
        if elsewhere is not None or not chosen:
            return
        try:
            exact = Float64Model(model, witness)
            found = [exact.run(self._names, expected.probe.batch) for expected in chosen]
        except NotExactError as error:
            yield f"the fold is not proven in float64: {error}"
            return
        for expected, outputs in zip(chosen, found, strict=True):
            for tally, want, got in zip(tallies, expected.exact or (), outputs, strict=True):
                tally.exact.append((expected.probe.label, compare(want, got, None)))

    def _moved(self, output: int) -> list[Finding]:
        """Measure what last digits do to an output of the reference, batch by batch."""
        if self._shaken is None:
            self._shaken = [[] for _ in self._names]
            for shake in range(_SHAKES):
                generator = np.random.default_rng((self._seed, shake))
                self._shake(generator, self._shaken)
        return self._shaken[output]

    def _shake(self, generator: np.random.Generator, found: list[list[Finding]]) -> None:
        session = open_model(shaken_model(self._model, generator), threads=self._threads)
        for probe, native in self._runs:
            outputs = session.run(self._names, shaken_batch(probe.batch, generator))
            for index, moved in enumerate(outputs):
                found[index].append(compare(native[index], moved, None))

    def _run_native(self, batches: Iterable[Any]) -> Iterator[tuple[Probe, list[Array]]]:
        session = open_model(self._model, threads=self._threads)
        for probe in self._probes(batches):
            try:
                yield probe, session.run(self._names, probe.batch)
            except EngineError as error:
                if not probe.made_up:
                    raise
                self._notes.append(f"{probe.label}: not run, {_first_line(error)}")

    def _widened(self) -> Float64Model | None:
        try:
            return Float64Model(self._model)
        except NotExactError as error:
            self._notes.append(f"not compared in float64: {error}")
            return None

    def _in_float64(self) -> dict[str, list[Array]]:
        """Run the chosen probes in float64; none, with the reason noted, where that fails."""
        found: dict[str, list[Array]] = {}
        if self._float64 is None:
            return found
        try:
            for probe, native in self._runs:
                if probe.exact:
                    found[probe.label] = self._float64.run(self._names, probe.batch)
                    self._check_plausible(native, found[probe.label])
        except NotExactError as error:
            self._notes.append(f"not compared in float64: {error}")
            return {}
        return found

    def _check_plausible(self, native: list[Array], exact: list[Array]) -> None:
        """Distrust a float64 result that is nowhere near onnxruntime's: it is another function."""
        for index, (own, wide) in enumerate(zip(native, exact, strict=True)):
            if own.shape == wide.shape and not (
                is_floating(own.dtype) and np.all(np.isfinite(own))
            ):
                continue
            error = share(rounding(own, wide))
            if error > _IMPLAUSIBLE and error > _IMPLAUSIBLE_FACTOR * self._largest_move(index):
                raise NotExactError("onnx's reference operators disagree with onnxruntime's")

    def _largest_move(self, output: int) -> float:
        moves = (share(finding) for finding in self._moved(output))
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
            yield Probe(label="given samples", batch=group.arrays, made_up=False, usual=True)
        yield from made_up(inputs, example, size=size, seed=self._seed, affordable=self._affordable)

    def _affordable(self, batch: Batch) -> int:
        return 1 if self._float64 is None else self._float64.affordable(batch)

    def _check_ends(self, candidate: onnx.ModelProto) -> None:
        ours = [info.name for info in model_inputs(self._model)]
        theirs = [info.name for info in model_inputs(candidate)]
        if ours != theirs or self._names != list(output_names(candidate)):
            raise OptionError(
                f"the models differ in inputs or outputs: {ours} → {self._names}, "
                f"{theirs} → {list(output_names(candidate))}"
            )


def _exceeded(tallies: list[Tally], tolerance: float) -> bool:
    return any(not tally.within(tolerance) for tally in tallies)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
