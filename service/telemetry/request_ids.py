"""Request ids, which appear in the response and in every log line of the request."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

ID_HEADER = "X-Request-Id"
# What a proxy or a client may choose: the id is copied into headers, URNs and logs.
_VALID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

current: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the current request; None outside of requests."""


def choose(sent: str | None) -> str:
    """Return the id that the client sent if it is valid, otherwise a new one."""
    return sent if sent is not None and _VALID.fullmatch(sent) else str(uuid.uuid4())
