"""Requests and responses as plain values, without any I/O."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "Body",
    "FileBody",
    "Request",
    "Response",
    "TransportFailed",
    "content_digest",
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
