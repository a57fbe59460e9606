"""How long to wait before the next try: pure functions of what is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Backoff", "delay_s", "poll_s", "retry_after_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Growing pauses with jitter, so that many clients do not return in step.

    Attributes:
        first_s: the longest first pause, in seconds.
        ceiling_s: no pause is longer, in seconds.
        jitter: source of numbers in [0, 1).
    """

    first_s: float = 0.2
    ceiling_s: float = 5.0
    jitter: Callable[[], float] = random.random

    def pause_s(self, attempt: int) -> float:
        """Return the pause after the failed try number `attempt`, counted from 0."""
        return delay_s(attempt, self.jitter(), first_s=self.first_s, ceiling_s=self.ceiling_s)


def delay_s(attempt: int, jitter: float, *, first_s: float, ceiling_s: float) -> float:
    """Double with each attempt up to a ceiling, then take between half and all of it.

    Args:
        attempt: failed tries before this one, from 0.
        jitter: in [0, 1).
        first_s: longest first pause, in seconds.
        ceiling_s: longest pause at all, in seconds.
    """
    # Beyond 2**30 the ceiling has long been reached; the bound keeps the power a float.
    longest = min(ceiling_s, first_s * 2.0 ** min(attempt, 30))
    return longest * (0.5 + 0.5 * jitter)


def poll_s(asked: int, *, longest_s: float) -> float:
    """Return the pause before asking for the state again.

    A short run is seen to end within a few hundredths of a second, a long one costs one request
    per `longest_s`.

    Args:
        asked: how often the state was asked for already.
        longest_s: the pause for a long run, in seconds.
    """
    return min(longest_s, 0.05 * 1.5 ** min(asked, 30))


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read Retry-After (RFC 9110, section 10.2.3): seconds or a date. None where there is none.

    Args:
        headers: names in lower case.
        now: the time to count a date from, with a time zone.
    """
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - now).total_seconds())
