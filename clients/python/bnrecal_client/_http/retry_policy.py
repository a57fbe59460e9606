"""How long a client retries, and the pauses between two tries."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["Backoff", "RetryPolicy", "delay_s", "poll_s", "retry_after_s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Exponential back-off with jitter, which keeps clients from retrying in step.

    Attributes:
        first_s: longest first pause, in seconds.
        ceiling_s: longest pause, in seconds.
        jitter: returns numbers in [0, 1).
    """

    first_s: float = 0.2
    ceiling_s: float = 5.0
    jitter: Callable[[], float] = random.random

    def pause_s(self, attempt: int) -> float:
        """Return the pause after failed try number `attempt`, counted from 0, in seconds."""
        return delay_s(attempt, self.jitter(), first_s=self.first_s, ceiling_s=self.ceiling_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Time limits of requests and of their retries, in seconds.

    Attributes:
        total_timeout: how long one request is retried. A run survives a server restart that is
            shorter than this.
        initial_timeout: the same until the server has answered for the first time, when a wrong
            address is likelier than a restart; at most `total_timeout`.
        connect_timeout: limit of one attempt to connect.
        read_timeout: limit of one wait for bytes, in either direction.
        backoff: the pauses between tries.
    """

    total_timeout: float = 120.0
    initial_timeout: float = 5.0
    connect_timeout: float = 5.0
    read_timeout: float = 120.0
    backoff: Backoff = field(default_factory=Backoff)

    def retry_for(self, *, server_seen: bool) -> float:
        """Return how long one request is retried, in seconds."""
        return self.total_timeout if server_seen else min(self.initial_timeout, self.total_timeout)


def delay_s(attempt: int, jitter: float, *, first_s: float, ceiling_s: float) -> float:
    """Return a pause that doubles with each attempt up to a ceiling, shortened by up to half.

    Args:
        attempt: failed tries before this one, from 0.
        jitter: in [0, 1).
        first_s: longest first pause, in seconds.
        ceiling_s: longest pause, in seconds.
    """
    # The ceiling is reached long before 2**30; the bound keeps the power a float.
    longest = min(ceiling_s, first_s * 2.0 ** min(attempt, 30))
    return longest * (0.5 + 0.5 * jitter)


def poll_s(polls: int, *, longest_s: float) -> float:
    """Return the pause before the next poll of a recalibration's state, in seconds.

    The end of a short run is noticed within a few hundredths of a second; a long run costs one
    request per `longest_s`.

    Args:
        polls: number of polls so far.
        longest_s: the pause for a long run, in seconds.
    """
    return min(longest_s, 0.05 * 1.5 ** min(polls, 30))


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Return the seconds in Retry-After (RFC 9110, section 10.2.3), None without a valid one.

    Args:
        headers: names in lower case.
        now: the time that a date is counted from, with a time zone.
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
