"""One batch on its way in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One batch as it comes in.

    Attributes:
        recalibration: whose stream it belongs to.
        index: its place; None appends it.
        format: one of the formats in `service.web.media_types`.
        body: blocks of bytes.
        digest: SHA-256 that the client announced, or None.
        announced: bytes that the body will have, or None where nobody has said so.
        key: the client's Idempotency-Key; only for appends.
        key_with_content: whether the key names a batch only together with its content, so that a
            key that comes again with other content is another batch and no conflict.
    """

    recalibration: str
    index: int | None
    format: str
    body: AsyncIterator[bytearray]
    digest: str | None
    announced: int | None = None
    key: str | None = None
    key_with_content: bool = False
