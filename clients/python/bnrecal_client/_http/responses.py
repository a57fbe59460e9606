"""Reading responses: a typed value, or the typed error of the problem that the server reports."""

from __future__ import annotations

from typing import Any, Generic, TypeVar, cast

import msgspec

from bnrecal_client._http.messages import Response
from bnrecal_client.errors import Problem, UnexpectedResponseError, error_of
from bnrecal_client.report import Report

__all__ = ["Page", "expect", "problem", "read", "report", "report_html"]

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list; `next` is the cursor of the following page, None on the last."""

    items: tuple[T, ...]
    next: str | None = None


def read(response: Response, kind: type[T], *statuses: int) -> T:
    """Return the JSON body as a value; members of newer servers are ignored.

    Raises:
        BnrecalError: the server reports a problem.
        UnexpectedResponseError: the body is not JSON of this type.
    """
    return _decode(expect(response, *statuses), kind)


def expect(response: Response, *statuses: int) -> Response:
    """Return the response if it has one of these statuses.

    Raises:
        BnrecalError: of the class that belongs to the problem's code.
        UnexpectedResponseError: another status without a problem object.
    """
    if response.status in statuses:
        return response
    raise error_of(problem(response))


def problem(response: Response) -> Problem:
    """Return the problem object of a response.

    Raises:
        UnexpectedResponseError: the body is not one; then a proxy or another program responded.
    """
    if not response.media_type.endswith("json"):
        raise UnexpectedResponseError(
            f"a response with status {response.status} and {response.media_type or 'no'} content "
            "did not come from a bnrecal server; check the address"
        )
    return Problem.read(_decode(response, dict[str, Any]), status=response.status)


def report(response: Response) -> Report:
    """Return the report's JSON form, whose members are not checked."""
    return cast("Report", read(response, dict[str, Any], 200))


def report_html(response: Response) -> str:
    """Return the report as an HTML page.

    Raises:
        UnexpectedResponseError: it is not UTF-8.
    """
    try:
        return expect(response, 200).body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnexpectedResponseError(f"the HTML report is not UTF-8 text: {error}") from error


def _decode(response: Response, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(response.body, type=kind)
    except msgspec.ValidationError as error:
        raise UnexpectedResponseError(
            f"the server's response is not as expected: {error}; is this address a bnrecal server "
            "of the same version?"
        ) from error
    except msgspec.DecodeError as error:
        raise UnexpectedResponseError(
            f"the server responded {response.status} with {response.media_type or 'no media type'} "
            "instead of JSON; is this address a bnrecal server?"
        ) from error
