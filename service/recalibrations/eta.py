"""How long a phase will still take, from the rate so far.

The ledger keeps when a phase began and where it stood then; a server that is started again goes on
from there.
"""

from __future__ import annotations

from datetime import datetime

from service.repositories.records import Recalibration
from service.workers.protocol import Progress

# A rate over less says nothing: the first steps load libraries and fill caches.
SHORTEST_SECONDS = 0.5


def begins_anew(found: Recalibration, step: Progress) -> bool:
    """Tell whether a step is the first of a phase, or of a phase in a further attempt."""
    return (
        found.phase != step.phase
        or found.phase_began is None
        or found.progress_done is None
        or step.done < found.progress_done
    )


def seconds_left(found: Recalibration, step: Progress, now: str) -> float | None:
    """Estimate the rest of a phase: (total - done) · elapsed ÷ done since it began.

    Args:
        found: as the ledger knows it, with the phase's beginning.
        step: how far the phase is now.
        now: RFC 3339 UTC.

    Returns:
        Seconds; None while the total or the rate is not known.
    """
    if step.total is None or found.phase_began is None or found.phase_first is None:
        return None
    begun = datetime.fromisoformat(found.phase_began)
    elapsed = (datetime.fromisoformat(now) - begun).total_seconds()
    done = step.done - found.phase_first
    if done <= 0 or elapsed < SHORTEST_SECONDS:
        return None
    return round(max(0, step.total - step.done) * elapsed / done, 1)
