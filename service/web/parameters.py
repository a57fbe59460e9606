"""Parameters that several routes share: headers and parts of the path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path

from service.repositories import idempotency

Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="Makes retries of the request safe.",
        min_length=1,
        max_length=idempotency.MAX_KEY_LENGTH,
    ),
]
Digest = Annotated[
    str | None,
    Header(alias="Content-Digest", description="Digest of the body (RFC 9530), sha-256."),
]
RecalibrationId = Annotated[str, Path(description="Id of a recalibration.")]
