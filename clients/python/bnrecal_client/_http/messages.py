"""Requests and responses as plain values: what the core makes and reads, without any I/O."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bnrecal_client.errors import UnexpectedAnswerError

__all__ = [
    "Body",
    "FileBody",
    "LinkBrokenError",
    "Request",
    "Response",
    "content_digest",
    "sha256_hex",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBody:
    """A body that is read from disk while it is sent.

    Attributes:
        path: the file.
        bytes: its size, announced as Content-Length.
    """

    path: Path
    bytes: int


Body = bytes | FileBody


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, complete but for the server's address and the token.

    Every request of this client may be repeated: PUT is by index, models are named by their
    content, `start` and `cancel` mean the same twice, and creating carries an Idempotency-Key.
    """

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One whole response.

    Attributes:
        status: the HTTP status.
        headers: names in lower case.
        body: the whole body.
        tries: how often the request was sent until this answer came.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    tries: int = 1

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters, in lower case."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def json(self) -> object:
        """Parse the body.

        Raises:
            UnexpectedAnswerError: the body is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise UnexpectedAnswerError(
                f"the server answered {self.status} with {self.media_type or 'no media type'} "
                "where JSON was due; is this address a bnrecal server?"
            ) from error

    def is_whole(self) -> bool:
        """Tell whether the body matches its Content-Digest, where there is one."""
        said = self.headers.get("content-digest", "")
        return "sha-256=" not in said or content_digest(sha256_hex(self.body)) in said


class LinkBrokenError(Exception):
    """A driver's report to the core that a request got no whole answer; no caller sees it."""


def sha256_hex(body: bytes) -> str:
    """Digest as the server lists it."""
    return hashlib.sha256(body).hexdigest()


def content_digest(sha256: str) -> str:
    """Write a hex digest as a Content-Digest header (RFC 9530, section 2)."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:"
