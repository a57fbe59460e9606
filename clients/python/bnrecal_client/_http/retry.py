"""The retry policy and its decisions, without I/O: what is retried, for how long, what is raised.

=============================================  =====================================================
outcome of one try                             consequence
=============================================  =====================================================
no connection, a broken one, or a timeout      retry (also after half an upload)
a download that does not match its digest      retry
408, 429, 502, 503, 504                        retry, not before Retry-After
`digest-mismatch`, `body-incomplete`           retry: the upload was damaged in transit
500 and above with `"retryable": true`         retry, not before Retry-After
a status above with `"retryable": false`       the typed error at once
anything else                                  the response is returned
=============================================  =====================================================

Retrying ends after `RetryPolicy.total_timeout`, before the first response after `initial_timeout`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

from bnrecal_client._http.messages import Request, Response, problem
from bnrecal_client.errors import Problem, ServerUnreachable, UnexpectedResponseError

__all__ = [
    "Backoff",
    "FailedTry",
    "RetryPolicy",
    "delay_s",
    "failure_of",
    "give_up",
    "pause_before_retry",
    "poll_s",
    "retry_after_s",
]

_RETRIED = frozenset({408, 429, 502, 503, 504})
_DAMAGED_UPLOAD = frozenset({"digest-mismatch", "body-incomplete"})
_GATEWAY = frozenset({502, 503, 504})
_SERVER_FAULT = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTry:
    """One try that may be repeated.

    Attributes:
        reason: a phrase for messages.
        response: the response, None if there was none.
        problem: its problem object, None if there was none.
        not_before_s: the server's Retry-After, in seconds.
    """

    reason: str
    response: Response | None = None
    problem: Problem | None = None
    not_before_s: float = 0.0


def failure_of(request: Request, response: Response) -> FailedTry | None:
    """Return why a request should be retried; None if the response is final."""
    # Downloads only: for an upload, a digest in the response describes the upload.
    if request.method == "GET" and not response.is_intact():
        return FailedTry(reason="a download arrived damaged", response=response)
    if response.status < HTTPStatus.BAD_REQUEST:
        return None  # before the body, which may be a large report, is parsed
    found = _problem(response)
    if not _is_retryable(response.status, found):
        return None
    return FailedTry(
        reason=found.detail if found else f"the server responds {response.status}",
        response=response,
        problem=found,
        not_before_s=retry_after_s(response.headers, datetime.now(tz=UTC)) or 0.0,
    )


def pause_before_retry(
    policy: RetryPolicy, failed: FailedTry, *, tries: int, elapsed_s: float, server_seen: bool
) -> float | None:
    """Return the pause before the next try, in seconds; None if there is no time for another.

    Args:
        policy: the time limits.
        failed: the last try.
        tries: number of tries so far, from 1.
        elapsed_s: seconds since the first try began.
        server_seen: whether this server has ever responded.
    """
    pause = max(policy.backoff.pause_s(tries - 1), failed.not_before_s)
    return pause if elapsed_s + pause <= policy.retry_for(server_seen=server_seen) else None


def give_up(url: str, last: FailedTry, *, tries: int, elapsed_s: float) -> Response:
    """Return a response that carries the server's own problem, otherwise raise.

    Raises:
        ServerUnreachable: there was no response, or only a gateway's.
        UnexpectedResponseError: every response was damaged.
    """
    if last.response is not None and last.response.status not in _GATEWAY:
        if last.problem is not None:
            return last.response
        raise UnexpectedResponseError(f"{url}: {last.reason}, {tries} times in {elapsed_s:.1f} s")
    raise ServerUnreachable(
        f"{url} does not respond ({last.reason}; tries: {tries}, in {elapsed_s:.1f} s): "
        "check the address and that the server is running (`bnrecal serve` starts one)",
        problem=last.problem,
    )


def _problem(response: Response) -> Problem | None:
    """Return the problem object; None for a page of a gateway."""
    try:
        return problem(response)
    except UnexpectedResponseError:
        return None


def _is_retryable(status: int, found: Problem | None) -> bool:
    if found is not None and found.code in _DAMAGED_UPLOAD:
        return True
    if status in _RETRIED:
        return found is None or found.retryable is not False
    return status >= _SERVER_FAULT and found is not None and found.retryable is True


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
