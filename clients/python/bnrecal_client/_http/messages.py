"""Requests and responses as plain values without I/O, and reading what a response holds."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec

from bnrecal_client.errors import Problem, UnexpectedResponseError, error_of
from bnrecal_client.report import Report

__all__ = [
    "Body",
    "FileBody",
    "Page",
    "Request",
    "Response",
    "TransportFailed",
    "content_digest",
    "expect",
    "problem",
    "read",
    "report",
    "report_html",
    "sha256_hex",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBody:
    """A body that is read from disk while it is sent.

    Attributes:
        path: the file.
        bytes: its size, sent as Content-Length.
    """

    path: Path
    bytes: int


Body = bytes | FileBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, complete except for the server's address and the token.

    Every request of this client may be repeated: PUT is by index, models are identified by their
    content, `start` and `cancel` are idempotent, and creating carries an Idempotency-Key.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One complete response.

    Attributes:
        status: the HTTP status.
        headers: names in lower case.
        body: the whole body.
        tries: how often the request was sent until this response arrived.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    tries: int = 1

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters, in lower case."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def is_intact(self) -> bool:
        """Return whether the body matches its Content-Digest, if it has one."""
        expected = self.headers.get("content-digest", "")
        return "sha-256=" not in expected or content_digest(sha256_hex(self.body)) in expected


class TransportFailed(Exception):  # noqa: N818 - reads as what happened; callers never see it
    """A request got no complete response; it may be retried."""


def sha256_hex(body: bytes) -> str:
    """Return the digest as the server lists it."""
    return hashlib.sha256(body).hexdigest()


def content_digest(sha256: str) -> str:
    """Return a hex digest as a Content-Digest header (RFC 9530, section 2)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:"


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
