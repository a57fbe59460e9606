"""Pages of lists: `?after=<cursor>&limit=<n>`, answered as `items` and the cursor `next`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import Query

from service.errors import RequestInvalidError

LARGEST_PAGE = 1000
# Cursors are integers of the ledger, which keeps 64 bits.
_LARGEST_CURSOR = (1 << 63) - 1

After = Annotated[
    str | None,
    Query(description="Cursor from `next` of the page before.", pattern="^[0-9]{1,19}$"),
]
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="Most items in the page.")]
T = TypeVar("T")


def read_cursor(after: str | None, *, start: int) -> int:
    """Return the position behind which a page begins.

    Raises:
        RequestInvalidError: no server of ours has written such a cursor.
    """
    if after is None:
        return start
    if not (after.isascii() and after.isdecimal() and int(after[:20]) <= _LARGEST_CURSOR):
        raise RequestInvalidError(f"{after[:40]!r} is no cursor; use the `next` of the page before")
    return int(after[:20])


def cut(items: Sequence[T], limit: int, position: Callable[[T], int]) -> tuple[list[T], str | None]:
    """Cut one item more than the page off; return the page and the cursor of the next, if any."""
    page = list(items[:limit])
    return page, str(position(page[-1])) if len(items) > limit else None
