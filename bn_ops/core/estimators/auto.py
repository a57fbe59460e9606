"""Auto: choose between source and target statistics by the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from bn_ops.core.estimators.base import TargetMoments
from bn_ops.core.statistics import RunningStatistics
from bn_ops.errors import OptionError

__all__ = ["Auto"]


@dataclass(frozen=True, slots=True)
class Auto:
    """Let the run choose how far to move from the source to the target, without labels.

    The run measures the target as `Replace` does, compares the predictions of a few candidates on
    at most 64 samples, and stores the statistics of the best one, which can be the source's own.
    `bn_ops.auto` holds the rule; `docs/auto.md` explains it with its measured rates.

    Args:
        varied: True declares that the stream holds all classes about as they occur in use; False
            that it does not. None decides by the predictions, which cannot distinguish a network
            that is broken by a domain shift from a stream of few classes.
    """

    varied: bool | None = None

    per_batch: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not (self.varied is None or isinstance(self.varied, bool)):
            raise OptionError(f"Auto: varied is a boolean, got {self.varied!r}")

    def __call__(self, source: RunningStatistics, moments: TargetMoments, /) -> RunningStatistics:
        """Return the target's moments: what a run measures before it chooses."""
        del source
        return RunningStatistics(mean=moments.mean, var=moments.var)

    def to_json(self) -> Mapping[str, str | int | float | bool]:
        """Return the JSON form; `varied` is left out where it was not declared."""
        return {"name": "auto"} if self.varied is None else {"name": "auto", "varied": self.varied}
