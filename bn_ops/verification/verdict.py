"""Whether a candidate computes what the reference does, however much the two amplify rounding.

Theory of operation. Two bounds stand against every output.

In float64, with the weights that folding computed before it rounded them (see
`bn_ops.verification.witness`), the difference of the two models is their float64 rounding and
nothing else. A fault, be it a thousandth in one channel, is ten orders of magnitude above that. It
must be below 1e-9, or below `_EXACT_FACTOR` times the rounding that float64 leaves, 2⁻²⁹ of what
was measured in the model's own element type, where a network amplifies even that.

In the element types of the file the difference must be below the tolerance. A network that
amplifies rounding misses it without any fold, so that where the tolerance is exceeded, the
candidate is measured by what rounding alone does to the *reference*: its error against float64, and
the effect of a unit in the last place of every weight and input
(`bn_ops.verification.conditioning`). With the proof in float64 sixteen times that is allowed: the
algebra is settled, and what is left to notice is a number out of range. Without it four times, and
never more than a hundredth, beyond which nothing could be told any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from bn_ops.diagnostics.report import OutputParity
from bn_ops.verification.compare import Finding

__all__ = ["Tally"]

_SCALE_FLOOR = 1e-3
"""Share of an output's usual scale below which a batch's own scale is not taken: an output that
happens to be near zero for one batch is not held to its last digit."""

_EXACT_TOLERANCE = 1e-9
_EXACT_FACTOR = 64.0
_FLOAT64_TO_FLOAT32 = 2.0**-29
"""Rounding unit of float64 over that of float32: 2⁻⁵³/2⁻²⁴. For coarser types it is too much by
2¹³, which changes nothing as long as their rounding stays below 1."""

_PROVEN_FACTOR = 16.0
_UNPROVEN_FACTOR = 4.0
"""How many times the reference's own rounding error a candidate may be off: both round, folded
weights are rounded once more, and a maximum over few elements scatters. Two normal numbers, one of
them the largest of three draws, differ more than sixteenfold about once in five thousand."""

_MOST_EXCUSED = 1e-2
_MOST_EXCUSED_TOLERANCES = 10.0
"""Error that rounding can excuse at most without proof: a hundredth, or ten times the tolerance of
coarse types."""

_DISCRETE_TOLERANCE = 1e-3
"""Share of integer outputs (labels, masks) that may differ: rounding turns ties around."""


@dataclass(slots=True)
class Tally:
    """All findings about one output.

    Attributes:
        name: the output.
        native: which samples, and how far the candidate is from the reference.
        exact: the same of the two in float64, where that was to be had.
        own: how far the reference is from its own float64 result, likewise.
        usual: the output's usual scale; 0 while no batch showed it.
        misplaced: a stored weight that is not what folding computed, rounded once.
    """

    name: str
    native: list[tuple[str, Finding]] = field(default_factory=list)
    exact: list[tuple[str, Finding]] = field(default_factory=list)
    own: list[Finding] = field(default_factory=list)
    usual: float = 0.0
    misplaced: str | None = None

    def within(self, tolerance: float) -> bool:
        """Tell whether the tolerance holds as it is."""
        return self._worst(self.native)[0] <= self._least_tolerance(tolerance)

    def judge(
        self, tolerance: float, *, strict: bool, shaken: Callable[[], Iterable[Finding]]
    ) -> OutputParity:
        """Divide by scales and decide.

        Args:
            tolerance: allowed error.
            strict: whether that holds even where the reference's own rounding is larger.
            shaken: measures how far last digits move the reference's output; asked only when
                the tolerance is exceeded.
        """
        error, worst = self._worst(self.native)
        exact = self._worst(self.exact)[0] if self.exact else None
        rounding = self._largest(self.own)
        allowed = self._least_tolerance(tolerance)
        if error > allowed and not strict:
            rounding = self._largest([*self.own, *shaken()])
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

    def _least_tolerance(self, tolerance: float) -> float:
        discrete = any(finding.discrete for _, finding in self.native)
        return _DISCRETE_TOLERANCE if discrete else tolerance

    def _excused(self, tolerance: float, rounding: float | None) -> float:
        if rounding is None:
            return 0.0
        if self.exact:
            return _PROVEN_FACTOR * rounding
        most = max(_MOST_EXCUSED, _MOST_EXCUSED_TOLERANCES * tolerance)
        return min(_UNPROVEN_FACTOR * rounding, most)

    def _failure(self, error: float, allowed: float) -> str | None:
        if self.misplaced is not None:
            return f"by {self.misplaced!r}, which is not what folding computed, rounded once"
        if self.exact:
            exact, worst = self._worst(self.exact)
            least = self._least_tolerance(_EXACT_TOLERANCE)
            own = self._largest(self.own) or 0.0
            limit = max(least, _EXACT_FACTOR * _FLOAT64_TO_FLOAT32 * own)
            if exact > limit:
                return f"by {exact:.1e} in float64 on {worst} (allowed {limit:.0e})"
        if error > allowed:
            return f"by {error:.1e} on {self._worst(self.native)[1]} (allowed {allowed:.0e})"
        return None

    def _worst(self, found: Iterable[tuple[str, Finding]]) -> tuple[float, str]:
        return max(
            ((self._relative(f.largest, f.scale), label) for label, f in found),
            key=lambda pair: pair[0],
        )

    def _largest(self, found: Iterable[Finding]) -> float | None:
        """Return the largest error; what is out of range is no rounding."""
        errors = (self._relative(f.largest, f.scale) for f in found)
        return max((error for error in errors if np.isfinite(error)), default=None)

    def _relative(self, difference: float, scale: float) -> float:
        """Divide by the scale, or by its floor; an output that is zero throughout has scale 1."""
        floor = max(scale, _SCALE_FLOOR * self.usual)
        return difference / (floor if floor > 0.0 else 1.0)
