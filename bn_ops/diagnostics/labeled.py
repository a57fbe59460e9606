"""The interface of scores on labeled samples."""

from __future__ import annotations

from typing import Protocol, TypeVar

from bn_ops.diagnostics.forward_pass import ForwardRunner
from bn_ops.diagnostics.report import Report

__all__ = ["LabeledSamples"]

BatchT_co = TypeVar("BatchT_co", covariant=True)


class LabeledSamples(Protocol[BatchT_co]):
    """Labeled samples that score several sets of statistics, each under a key."""

    def score(self, runner: ForwardRunner[BatchT_co], key: str) -> None:
        """Run the network with its current statistics, and keep the result under a key."""
        ...

    def value(self, key: str) -> float:
        """Return the score under a key; higher is better."""
        ...

    def added_to(self, report: Report, before: str, after: str) -> Report:
        """Return the report with the comparison of two keys."""
        ...
