"""One id for each request, in its answer and in every line that is logged on its behalf."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

ID_HEADER = "X-Request-Id"
# What a proxy or a client may choose: it goes into headers, URNs and logs as it is.
_TAKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

current: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The request that this code works for; None outside of requests."""


def choose(sent: str | None) -> str:
    """Return the id that came with a request, if it is one, and a new one otherwise."""
    return sent if sent is not None and _TAKEN.fullmatch(sent) else str(uuid.uuid4())
