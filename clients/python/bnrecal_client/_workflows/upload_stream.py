"""Sending a stream: read once, a few batches on their way, what the server holds is skipped.

A batch has its index and its bytes before the next one is read: the server sees one stream however
its batches overtake one another, and an iterable may use its arrays again.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from bnrecal_client._encoding.batches import EncodedBatch, encode
from bnrecal_client._http import requests as calls
from bnrecal_client._http import responses as answers
from bnrecal_client._runtime.concurrency import Window
from bnrecal_client._runtime.effects import Plan, Pull
from bnrecal_client._workflows import operations as plans
from bnrecal_client._workflows.retry import Link, exchange
from bnrecal_client.errors import ConflictError, InputError, OptionError
from bnrecal_client.models import Progress, StoredBatch

__all__ = ["Batches", "Reader", "Select", "send_all"]

Batches = Iterable[Any] | AsyncIterable[Any]
"""What a caller passes: arrays, tensors, tuples, dicts; or pairs, together with `select=`."""

Select = Callable[[Any], Any]

_END = object()
# Enough to keep the client, the server and its disk busy at once: docs/ingest.md.
_CONNECTIONS = 4
_MOST_CONNECTIONS = 16  # httpx keeps 20 open


class Reader:
    """The caller's iterable, read once; one item may be looked at before it is read.

    Attributes:
        total: number of batches where the iterable knows it, else None.
        connections: how many batches are sent at once.
    """

    def __init__(
        self, batches: Batches, select: Select | None, *, connections: int | None = None
    ) -> None:
        if isinstance(batches, str | bytes | Mapping) or hasattr(batches, "__array__"):
            raise OptionError(
                f"batches takes an iterable of batches, got one {type(batches).__name__}: "
                "wrap it in a list, [array], or cut it into batches"
            )
        self.total = _length(batches)
        self._items = _iterator(batches)
        # What can be read only once may be alive: it is read no faster than it is stored.
        again = isinstance(self._items, Iterator) and self._items is not batches
        self.connections = _checked(connections, default=_CONNECTIONS if again else 1)
        self._select = select
        self._seen: list[object] = []

    def peek(self) -> Plan[object]:
        """Return the first item without using it up.

        Raises:
            InputError: the stream is empty.
        """
        if not self._seen:
            item = yield from self._pull()
            if item is _END:
                raise InputError("the stream of batches is empty", code="stream-empty")
            self._seen.append(item)
        return self._seen[0]

    def next(self) -> Plan[object]:
        """Return the next item, or `_END`."""
        if self._seen:
            return self._seen.pop()
        return (yield from self._pull())

    def _pull(self) -> Plan[object]:
        item: object = yield Pull(self._items, _END)
        return item if item is _END or self._select is None else self._select(item)


class _Held:
    """What the server holds already, read page by page in step with the stream."""

    def __init__(self, link: Link, recalibration: str) -> None:
        self._link = link
        self._recalibration = recalibration
        self._page: list[StoredBatch] = []
        self._after: str | None = None
        self._more = True

    def at(self, index: int) -> Plan[StoredBatch | None]:
        """Return what is stored under the index; to be asked for ever larger ones."""
        while True:
            while self._page and self._page[0].index < index:
                self._page.pop(0)
            if self._page:
                return self._page[0] if self._page[0].index == index else None
            if not self._more:
                return None
            yield from self._turn()

    def _turn(self) -> Plan[None]:
        request = calls.received(self._recalibration, self._after)
        page = answers.batches((yield from exchange(self._link, request)))
        self._page, self._after, self._more = list(page.items), page.next, page.next is not None


def send_all(
    link: Link, recalibration: str, reader: Reader, inputs: tuple[str, ...], *, resume: bool
) -> Plan[int]:
    """Send every batch that the server does not hold; return how many the stream has.

    At most `reader.connections` batches are in memory.

    Raises:
        InputError: the stream is empty, or a batch cannot be encoded.
        ConflictError: the server holds another batch under an index.
    """
    held = _Held(link, recalibration) if resume else None
    window = Window(reader.connections, link.clock)
    stored = _Counter(link, reader.total)
    index = 0
    try:
        while True:
            yield from window.room()
            if (item := (yield from reader.next())) is _END:
                break
            body = yield from plans.compute(partial(encode, item, inputs, index=index))
            known = None if held is None else (yield from held.at(index))
            if known is None:
                yield from window.begin(_send_one(link, recalibration, index, body, stored))
            else:
                _check_same(known, body, recalibration)
                stored.add()
            index += 1
    except Exception:
        # What was read before goes out as if it had gone alone; its failure, if any, came first.
        yield from window.drain()
        raise
    yield from window.drain()
    if index == 0:
        raise InputError("the stream of batches is empty", code="stream-empty")
    return index


class _Counter:
    """Tells how many batches the server has."""

    def __init__(self, link: Link, total: int | None) -> None:
        self._link = link
        self._total = total
        self._stored = 0
        self._tell()

    def add(self) -> None:
        self._stored += 1
        self._tell()

    def _tell(self) -> None:
        self._link.notify(Progress(phase="sending", done=self._stored, total=self._total))


def _send_one(
    link: Link, recalibration: str, index: int, body: EncodedBatch, stored: _Counter
) -> Plan[None]:
    yield from plans.send(link, recalibration, index, body)
    stored.add()


def _check_same(stored: StoredBatch, body: EncodedBatch, recalibration: str) -> None:
    if stored.sha256 != body.sha256:
        raise ConflictError(
            f"batch {stored.index} differs from the one that {recalibration} holds: resume with "
            "the same data in the same order and batch size, or begin a new recalibration",
            code="batch-conflict",
            recalibration=recalibration,
        )


def _checked(connections: int | None, *, default: int) -> int:
    if connections is None:
        return default
    if not 1 <= connections <= _MOST_CONNECTIONS:
        raise OptionError(
            f"connections is {connections!r}: give a number from 1 to {_MOST_CONNECTIONS}"
        )
    return connections


def _length(batches: Batches) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]  # most iterables lack it, which is the question
    except TypeError:
        return None


def _iterator(batches: Batches) -> Iterator[Any] | AsyncIterator[Any]:
    if isinstance(batches, AsyncIterable):
        return aiter(batches)
    try:
        return iter(batches)
    except TypeError as error:
        raise OptionError(
            f"batches takes an iterable of batches, got {type(batches).__name__}"
        ) from error
