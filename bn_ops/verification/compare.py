"""Compare two output arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.core.signature import is_floating

__all__ = ["Finding", "compare", "rounding", "share"]

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The difference in one output for one batch.

    Attributes:
        largest: largest absolute difference, in the output's unit; for discrete outputs the share
            of elements that differ.
        mean: mean absolute difference, in the same unit.
        scale: largest absolute value of the reference; 1 for discrete outputs.
        discrete: whether the output is not floating point.
    """

    largest: float
    mean: float
    scale: float
    discrete: bool = False


def compare(native: Array, candidate: Array, exact: Array | None) -> Finding:
    """Compare a candidate with the native result and, where available, with the float64 one.

    The closer of the two counts: a candidate that agrees with the unfolded model to the last digit
    is correct even where both are far from float64, as in networks that amplify rounding. NaN and
    infinity must be in the same places as in the reference. Where the reference overflows in its
    own element type but not in float64, a candidate that agrees with float64 is correct.
    """
    found = _against(native, candidate, native)
    if exact is None:
        return found
    return min(found, _against(native, candidate, exact), key=share)


def share(finding: Finding) -> float:
    """Return the largest difference divided by the reference's largest value."""
    return finding.largest / finding.scale if finding.scale > 0.0 else finding.largest


def _against(native: Array, candidate: Array, truth: Array) -> Finding:
    if native.shape != candidate.shape or truth.shape != candidate.shape:
        return Finding(largest=np.inf, mean=np.inf, scale=1.0)
    if not (is_floating(native.dtype) and is_floating(candidate.dtype)):
        differing = float(np.mean(native != candidate)) if native.size else 0.0
        return Finding(largest=differing, mean=differing, scale=1.0, discrete=True)
    ours, own, want = (part.astype(np.float64) for part in (candidate, native, truth))
    # Where both overflow in the same way in their own element type, float64 does not count.
    alike = ~np.isfinite(ours) & (_same(ours, own) | _same(ours, want))
    return _finding(ours[~alike], want[~alike])


def rounding(native: Array, exact: Array) -> Finding:
    """Return how far the reference is from its own float64 result."""
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
