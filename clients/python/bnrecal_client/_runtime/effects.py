"""What a plan may ask of the driver that plays it.

A *plan* is a generator that yields what it wants done and is given the outcome. It does no I/O, so
the same plan serves the synchronous and the asynchronous client, and a test can play it step by
step.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from bnrecal_client._http.messages import Request, Response

__all__ = ["Arrived", "Await", "Call", "Effect", "Pause", "Plan", "Post", "Pull", "Send"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Send:
    """Ask for one try of a request; the outcome is a Response or LinkBrokenError."""

    request: Request


@dataclass(frozen=True, slots=True)
class Post:
    """Ask for the same without waiting for it: `Await` hands out what came of it.

    Attributes:
        ticket: tells this try from others that are on their way.
        request: what is sent.
    """

    ticket: int
    request: Request


@dataclass(frozen=True, slots=True)
class Await:
    """Ask for the next of the posted tries that has ended, as `Arrived`; None after `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came of a posted try.

    Attributes:
        ticket: as it was posted.
        outcome: the response, or what the try has raised.
    """

    ticket: int
    outcome: Response | BaseException


@dataclass(frozen=True, slots=True)
class Pause:
    """Ask to wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Call:
    """Ask to run something slow, such as hashing; the outcome is its value."""

    function: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Pull:
    """Ask for the next item of the caller's stream, or `end` after the last."""

    items: Iterator[object] | AsyncIterator[object]
    end: object


Effect = Send | Post | Await | Pause | Call | Pull
# The outcome's type depends on the effect, which Generator cannot say; `exchange` and the other
# small wrappers narrow it in one place each.
Plan = Generator[Effect, Any, T]
