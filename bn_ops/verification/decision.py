"""Decide whether a candidate computes the reference's outputs, even if they amplify rounding.

Theory of operation. Every output must meet two bounds.

In float64, with the weights that folding computed before rounding them (see
`bn_ops.verification.decision`), the two models differ only by float64 rounding. An error of a
thousandth in one channel is ten orders of magnitude above that. The difference must be below 1e-9,
or below `_EXACT_FACTOR` times the rounding that float64 leaves, 2⁻²⁹ of the rounding measured in
the model's own element type, where a network amplifies even that.

In the element types of the file the difference must be below the tolerance. A network that
amplifies rounding exceeds it even without a fold. Where the tolerance is exceeded, the candidate is
therefore compared with the effect of rounding alone on the *reference*: its error against float64,
and the effect of one unit in the last place of every weight and input
(`bn_ops.verification.rounding_sensitivity`). With the float64 comparison sixteen times that effect
is allowed: the algebra is verified, and only a number out of range is left to detect. Without it
four times, and never more than a hundredth, beyond which the comparison would be meaningless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx import numpy_helper

from bn_ops.diagnostics.report import OutputParity
from bn_ops.errors import BnOpsError
from bn_ops.folding.casting import cast
from bn_ops.folding.layers import find_layers
from bn_ops.folding.proto_io import read_graph
from bn_ops.folding.run import fold
from bn_ops.verification.compare import Finding

__all__ = ["ExactWeights", "OutputFindings", "misrounded_tensor", "refolded"]

# Exact weights of a folded model: their float64 values before rounding, which certify the fold.
#
# A stored folded model differs from the unfolded one even in float64, because its weights were
# rounded to the file's element type, and a network may amplify that beyond any fixed tolerance. The
# fold is correct if there are float64 weights, each of which rounds to the stored one, with which
# the folded model computes in float64 what the unfolded one does. The origin of these weights does
# not matter: that they round to the stored ones, and that the outputs agree, is checked.

ExactWeights = Mapping[str, NDArray[np.float64]]
"""Initializer → its exact value; other tensors are exact as stored."""


def misrounded_tensor(model: onnx.ModelProto, weights: ExactWeights) -> str | None:
    """Return the name of a stored tensor that is not its rounded exact value, or None."""
    for tensor in model.graph.initializer:
        exact = weights.get(tensor.name)
        if exact is None:
            continue
        rounded = cast(exact, ir.DataType(tensor.data_type))
        stored = numpy_helper.to_array(tensor)
        if rounded.shape != stored.shape or rounded.tobytes() != stored.tobytes():
            return str(tensor.name)
    return None


def refolded(reference: onnx.ModelProto, candidate: onnx.ModelProto) -> ExactWeights | None:
    """Return the exact weights if the candidate equals the folded reference, else None.

    Layers that the candidate still has are left unfolded.
    """
    try:
        kept = {layer.name: "kept" for layer in find_layers(read_graph(candidate))}
        folded = fold(reference, skip=kept)
    except BnOpsError:
        return None
    return folded.exact if folded.model.graph == candidate.graph else None


_SCALE_FLOOR = 1e-3
"""Lower bound of a batch's scale, as a share of the output's usual scale: an output that happens to
be near zero for one batch need not match to the last digit."""

_EXACT_TOLERANCE = 1e-9
_EXACT_FACTOR = 64.0
_EXACT_LAYER_TOLERANCE = 1e-7
"""Relative error of a channel of a layer: its scale may be a thousandth of the layer's, and sums
that cancel leave less than the channel's own digits."""
_FLOAT64_TO_FLOAT32 = 2.0**-29
"""Rounding unit of float64 over that of float32: 2⁻⁵³/2⁻²⁴. For coarser types it is too large by
2¹³, which makes no difference as long as their rounding stays below 1."""

_PROVEN_FACTOR = 16.0
_UNPROVEN_FACTOR = 4.0
"""Allowed error in multiples of the reference's own rounding error: both models round, folded
weights are rounded once more, and a maximum over few elements varies. Two normal numbers, one of
them the largest of three draws, differ more than sixteenfold about once in five thousand."""

_MAX_EXCUSED = 1e-2
_MAX_EXCUSED_TOLERANCES = 10.0
"""Largest error attributed to rounding without the float64 comparison: a hundredth, or ten times
the tolerance of coarse types."""

_DISCRETE_TOLERANCE = 1e-3
"""Share of integer outputs (labels, masks) that may differ: rounding reverses ties."""


@dataclass(slots=True)
class OutputFindings:
    """All findings about one output.

    Attributes:
        name: the output.
        native: name of the samples, and difference of the candidate from the reference.
        exact: the same with both models in float64, where available.
        own: difference of the reference from its own float64 result, where available.
        usual: the output's usual scale; 0 until a batch shows it.
        misrounded: name of a stored weight that is not the rounded result of folding.
        layer: largest relative difference of a channel of a layer's output, with both models in
            float64, and the name of the tensor; see `bn_ops.verification.layer_outputs`.
    """

    name: str
    native: list[tuple[str, Finding]] = field(default_factory=list)
    exact: list[tuple[str, Finding]] = field(default_factory=list)
    own: list[Finding] = field(default_factory=list)
    usual: float = 0.0
    misrounded: str | None = None
    layer: tuple[float, str] = (0.0, "")

    def within(self, tolerance: float) -> bool:
        """Return whether every batch is within the tolerance."""
        return self._worst(self.native)[0] <= self._tolerance_for_type(tolerance)

    def decide(
        self, tolerance: float, *, strict: bool, perturbed: Callable[[], Iterable[Finding]]
    ) -> OutputParity:
        """Return the output's relative errors and whether they are allowed.

        Args:
            tolerance: allowed error.
            strict: whether it also applies where the reference's own rounding is larger.
            perturbed: measures how far rounding-sized perturbations move the reference's output;
                called only when the tolerance is exceeded.
        """
        error, worst = self._worst(self.native)
        exact = self._worst(self.exact)[0] if self.exact else None
        rounding = self._largest(self.own)
        allowed = self._tolerance_for_type(tolerance)
        if error > allowed and not strict:
            rounding = self._largest([*self.own, *perturbed()])
            allowed = max(allowed, self._excused(allowed, rounding))
        return OutputParity(
            name=self.name,
            max_relative_error=error,
            mean_relative_error=max(self._relative(f.mean, f.scale) for _, f in self.native),
            rounding=rounding,
            worst_samples=worst,
            allowed=allowed,
            exact_error=exact,
            failure=self._failure(error, allowed),
        )

    def _tolerance_for_type(self, tolerance: float) -> float:
        discrete = any(finding.discrete for _, finding in self.native)
        return _DISCRETE_TOLERANCE if discrete else tolerance

    def _excused(self, tolerance: float, rounding: float | None) -> float:
        if rounding is None:
            return 0.0
        if self.exact:
            return _PROVEN_FACTOR * rounding
        limit = max(_MAX_EXCUSED, _MAX_EXCUSED_TOLERANCES * tolerance)
        return min(_UNPROVEN_FACTOR * rounding, limit)

    def _failure(self, error: float, allowed: float) -> str | None:
        if self.misrounded is not None:
            return f"by {self.misrounded!r}, which is not the rounded result of folding"
        if self.exact:
            exact, worst = self._worst(self.exact)
            tolerance = self._tolerance_for_type(_EXACT_TOLERANCE)
            own = self._largest(self.own) or 0.0
            limit = max(tolerance, _EXACT_FACTOR * _FLOAT64_TO_FLOAT32 * own)
            if exact > limit:
                return f"by {exact:.1e} in float64 on {worst} (allowed {limit:.0e})"
            apart, tensor = self.layer
            if apart > max(_EXACT_LAYER_TOLERANCE, limit):
                return f"by {apart:.1e} in float64 in the layer output {tensor!r}"
        if error > allowed:
            return f"by {error:.1e} on {self._worst(self.native)[1]} (allowed {allowed:.0e})"
        return None

    def _worst(self, found: Iterable[tuple[str, Finding]]) -> tuple[float, str]:
        return max(
            ((self._relative(f.largest, f.scale), label) for label, f in found),
            key=lambda pair: pair[0],
        )

    def _largest(self, found: Iterable[Finding]) -> float | None:
        """Return the largest finite error; infinite errors are not due to rounding."""
        errors = (self._relative(f.largest, f.scale) for f in found)
        return max((error for error in errors if np.isfinite(error)), default=None)

    def _relative(self, difference: float, scale: float) -> float:
        """Divide by the scale, but at least by its floor; an output of only zeros has scale 1."""
        floor = max(scale, _SCALE_FLOOR * self.usual)
        return difference / (floor if floor > 0.0 else 1.0)
