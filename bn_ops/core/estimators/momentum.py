"""Momentum: one step of an exponential moving average, for comparison with other tools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bn_ops.core.estimators.base import TargetMoments, is_number
from bn_ops.core.statistics import RunningStatistics
from bn_ops.errors import OptionError

__all__ = ["Momentum"]


@dataclass(frozen=True, slots=True)
class Momentum:
    """Move a fraction m of the way from the source to the target's moments.

    new = (1 - m)·old + m·target. With `method="exact"` the whole stream is one step, so (1 - m) of
    the source remains however long the stream is. With `method="batch"` each batch is one step, as
    in other tools. It is offered for comparison only.

    Args:
        momentum: m in (0, 1], PyTorch's convention (weight of the new value).

    Source: Ioffe & Szegedy 2015, section 3.1 (moving averages); PyTorch `BatchNorm` documentation.
    """

    momentum: float

    per_batch: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_number(self.momentum) or not 0 < self.momentum <= 1:
            raise OptionError(f"Momentum needs a weight in (0, 1], got {self.momentum!r}")

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the averaged statistics."""
        m = self.momentum
        return RunningStatistics(
            mean=(1 - m) * source.mean + m * moments.mean,
            var=(1 - m) * source.var + m * moments.var,
        )

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form."""
        return {"name": "momentum", "momentum": self.momentum}
