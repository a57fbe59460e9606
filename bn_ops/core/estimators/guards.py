"""Guards: where an estimated variance says nothing, it is not used.

Real checkpoints have dead channels (ImageNet MobileNetV2 has 34 with a variance under 1e-10,
EfficientNet-Lite0 130 with exactly 0). A channel that is constant over the target would get
variance 0, and its gain would become γ/√ε: 316× for ε = 1e-5. Such a channel keeps the source's
variance. Its mean is still the target's: a mean never amplifies, and with it the constant maps to
β, as it would in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bn_ops.core.statistics import Float64Array, RunningStatistics

__all__ = ["Guarded", "guard"]

# A variance this far below ε no longer changes the layer's gain: √(1 + 1e-5) is 1 to float32's
# working precision of a normalised value.
_EPS_FRACTION = 1e-5

# Spread relative to the mean below which a float32 channel holds rounding noise and nothing else:
# 2^-20 is eight units in the last place.
_RELATIVE_RESOLUTION = 2.0**-20


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """Statistics after the guards, and what they did.

    Attributes:
        statistics: what may be stored.
        dead: channels without variance in source and target; they keep the source variance.
        silenced: channels with variance in the source but not in the target; likewise kept, and
            worth a warning.
        amplification: largest gain ratio √((σs² + ε)/(σ² + ε)) over the channels; 1 = unchanged.
    """

    statistics: RunningStatistics
    dead: tuple[int, ...]
    silenced: tuple[int, ...]
    amplification: float


def guard(source: RunningStatistics, estimated: RunningStatistics, *, eps: float) -> Guarded:
    """Replace variances that carry no information by the source's.

    Args:
        source: what the model stored before.
        estimated: what the estimator says.
        eps: the layer's epsilon.
    """
    floor = _floor(estimated.mean, eps)
    flat = ~(estimated.var > floor)
    was_flat = ~(source.var > _floor(source.mean, eps))
    var = np.where(flat, source.var, estimated.var)
    gain = np.sqrt((np.maximum(source.var, 0) + eps) / (np.maximum(var, 0) + eps))
    return Guarded(
        statistics=RunningStatistics(mean=estimated.mean, var=var),
        dead=_indices(flat & was_flat),
        silenced=_indices(flat & ~was_flat),
        amplification=float(gain.max(initial=1.0)),
    )


def _floor(mean: Float64Array, eps: float) -> Float64Array:
    return np.maximum(_EPS_FRACTION * eps, (_RELATIVE_RESOLUTION * mean) ** 2)


def _indices(mask: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.flatnonzero(mask))
