"""The error for one input of a request."""

from __future__ import annotations

from typing import Any

from service.errors import BatchMalformedError


def unfit(name: str, fault: str, **details: Any) -> BatchMalformedError:
    """Return the error for an input that is malformed or contradicts its description."""
    return BatchMalformedError(f"input {name!r} {fault}", input=name, **details)
