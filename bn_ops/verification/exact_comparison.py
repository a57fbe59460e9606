"""Compare a folded model with the unfolded one in float64, while other work goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bn_ops.verification.compare import compare
from bn_ops.verification.decision import misrounded_tensor
from bn_ops.verification.float64 import Float64Model, NotExactError
from bn_ops.verification.layer_outputs import (
    Signature,
    shared_outputs,
    signature,
    worst_layer,
    worst_weight,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor, Future

    import onnx

    from bn_ops.verification.decision import ExactWeights, OutputFindings
    from bn_ops.verification.probes import Probe

__all__ = ["ExactComparison", "Expected", "WideRun", "start_float64"]

Array = NDArray[np.generic]

WideRun = tuple[list[Array], dict[str, Signature]]
"""Outputs in float64, and the signatures of outputs of layers by tensor."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expected:
    """The outputs of the reference for one probe.

    Attributes:
        probe: the samples.
        native: outputs in the model's own element types.
        exact: outputs in float64, where they were computed.
        layers: preserved outputs of layers in float64, by tensor.
    """

    probe: Probe
    native: list[Array]
    exact: list[Array] | None
    layers: Mapping[str, Signature]


def start_float64(
    pool: Executor,
    model: Float64Model,
    outputs: Sequence[str],
    probes: Sequence[Probe],
    layers: Sequence[str],
) -> list[Future[WideRun]]:
    """Start a model on some probes, within `bn_ops.verification.float64.evaluation`."""
    batches = [probe.batch for probe in probes]
    return model.start_all(pool, outputs, batches, summarize=signature, summarized=layers)


class ExactComparison:
    """A candidate in float64, with its weights before rounding, against the reference.

    Args:
        pool: runs the candidate from now on.
        reference: the unfolded model.
        candidate: the folded model.
        weights: the candidate's weights before rounding.
        outputs: names of the outputs of both.
        expected: the results of the reference.
        preserved: outputs of layers of the reference that folding preserves.
    """

    def __init__(
        self,
        pool: Executor,
        reference: onnx.ModelProto,
        candidate: onnx.ModelProto,
        weights: ExactWeights,
        *,
        outputs: Sequence[str],
        expected: Sequence[Expected],
        preserved: Sequence[str],
    ) -> None:
        self._models = reference, candidate
        self._weights = weights
        self._expected = [one for one in expected if one.exact is not None]
        self._layers = shared_outputs(preserved, candidate)
        self._runs: list[Future[WideRun]] = []
        self._refusal: str | None = None
        if not self._expected:
            return
        try:
            model = Float64Model(candidate, weights)
        except NotExactError as error:
            self._refusal = str(error)
            return
        probes = [one.probe for one in self._expected]
        self._runs = start_float64(pool, model, outputs, probes, self._layers)

    def add_to(self, findings: Sequence[OutputFindings]) -> Iterator[str]:
        """Add what the comparison finds to the findings of each output; yield notes."""
        reference, candidate = self._models
        misrounded = misrounded_tensor(candidate, self._weights)
        for output in findings:
            output.misrounded = misrounded
        if misrounded is not None or not self._expected:
            return
        layer = worst_weight(reference, candidate, self._weights)
        try:
            found = [run.result() for run in self._runs]
        except NotExactError as error:
            self._refusal = str(error)
        if self._refusal is not None:
            yield f"the fold was not verified in float64: {self._refusal}"
            return
        for expected, (outputs, layers) in zip(self._expected, found, strict=True):
            for output, want, got in zip(findings, expected.exact or (), outputs, strict=True):
                output.exact.append((expected.probe.label, compare(want, got, None)))
            layer = max(layer, self._worst_layer(expected, layers))
        for output in findings:
            output.layer = max(output.layer, layer)

    def _worst_layer(self, expected: Expected, found: Mapping[str, Signature]) -> tuple[float, str]:
        if not self._layers:
            return (0.0, "")
        known = [expected.layers[name] for name in self._layers]
        return worst_layer(self._layers, known, [found[name] for name in self._layers])
