"""Prior: the source counts as a number of pseudo-samples."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bn_ops.core.estimators.base import TargetMoments, is_number
from bn_ops.core.statistics import RunningStatistics
from bn_ops.errors import OptionError

__all__ = ["Prior"]


@dataclass(frozen=True, slots=True)
class Prior:
    """Weigh the source as N pseudo-samples against the n samples of the target.

    With λ = N / (N + n): mean = λ·μs + (1 - λ)·μt, var = λ·σs² + (1 - λ)·σt². With `mixture`, var
    gains λ(1 - λ)(μs - μt)², which makes it the variance of the mixture of the two domains.

    Args:
        samples: N ≥ 0; 0 is equivalent to `Replace`.
        mixture: whether to add the between-domain term.

    Source: Schneider et al. 2020, "Improving robustness against common corruptions by covariate
        shift adaptation", equation 3 (linear form); the mixture term is the law of total variance.
    """

    samples: float
    mixture: bool = False

    per_batch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        # Compared without conversion: `isfinite` fails on integers beyond the range of float.
        if not is_number(self.samples) or not 0 <= self.samples <= sys.float_info.max:
            raise OptionError(f"Prior needs a finite number of samples ≥ 0, got {self.samples!r}")

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the weighted statistics."""
        keep = self.samples / (self.samples + moments.samples)
        mean = keep * source.mean + (1 - keep) * moments.mean
        var = keep * source.var + (1 - keep) * moments.var
        if self.mixture:
            var = var + keep * (1 - keep) * (source.mean - moments.mean) ** 2
        return RunningStatistics(mean=mean, var=var)

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form."""
        return {"name": "prior", "samples": self.samples, "mixture": self.mixture}
