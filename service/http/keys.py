"""The header that makes a POST safe to repeat."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header

from service import idempotency

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="For safe retries.",
        min_length=1,
        max_length=idempotency.LONGEST_KEY,
    ),
]
