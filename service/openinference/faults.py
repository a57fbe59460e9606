"""What is wrong with one input of a request, told by the input's name."""

from __future__ import annotations

from typing import Any

from service.errors import BatchMalformedError


def unfit(name: str, fault: str, **details: Any) -> BatchMalformedError:
    """Build the error for an input whose data is not what the request says of it."""
    return BatchMalformedError(f"input {name!r} {fault}", input=name, **details)
