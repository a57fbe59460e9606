"""Comparing arrays, and what difference is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bn_ops.verify.result import OutputParity

__all__ = ["Finding", "Tally", "compare", "is_floating", "rounding"]

Array = NDArray[np.generic]

_SCALE_FLOOR = 1e-3
"""Share of an output's usual scale below which a batch's own scale is not taken: an output that
happens to be near zero for one batch is not held to its last digit."""

_ROUNDING_FACTOR = 4.0
"""How many times the reference's own rounding error a candidate may be off: both round, folded
weights are rounded once more, and a maximum over few elements scatters."""

_MOST_EXCUSED = 1e-2
_MOST_EXCUSED_TOLERANCES = 10.0
"""Error that rounding can excuse at most: a hundredth, or ten times the tolerance of coarse types.
A text detector whose output is a sigmoid near 1e-4 everywhere loses 2e-3 of that scale to float32
without any fold; beyond a hundredth nothing could be told any more."""

_DISCRETE_TOLERANCE = 1e-3
"""Share of integer outputs (labels, masks) that may differ: rounding turns ties around."""


def is_floating(array: Array) -> bool:
    """Tell whether an array holds floating-point numbers, bfloat16 included."""
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One output, one batch.

    Attributes:
        largest: largest absolute difference, in the output's unit; for discrete outputs the share
            of differing elements.
        mean: mean absolute difference, likewise.
        scale: largest absolute value of the reference; 1 for discrete outputs.
        discrete: whether the output is not floating point.
    """

    largest: float
    mean: float
    scale: float
    discrete: bool = False


def compare(native: Array, candidate: Array, exact: Array | None) -> Finding:
    """Hold a candidate against the float64 result where there is one, and against the native one.

    The nearer of the two counts: a candidate that agrees with the unfolded model to the last digit
    is right even where both are far from float64, as networks that amplify rounding are. NaN and
    infinity must stand where the reference has them. Where the reference overflows in its own
    element type but not in float64, a candidate that agrees with float64 is right.
    """
    found = _against(native, candidate, native)
    if exact is None:
        return found
    return min(found, _against(native, candidate, exact), key=_share)


def _share(finding: Finding) -> float:
    return finding.largest / finding.scale if finding.scale > 0.0 else finding.largest


def _against(native: Array, candidate: Array, truth: Array) -> Finding:
    if native.shape != candidate.shape or truth.shape != candidate.shape:
        return Finding(largest=np.inf, mean=np.inf, scale=1.0)
    if not (is_floating(native) and is_floating(candidate)):
        differing = float(np.mean(native != candidate)) if native.size else 0.0
        return Finding(largest=differing, mean=differing, scale=1.0, discrete=True)
    ours, own, want = (part.astype(np.float64) for part in (candidate, native, truth))
    # Where both overflow alike in their own element type, float64 has nothing to say.
    alike = ~np.isfinite(ours) & (_same(ours, own) | _same(ours, want))
    return _finding(ours[~alike], want[~alike])


def rounding(native: Array, exact: Array) -> Finding:
    """Find how far the reference itself is from its own float64 result."""
    return _against(native, native, exact)


def _same(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = (left == right) | (np.isnan(left) & np.isnan(right))
    return same


def _finding(ours: NDArray[np.float64], want: NDArray[np.float64]) -> Finding:
    if ours.size == 0:
        return Finding(largest=0.0, mean=0.0, scale=0.0)
    if not (np.all(np.isfinite(ours)) and np.all(np.isfinite(want))):
        return Finding(largest=np.inf, mean=np.inf, scale=1.0)
    difference = np.abs(ours - want)
    return Finding(
        largest=float(difference.max()),
        mean=float(difference.mean()),
        scale=float(np.abs(want).max()),
    )


@dataclass(slots=True)
class Tally:
    """All findings about one output."""

    name: str
    findings: list[tuple[str, bool, Finding]] = field(default_factory=list)
    own: list[Finding] = field(default_factory=list)

    def add(self, label: str, finding: Finding, own: Finding | None, *, usual: bool) -> None:
        """Add a batch: the candidate's finding, and the reference's own against float64.

        Args:
            label: which samples, for a person.
            finding: of the candidate.
            own: of the reference in its element type against float64, where that ran.
            usual: whether the batch shows the output's usual scale.
        """
        self.findings.append((label, usual, finding))
        if own is not None:
            self.own.append(own)

    def judge(self, tolerance: float, *, strict: bool) -> OutputParity:
        """Divide by scales and decide.

        Args:
            tolerance: allowed error.
            strict: whether that holds even where the reference's own rounding is larger.
        """
        usual = max((f.scale for _, usual, f in self.findings if usual), default=0.0)
        largest = [(_ratio(f.largest, f.scale, usual), label) for label, _, f in self.findings]
        means = [_ratio(f.mean, f.scale, usual) for _, _, f in self.findings]
        worst, label = max(largest, key=lambda pair: pair[0])
        own = [_ratio(f.largest, f.scale, usual) for f in self.own]
        rounding = max(own) if own else None
        return OutputParity(
            name=self.name,
            max_relative_error=worst,
            mean_relative_error=max(means),
            rounding=rounding,
            worst=label,
            passed=worst <= self._allowed(tolerance, None if strict else rounding),
        )

    def _allowed(self, tolerance: float, rounding: float | None) -> float:
        if any(finding.discrete for _, _, finding in self.findings):
            return _DISCRETE_TOLERANCE
        if rounding is None or not np.isfinite(rounding):
            return tolerance
        most = max(_MOST_EXCUSED, _MOST_EXCUSED_TOLERANCES * tolerance)
        return max(tolerance, min(_ROUNDING_FACTOR * rounding, most))


def _ratio(difference: float, scale: float, usual: float) -> float:
    """Divide by the scale, or by its floor; an output that is zero throughout has scale 1."""
    floor = max(scale, _SCALE_FLOOR * usual)
    return difference / (floor if floor > 0.0 else 1.0)
