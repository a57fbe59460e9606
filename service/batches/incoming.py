"""A request as an upload."""

from __future__ import annotations

from starlette.requests import Request

from service.batches.upload import Upload
from service.context import Context
from service.web import content_digest as digests
from service.web import media_types as media
from service.web.request_body import announced_bytes, blocks


def upload_of(
    context: Context,
    request: Request,
    recalibration: str,
    *,
    index: int | None = None,
    digest: str | None,
    key: str | None = None,
) -> Upload:
    """Read the head of a request; the body comes later.

    Raises:
        MediaTypeError: it is of no format of batches.
        DigestMismatchError: the announced digest cannot be read.
        TooLargeError: while the body is read; it is larger than a batch may be.
    """
    limit = context.settings.batch_limit_bytes
    return Upload(
        recalibration=recalibration,
        index=index,
        format=media.batch_format(request),
        body=blocks(request, limit_bytes=limit, what="batch"),
        digest=digests.read(digest),
        announced=announced_bytes(request),
        key=key,
    )
