"""Estimate the remaining time of a phase from its rate.

The ledger stores when a phase began and its progress at that time, so an estimate survives a
restart of the server.
"""

from __future__ import annotations

from datetime import datetime

from service.repositories.records import Recalibration
from service.workers.protocol import Progress

# A rate over a shorter time is not informative: the first steps load libraries and fill caches.
MIN_SECONDS = 0.5


def starts_phase(found: Recalibration, step: Progress) -> bool:
    """Return whether a step is the first of a phase, also of the same phase in another attempt."""
    return (
        found.phase != step.phase
        or found.phase_began is None
        or found.progress_done is None
        or step.done < found.progress_done
    )


def seconds_left(found: Recalibration, step: Progress, now: str) -> float | None:
    """Return the estimate (total - done) · elapsed ÷ (done since the phase began).

    Args:
        found: the recalibration with the start of its phase.
        step: the current progress.
        now: RFC 3339 UTC.

    Returns:
        Seconds; None while the total or the rate is unknown.
    """
    if step.total is None or found.phase_began is None or found.phase_first is None:
        return None
    began = datetime.fromisoformat(found.phase_began)
    elapsed = (datetime.fromisoformat(now) - began).total_seconds()
    done = step.done - found.phase_first
    if done <= 0 or elapsed < MIN_SECONDS:
        return None
    return round(max(0, step.total - step.done) * elapsed / done, 1)
