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
        rounding: how far rounding alone moves the reference: its largest error against float64,
            where that ran, and the effect of a unit in the last place of every weight and input,
            where that was tried; None where neither was.
        worst: which samples gave the largest error.
        allowed: the error that was allowed: the tolerance, or more where rounding is larger.
        exact_error: largest error of the candidate before its weights were rounded, both models
            in float64; None where that was not to be had.
        fault: why it did not pass, as a clause that begins with "by"; None where it did.
    """

    name: str
    max_relative_error: float
    mean_relative_error: float
    rounding: float | None
    worst: str
    allowed: float
    exact_error: float | None = None
    fault: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the output is as it must be."""
        return self.fault is None

    def to_json(self) -> dict[str, float | str | bool | None]:
        """Return plain JSON values; null for an infinite error, which JSON cannot write."""
        return {
            "name": self.name,
            "max_relative_error": _finite(self.max_relative_error),
            "mean_relative_error": _finite(self.mean_relative_error),
            "rounding": None if self.rounding is None else _finite(self.rounding),
            "worst": self.worst,
            "passed": self.passed,
            "allowed": self.allowed,
            "exact_error": None if self.exact_error is None else _finite(self.exact_error),
            "fault": self.fault,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Parity:
    """Whether two models compute the same, and how nearly.

    Attributes:
        outputs: one entry per output that was compared.
        samples: how many samples of the caller's own were run.
        tolerance: the allowed error. Unless it was given by the caller, an output that rounding
            alone moves by more than this may differ by a few times as much; see
            `bn_ops.verification.verdict`.
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

    @property
    def exact_error(self) -> float | None:
        """Largest error in float64, before the candidate's weights were rounded, if known."""
        errors = [output.exact_error for output in self.outputs]
        known = [error for error in errors if error is not None]
        return max(known) if known and len(known) == len(errors) else None

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values."""
        exact = self.exact_error
        return {
            "outputs": [output.to_json() for output in self.outputs],
            "samples": self.samples,
            "tolerance": self.tolerance,
            "passed": self.passed,
            "max_relative_error": _finite(self.max_relative_error),
            "exact_error": None if exact is None else _finite(exact),
            "reference": self.reference,
            "notes": list(self.notes),
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
