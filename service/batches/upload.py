"""One batch as it arrives, and how a request becomes one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from starlette.requests import Request

from service.context import Context
from service.repositories.records import Stream
from service.storage.blobs.protocol import Draft
from service.web import content_digest as digests
from service.web import media_types as media
from service.web.request_body import announced_bytes, blocks

PATHS: Mapping[Stream, str] = MappingProxyType(
    {Stream.TARGET: "batches", Stream.SOURCE: "source-batches"}
)
"""Last part of the path of each stream's batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """One batch as it arrives.

    Attributes:
        recalibration_id: id of the recalibration that the batch belongs to.
        index: position in the stream; None appends the batch.
        format: name of its format, see `service.formats.registry`.
        body: the bytes, in blocks.
        digest: SHA-256 (hexadecimal) that the client announced, or None.
        announced: length of the body in bytes, or None if the client did not announce it.
        key: the client's Idempotency-Key; only for appends.
        key_with_content: whether the key identifies a batch only together with its content, so that
            a repeated key with other content is another batch instead of a conflict.
        stream: the stream that the batch belongs to.
        draft: a draft that already holds the body and becomes the stored file; None if the body has
            to be written.
    """

    recalibration_id: str
    index: int | None
    format: str
    body: AsyncIterator[bytearray]
    digest: str | None
    announced: int | None = None
    key: str | None = None
    key_with_content: bool = False
    stream: Stream = Stream.TARGET
    draft: Draft | None = None


def upload_of(
    context: Context,
    request: Request,
    recalibration: str,
    *,
    stream: Stream,
    index: int | None = None,
    digest: str | None,
    key: str | None = None,
) -> Upload:
    """Return the upload that a request describes; its body has not been read yet.

    Raises:
        MediaTypeError: the content type is not a batch format.
        DigestMismatchError: the announced digest is malformed.
        TooLargeError: raised while the body is read, if it exceeds the limit for a batch.
    """
    limit = context.settings.batch_limit_bytes
    return Upload(
        recalibration_id=recalibration,
        index=index,
        format=media.batch_format(request),
        body=blocks(request, limit_bytes=limit, what="batch"),
        digest=digests.read(digest),
        announced=announced_bytes(request),
        key=key,
        stream=stream,
    )
