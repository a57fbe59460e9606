"""Parameters that several routes share: headers and parts of the path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Header, Path, Query

from service.errors import RequestInvalidError
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


# Pages of lists: `?after=<cursor>&limit=<n>` returns `items` and the cursor `next`.

MAX_PAGE = 1000
# Cursors are 64-bit integers of the ledger.
MAX_CURSOR = (1 << 63) - 1

After = Annotated[
    str | None,
    Query(description="The `next` cursor of the previous page.", pattern="^[0-9]{1,19}$"),
]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Largest number of items in the page.")]
T = TypeVar("T")


def read_cursor(after: str | None, *, start: int) -> int:
    """Return the position after which a page starts.

    Raises:
        RequestInvalidError: the cursor is malformed.
    """
    if after is None:
        return start
    if not (after.isascii() and after.isdecimal() and int(after[:20]) <= MAX_CURSOR):
        raise RequestInvalidError(
            f"{after[:40]!r} is not a cursor; use the `next` of the previous page"
        )
    return int(after[:20])


def cut(items: Sequence[T], limit: int, position: Callable[[T], int]) -> tuple[list[T], str | None]:
    """Return a page and the next cursor, if any, for a list with one item more than the page."""
    page = list(items[:limit])
    return page, str(position(page[-1])) if len(items) > limit else None
