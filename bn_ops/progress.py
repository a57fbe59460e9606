"""Progress: how far a run is, told to a callback that may also stop it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Progress", "ProgressCallback", "silent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One step of a run.

    Attributes:
        phase: `reading`, `measuring`, `folding` or `verifying`, in this order.
        done: steps done in the phase.
        total: steps of the phase, or None while it is not known (a stream's length).
    """

    phase: str
    done: int
    total: int | None


ProgressCallback = Callable[[Progress], None]
"""Called between steps; raise `CancelledError` in it to stop the run with nothing changed."""


def silent(progress: Progress) -> None:
    """Ignore progress."""
    del progress
