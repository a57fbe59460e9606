"""Activations by depth: what reaches each layer under the source and under the new statistics.

Where the statistics fit the data, what a layer hands on has mean 0 and spread 1 before its
scale and shift, at any depth. Under the source's statistics data of a new domain is
off, and each layer adds to what the ones before it have done; the report shows how this grows with
depth and what is left of it afterwards.
"""

from __future__ import annotations

import numpy as np

from bn_ops.core.moments import Moments
from bn_ops.core.statistics import RunningStatistics
from bn_ops.diagnostics.report import ActivationSummary

__all__ = ["activation_summary"]


def activation_summary(
    moments: Moments, stored: RunningStatistics, *, eps: float
) -> ActivationSummary:
    """Sum up one layer's input and how its statistics fit it.

    Args:
        moments: what reached the layer.
        stored: the statistics that the layer normalised with then.
        eps: the layer's epsilon.

    Returns:
        Averages over channels in the input's own unit, and medians over channels of the normalised
        input's, so that a few dead channels do not speak for a whole layer.
    """
    var = moments.var_population
    divisor = np.sqrt(np.maximum(stored.var, 0) + eps)
    with np.errstate(all="ignore"):
        return ActivationSummary(
            mean=float(np.mean(moments.mean)),
            spread=float(np.sqrt(np.mean(var))),
            normalised_shift=float(np.median(np.abs(moments.mean - stored.mean) / divisor)),
            normalised_spread=float(np.median(np.sqrt(var) / divisor)),
        )
