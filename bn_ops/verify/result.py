"""What verification found."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["OutputParity", "Parity"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputParity:
    """How far one output of the candidate is from the reference.

    The error of an element is its absolute difference divided by the output's scale: the largest
    absolute value that the reference gives for the same batch, but at least a thousandth of the
    largest that it gives on the caller's own batches (on random ones where there are none).
    Where the reference also ran in float64, the nearer of the two results counts. For outputs that
    are not floating point the error is the share of elements that differ.

    Attributes:
        name: the output.
        max_relative_error: largest error of any element of any batch; infinite where NaN, infinity
            or the shape differ.
        mean_relative_error: largest mean error of any batch.
        rounding: the largest error of the reference itself, in its own element type against
            float64; None where it did not run in float64.
        worst: which samples gave the largest error.
        passed: whether the error is within what is allowed.
    """

    name: str
    max_relative_error: float
    mean_relative_error: float
    rounding: float | None
    worst: str
    passed: bool

    def to_json(self) -> dict[str, float | str | bool | None]:
        """Return plain JSON values; null for an infinite error, which JSON cannot write."""
        return {
            "name": self.name,
            "max_relative_error": _finite(self.max_relative_error),
            "mean_relative_error": _finite(self.mean_relative_error),
            "rounding": None if self.rounding is None else _finite(self.rounding),
            "worst": self.worst,
            "passed": self.passed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Whether two models compute the same, and how nearly.

    Attributes:
        outputs: one entry per output that was compared.
        samples: how many samples of the caller's own were run.
        tolerance: the allowed error. Unless it was given by the caller, an output whose reference
            already loses more than this to rounding may lose a few times as much; see
            `bn_ops.verify.compare`.
        passed: whether every output passed.
        max_relative_error: largest error of any output.
        reference: `float64`, or `native` where the reference ran only in its own element types.
        notes: sentences for a person: why not float64, what was not compared.
    """

    outputs: tuple[OutputParity, ...]
    samples: int
    tolerance: float
    passed: bool
    max_relative_error: float
    reference: str
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {
            "outputs": [output.to_json() for output in self.outputs],
            "samples": self.samples,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "max_relative_error": _finite(self.max_relative_error),
            "reference": self.reference,
            "notes": list(self.notes),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
