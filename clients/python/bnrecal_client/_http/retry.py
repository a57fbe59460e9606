"""The retry decision, without I/O: which outcomes are retried, for how long, and what is raised.

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

Retrying ends after `RetryPolicy.total_timeout` for the same request, and until the server has
responded for the first time after `initial_timeout`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus

from bnrecal_client._http.messages import Request, Response
from bnrecal_client._http.responses import problem
from bnrecal_client._http.retry_policy import RetryPolicy, retry_after_s
from bnrecal_client.errors import Problem, ServerUnreachable, UnexpectedResponseError

__all__ = ["FailedTry", "failure_of", "give_up", "pause_before_retry"]

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
        f"{url} does not respond ({last.reason}; {tries} tries in {elapsed_s:.1f} s): "
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
