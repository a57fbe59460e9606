"""The caller's stream of batches, read lazily and encoded one batch at a time.

A batch has its index and its bytes before the next one is read, so the order in which uploads end
does not change the stream, and an iterable may reuse its arrays.
"""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from functools import partial
from typing import Any

import numpy as np

from bnrecal_client._concurrency import Runtime
from bnrecal_client._encoding.batches import EncodedBatch, encode, split_labels
from bnrecal_client._encoding.samples import SampleFilter
from bnrecal_client.errors import InputError, OptionError

__all__ = ["BatchSource", "Batches", "Select", "require_synchronous"]

Batches = Iterable[Any] | AsyncIterable[Any]
"""Arrays, tensors, tuples, dicts or `Images`; or pairs and the like, together with `select=`. Or
URLs of objects that the server reads."""

Select = Callable[[Any], Any]

_END = object()
_log = logging.getLogger("bnrecal_client")
# Enough to keep the client, the server and its disk busy at once: docs/ingest.md.
_CONNECTIONS = 4
_BATCH = 32
_MAX_CONNECTIONS = 16  # httpx keeps 20 open


class BatchSource:
    """The caller's iterable, read once; the first item can be inspected before it is read.

    Args:
        batches: the iterable.
        select: applied to each item; None for none.
        runtime: runs `select`, the encoding, and a synchronous iterable.
        connections: uploads at a time, 1 to 16. None: 4 where `batches` can be read again, else 1:
            an iterator may be a live source, which is read no faster than its batches are stored.
        bad: leaves bad samples out; None to send every sample.
        keep_labels: most labeled samples to keep in `labeled`, with their inputs.
        arguments: returns what is sent in place of an item; None to send the item itself.

    Attributes:
        connections: uploads at a time.
        labeled: the first `(inputs, labels)` pairs of the stream whose items hold labels.

    Raises:
        OptionError: `batches` is not an iterable of batches, or `connections` is out of range.
    """

    def __init__(
        self,
        batches: Batches,
        select: Select | None,
        runtime: Runtime,
        *,
        connections: int | None = None,
        bad: SampleFilter | None = None,
        keep_labels: int = 0,
        arguments: Callable[[object], object] | None = None,
    ) -> None:
        batches = _in_batches(batches)
        if isinstance(batches, str | bytes | Mapping) or hasattr(batches, "__array__"):
            raise OptionError(
                f"batches takes an iterable of batches, got a single {type(batches).__name__}: "
                "wrap it in a list, [array], or split it into batches"
            )
        if not any(hasattr(batches, name) for name in ("__iter__", "__aiter__", "__getitem__")):
            raise OptionError(f"batches takes an iterable of batches, got {type(batches).__name__}")
        reread = not isinstance(batches, Iterator | AsyncIterable)
        self.connections = _checked(connections, default=_CONNECTIONS if reread else 1)
        self._batches = batches
        self._select = select
        self._runtime = runtime
        self._bad = bad
        self._keep_labels = keep_labels
        self._arguments = arguments
        self.labeled: list[tuple[Any, Any]] = []
        self._items: Iterator[Any] | AsyncIterator[Any] | None = None
        self._peeked: list[object] = []

    async def peek(self) -> object:
        """Return what is sent for the first item, without using it up.

        Raises:
            InputError: the stream is empty.
        """
        if not self._peeked:
            item = await self._pull(lambda item: item)
            if item is _END:
                raise InputError("the stream of batches is empty", code="stream-empty")
            self._peeked.append(item)
        return await self._runtime.run(lambda: self._sent(self._peeked[0]))

    async def next(self, inputs: tuple[str, ...], index: int) -> EncodedBatch | None:
        """Return the next batch that has a good sample, encoded; None after the last.

        Args:
            inputs: the model's input names, in its order.
            index: position of the batch, for messages.

        Raises:
            BatchError: the batch cannot be encoded.
        """
        encoder = partial(self._encoded, inputs, index)
        while True:
            if self._peeked:
                found: object = await self._runtime.run(partial(encoder, self._peeked.pop()))
            else:
                found = await self._pull(encoder)
            if not isinstance(found, EncodedBatch):
                return None
            if found.samples or self._bad is None:
                return found

    def _encoded(self, inputs: tuple[str, ...], index: int, item: object) -> EncodedBatch:
        """Encode an item without its labels, which are never sent."""
        batch, labels = split_labels(item, inputs)
        batch = self._sent(item, batch)
        if labels is not None:
            if index == 0:
                _log.info("the batches hold labels, which are not sent")
            if self._keep_labels > 0:
                self.labeled.append((batch, labels))
                self._keep_labels -= len(labels) if isinstance(labels, Sized) else 1
        return encode(batch, inputs, index=index, bad=self._bad)

    def _sent(self, item: object, batch: object = None) -> object:
        """Return what `arguments` makes of an item; without it the batch, or else the item."""
        if self._arguments is not None:
            return self._arguments(item)
        return item if batch is None else batch

    async def length(self) -> int | None:
        """Return the number of batches, None if the iterable does not know it."""
        return await self._runtime.run(partial(_length, self._batches))

    async def _pull(self, convert: Callable[[Any], object]) -> object:
        """Return the next item, converted, or `_END`."""
        if isinstance(self._batches, AsyncIterable):
            if self._items is None:
                self._items = aiter(self._batches)
            item = await anext(self._items, _END)  # type: ignore[arg-type]  # asynchronous here
            return await self._runtime.run(lambda: self._convert(item, convert))
        return await self._runtime.run(lambda: self._convert(self._next(), convert))

    def _next(self) -> object:
        if self._items is None:
            self._items = iter(self._batches)  # type: ignore[arg-type]  # synchronous here
        return next(self._items, _END)  # type: ignore[arg-type]

    def _convert(self, item: object, convert: Callable[[Any], object]) -> object:
        if item is _END:
            return _END
        return convert(item if self._select is None else self._select(item))


def _in_batches(source: Batches) -> Batches:
    """Return a data set of another library, or a `numpy.memmap` of samples, as batches of arrays.

    The items of a Hugging Face `datasets.Dataset` and of a memmap are samples; those of a
    `tf.data.Dataset` are its batches.
    """
    batches: Any = source  # the methods of other libraries
    if hasattr(batches, "iter") and hasattr(batches, "with_format"):
        rows = batches.with_format("numpy")
        return _Rereadable(lambda: rows.iter(batch_size=_BATCH), batches, _BATCH)
    if hasattr(batches, "as_numpy_iterator"):
        return _Rereadable(batches.as_numpy_iterator, batches)
    if isinstance(batches, np.memmap):
        starts = range(0, len(batches), _BATCH)
        return _Rereadable(lambda: (batches[at : at + _BATCH] for at in starts), batches, _BATCH)
    return source


class _Rereadable:
    """Batches that can be read again.

    Args:
        begin: returns an iterator from the first batch.
        items: its length is that of the stream, if it has one.
        size: items in a batch.
    """

    def __init__(self, begin: Callable[[], Iterator[Any]], items: Any, size: int = 1) -> None:
        self._begin = begin
        self._items = items
        self._size = size

    def __len__(self) -> int:
        whole, rest = divmod(len(self._items), self._size)
        return whole + bool(rest)

    def __iter__(self) -> Iterator[Any]:
        return self._begin()


def _checked(connections: int | None, *, default: int) -> int:
    if connections is None:
        return default
    if not 1 <= connections <= _MAX_CONNECTIONS:
        raise OptionError(
            f"connections is {connections!r}: give a number from 1 to {_MAX_CONNECTIONS}"
        )
    return connections


def _length(batches: Batches) -> int | None:
    try:
        return len(batches)  # type: ignore[arg-type]  # most iterables lack it, which is the question
    except TypeError:
        return None


def require_synchronous(*streams: Batches | None) -> None:
    """Check that streams can be read without an event loop.

    Raises:
        OptionError: one cannot.
    """
    if any(isinstance(stream, AsyncIterable) for stream in streams):
        raise OptionError("an asynchronous iterable of batches needs AsyncClient")
