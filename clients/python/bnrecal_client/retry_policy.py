"""What a client is configured with, checked once, before any request."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from bnrecal_client._workflows.backoff import Backoff
from bnrecal_client.errors import OptionError

__all__ = ["Patience", "headers", "server_url", "timeout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a client bears trouble, in seconds.

    Attributes:
        outage_s: one request is tried again for this long, once the server has been reached; it is
            the longest restart that a run survives.
        first_contact_s: likewise before the server has ever answered; never longer than the above.
        connect_s: limit of one try to connect.
        silence_s: limit of one silence in the middle of a request.
        backoff: the pauses between tries.
    """

    outage_s: float = 120.0
    first_contact_s: float = 5.0
    connect_s: float = 5.0
    silence_s: float = 120.0
    backoff: Backoff = field(default_factory=Backoff)


def server_url(url: str) -> str:
    """Check an address and return it without a trailing slash.

    Raises:
        OptionError: it is none that can be asked over HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise OptionError(f"the server's address is {url!r}; write it like http://127.0.0.1:8000")
    return url.rstrip("/")


def headers(token: str | None) -> dict[str, str]:
    """Return what every request carries.

    Raises:
        OptionError: the token cannot stand in a header.
    """
    common = {"User-Agent": "bnrecal-client", "Accept": "application/json"}
    if token is None:
        return common
    if not (token.isascii() and token.isprintable() and token.strip() == token and token):
        raise OptionError("the token is empty, or holds characters that cannot stand in a header")
    return {**common, "Authorization": f"Bearer {token}"}


def timeout(patience: Patience) -> httpx.Timeout:
    """Return the limits of one try."""
    return httpx.Timeout(patience.silence_s, connect=patience.connect_s)
