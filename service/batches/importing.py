"""Import of batches by reference: the server reads them from object storage.

Each object becomes a batch with a fixed index, is checked like an upload, and is copied to the blob
store. Nothing about an import is stored: after an interruption, the same request continues, because
an index with a stored batch is not read again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import prod

from bn_ops.errors import BnOpsError
from service.batches import operations
from service.batches.upload import Upload
from service.context import Context
from service.errors import (
    BatchConflictError,
    QuotaError,
    RequestInvalidError,
    ServiceError,
    StateError,
    StorageFullError,
    TooLargeError,
)
from service.repositories import batches as store
from service.repositories.records import StoredBatch, Stream
from service.web.media_types import part_format

MAX_OBJECTS = 100_000
# Objects that one request reads at the same time.
MAX_READS = 4
_RANGE = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """An object to import: its URL, and the index of its batch."""

    url: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one object.

    Attributes:
        reference: the object.
        batch: the stored batch; None after an error.
        new: whether this request has stored it.
        error: why there is no batch.
    """

    reference: Reference
    batch: StoredBatch | None = None
    new: bool = False
    error: ServiceError | BnOpsError | None = None

    @property
    def is_final(self) -> bool:
        """Whether the error holds for all further objects, too."""
        kinds = (StateError, QuotaError, StorageFullError)
        return isinstance(self.error, kinds) and not isinstance(self.error, BatchConflictError)


def references(urls: Sequence[str], first: int) -> list[Reference]:
    """Return the objects of an import in stream order.

    Args:
        urls: URLs; `{000..999}` means all numbers of a range, with leading zeros.
        first: index of the first batch.

    Raises:
        RequestInvalidError: there are no objects or too many, or an index is too large.
    """
    found: list[Reference] = []
    for url in urls:
        pattern = _Pattern.parse(url)
        # Before anything is expanded: a short pattern can mean billions of objects.
        if len(found) + pattern.count > MAX_OBJECTS:
            raise RequestInvalidError(f"an import has at most {MAX_OBJECTS} objects")
        for each in pattern.urls():
            index = first + len(found)
            if index > store.MAX_INDEX:
                raise RequestInvalidError(f"the largest index is {store.MAX_INDEX}")
            found.append(Reference(url=each, index=index))
    if not found:
        raise RequestInvalidError("the URLs name no object: each range is empty")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pattern:
    """A URL with ranges of numbers.

    Attributes:
        start: the text before the first range.
        ranges: the numbers of each range, their smallest width, and the text after it. A range of
            one number is part of the text.
    """

    start: str
    ranges: Sequence[tuple[range, int, str]]

    @classmethod
    def parse(cls, url: str) -> _Pattern:
        """Read a URL in which `{000..999}` means a range."""
        texts = _RANGE.split(url)
        start, ranges = texts[0], list[tuple[range, int, str]]()
        for first, last, text in zip(texts[1::3], texts[2::3], texts[3::3], strict=True):
            numbers = range(int(first), int(last) + 1)
            width = len(first) if first.startswith("0") else 0
            if len(numbers) != 1:
                ranges.append((numbers, width, text))
            elif ranges:
                varying, digits, before = ranges.pop()
                ranges.append((varying, digits, f"{before}{numbers[0]:0{width}}{text}"))
            else:
                start += f"{numbers[0]:0{width}}{text}"
        return cls(start=start, ranges=ranges)

    @property
    def count(self) -> int:
        """The number of URLs; 0 if a range is empty."""
        return prod(len(numbers) for numbers, _, _ in self.ranges)

    def urls(self) -> Iterator[str]:
        """Yield the URLs; the last range varies fastest."""
        if self.count:
            for found in product(*(numbers for numbers, _, _ in self.ranges)):
                parts = zip(found, self.ranges, strict=True)
                yield self.start + "".join(f"{n:0{width}}{text}" for n, (_, width, text) in parts)


async def import_batches(
    context: Context,
    recalibration_id: str,
    stream: Stream,
    wanted: Sequence[Reference],
    *,
    compare: bool,
) -> AsyncIterator[Imported]:
    """Import objects, and yield what became of each as soon as that is known.

    Ends early after an error that all further objects would have as well, and when the server shuts
    down.

    Args:
        context: context of the request.
        recalibration_id: an open recalibration.
        stream: the stream that the batches belong to.
        wanted: the objects.
        compare: whether an object is read although its index has a batch of the same size.
    """
    waiting = iter(wanted)
    reading: set[asyncio.Task[Imported]] = set()
    ending = False
    try:
        while True:
            while not ending and len(reading) < MAX_READS and (one := next(waiting, None)):
                work = _import(context, recalibration_id, stream, one, compare=compare)
                reading.add(asyncio.create_task(work, name=f"import {one.index}"))
            if not reading:
                return
            done, reading = await asyncio.wait(reading, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                imported = task.result()
                ending = ending or imported.is_final or context.signals.closed
                yield imported
    finally:
        for task in reading:
            task.cancel()
        if reading:
            await asyncio.wait(reading)


async def _import(
    context: Context, recalibration_id: str, stream: Stream, wanted: Reference, *, compare: bool
) -> Imported:
    try:
        batch, new = await _store(context, recalibration_id, stream, wanted, compare=compare)
    except (ServiceError, BnOpsError) as error:
        return Imported(reference=wanted, error=error)
    return Imported(reference=wanted, batch=batch, new=new)


async def _store(
    context: Context, recalibration_id: str, stream: Stream, wanted: Reference, *, compare: bool
) -> tuple[StoredBatch, bool]:
    source = context.imports.find(wanted.url)
    kind = part_format("", wanted.url)
    size = await source.size()
    find = partial(store.find, recalibration_id=recalibration_id, stream=stream, index=wanted.index)
    known = await context.ledger.read(find)
    if known is not None and known.bytes == size and not compare:
        await context.ledger.write(find)  # acknowledged, so what was read must be durable
        return known, False
    if size > context.settings.batch_limit_bytes:
        limit = context.settings.batch_limit_bytes
        raise TooLargeError(f"the batch is larger than {limit} bytes", limit=limit)
    upload = Upload(
        recalibration_id=recalibration_id,
        index=wanted.index,
        format=kind,
        body=source.blocks(size),
        digest=None,
        announced=size,
        stream=stream,
    )
    return await operations.put(context, upload)
