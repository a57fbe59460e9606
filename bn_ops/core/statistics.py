"""Running statistics, as a model stores them for a layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bn_ops.errors import OptionError

__all__ = ["Float64Array", "LayerName", "RunningStatistics"]

LayerName = str
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStatistics:
    """Running mean and variance of one layer, per channel.

    Attributes:
        mean: shape (C,), float64, in the unit of the layer's input.
        var: shape (C,), float64, in the square of that unit; the layer divides by
            √(var + ε). A variance, not a standard deviation.
    """

    mean: Float64Array
    var: Float64Array

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.mean.shape != self.var.shape:
            raise OptionError(
                f"running statistics need two vectors of one length, "
                f"got shapes {self.mean.shape} and {self.var.shape}"
            )
        if self.mean.dtype != np.float64 or self.var.dtype != np.float64:
            raise OptionError(
                "running statistics are float64; cast them once, when they are stored"
            )

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.mean.shape[0])
