"""One request until it has an answer, or until patience ends.

=============================================  =====================================================
what happened                                  what follows
=============================================  =====================================================
no connection, or it broke, or timed out       again (also when an upload broke half-way)
a download that does not match its digest      again
408, 429, 502, 503, 504                        again, not before Retry-After
`digest-mismatch`, `body-incomplete`           again: the upload was damaged on its way
500 and above with `"retryable": true`         again, not before Retry-After
a status above with `"retryable": false`       the typed error at once
anything else                                  the answer goes to the caller
=============================================  =====================================================

"Again" ends after `patience_s` of trying the same request. Before the first answer of the server
it ends after `first_contact_s`: then a wrong address is likelier than a restart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from bnrecal_client._http.messages import LinkBrokenError, Request, Response
from bnrecal_client._http.responses import problem
from bnrecal_client._runtime.effects import Pause, Plan, Send
from bnrecal_client._workflows.backoff import Backoff, retry_after_s
from bnrecal_client.errors import ServerUnreachable, UnexpectedAnswerError
from bnrecal_client.models import Progress
from bnrecal_client.problems import Problem
from bnrecal_client.retry_policy import Patience

__all__ = ["Contact", "Link", "exchange"]

_AGAIN = frozenset({408, 429, 502, 503, 504})
_DAMAGED = frozenset({"digest-mismatch", "body-incomplete"})
_GATEWAY = frozenset({502, 503, 504})
_SERVER_FAULT = 500


@dataclass(slots=True)
class Contact:
    """Whether this server has ever answered this client."""

    made: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What the core needs to know about the way to a server.

    Attributes:
        url: the address, for messages.
        patience_s: how long one request is tried again, in seconds.
        first_contact_s: likewise until the server has answered once.
        silence_s: limit of one silence in the middle of a request, in seconds.
        backoff: the pauses.
        clock: monotonic seconds.
        contact: shared by all runs of one client.
        notify: is told how far a run is, and of trouble.
    """

    url: str
    patience_s: float = 120.0
    first_contact_s: float = 5.0
    silence_s: float = 120.0
    backoff: Backoff = field(default_factory=Backoff)
    clock: Callable[[], float] = time.monotonic
    contact: Contact = field(default_factory=Contact)
    notify: Callable[[Progress], None] = lambda _: None

    @classmethod
    def to(cls, url: str, patience: Patience, clock: Callable[[], float]) -> Link:
        """Build the link of a client that has not met its server yet."""
        return cls(
            url=url,
            patience_s=patience.outage_s,
            first_contact_s=min(patience.first_contact_s, patience.outage_s),
            silence_s=patience.silence_s,
            backoff=patience.backoff,
            clock=clock,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """One failed try."""

    reason: str
    response: Response | None = None
    problem: Problem | None = None
    not_before_s: float = 0.0


def exchange(link: Link, request: Request) -> Plan[Response]:
    """Send a request, again where the table above says so.

    Raises:
        ServerUnreachable: patience has ended.
    """
    started = link.clock()
    attempt = 0
    while True:
        outcome = yield from _attempt(link, request)
        if isinstance(outcome, Response):
            return replace(outcome, tries=attempt + 1)
        pause = max(link.backoff.pause_s(attempt), outcome.not_before_s)
        spent = link.clock() - started
        allowed = link.patience_s if link.contact.made else link.first_contact_s
        if spent + pause > allowed:
            return _give_up(link, outcome, spent, attempt + 1)
        link.notify(Progress(phase="waiting", done=attempt, note=outcome.reason))
        yield Pause(pause)
        attempt += 1


def _attempt(link: Link, request: Request) -> Plan[Response | _Failure]:
    try:
        response: Response = yield Send(request)
    except LinkBrokenError as error:
        return _Failure(reason=str(error))
    link.contact.made = True
    # Only downloads: what a server says of the digest of an upload concerns the upload.
    if request.method == "GET" and not response.is_whole():
        return _Failure(reason="a download came damaged", response=response)
    found = _problem(response)
    if not _worth_another_try(response.status, found):
        return response
    return _Failure(
        reason=found.detail if found else f"the server answers {response.status}",
        response=response,
        problem=found,
        not_before_s=retry_after_s(response.headers, datetime.now(tz=UTC)) or 0.0,
    )


def _problem(response: Response) -> Problem | None:
    """Read the problem, if there is one: a gateway in between answers with its own pages."""
    try:
        return problem(response)
    except UnexpectedAnswerError:
        return None


def _worth_another_try(status: int, found: Problem | None) -> bool:
    if found is not None and found.code in _DAMAGED:
        return True
    if status in _AGAIN:
        return found is None or found.retryable is not False
    return status >= _SERVER_FAULT and found is not None and found.retryable is True


def _give_up(link: Link, last: _Failure, spent: float, tries: int) -> Response:
    """Hand on a problem that speaks for itself; else say that the server cannot be reached."""
    if last.response is not None and last.response.status not in _GATEWAY:
        if last.problem is not None:
            return last.response
        raise UnexpectedAnswerError(f"{link.url}: {last.reason}, {tries} times in {spent:.1f} s")
    raise ServerUnreachable(
        f"{link.url} does not answer ({last.reason}; {tries} tries in {spent:.1f} s): "
        "check the address and that the server runs (`bnrecal serve` starts one)",
        problem=last.problem,
    )
