"""Guards: discard estimated variances that are not informative.

Real checkpoints have dead channels (ImageNet MobileNetV2 has 34 with a variance under 1e-10,
EfficientNet-Lite0 130 with exactly 0). A channel that is constant over the target would get
variance 0, and its gain would become γ/√ε: 316·γ for ε = 1e-5. Such a channel keeps the source's
variance. It still takes the target's mean, which never amplifies: the constant then maps to β, as
it would in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bn_ops.core.statistics import Float64Array, RunningStatistics

__all__ = ["Guarded", "guard"]

# A variance this far below ε no longer changes the layer's gain: √(1 + 1e-5) is 1 to float32's
# working precision of a normalized value.
_EPS_FRACTION = 1e-5

# Standard deviation relative to the mean below which a float32 channel holds only rounding noise:
# 2^-20 is eight units in the last place.
_RELATIVE_RESOLUTION = 2.0**-20


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """Statistics after the guards, and the channels that the guards changed.

    Attributes:
        statistics: the statistics to store.
        dead: channels without variance in source and target; they keep the source variance.
        silenced: channels with variance in the source but not in the target; they keep the source
            variance too and cause a warning.
        amplification: largest gain ratio √((σs² + ε)/(σ² + ε)) over the channels; 1 = unchanged.
    """

    statistics: RunningStatistics
    dead: tuple[int, ...]
    silenced: tuple[int, ...]
    amplification: float


def guard(source: RunningStatistics, estimated: RunningStatistics, *, eps: float) -> Guarded:
    """Return the estimate with the source's variance where the estimated one is not informative.

    Args:
        source: the statistics stored in the model.
        estimated: the estimator's result.
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
