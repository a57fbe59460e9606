"""The incremental reader of one batch body.

Fed with chunks of any size, in order; keeps no more than a header and one split element. The same
bytes give the same outcome however they are cut: the header is checked when it is whole, each array
is searched for NaN and Inf as it passes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from bn_ops.core.signature import TensorInfo, check_headers, not_finite
from service.errors import BatchMalformedError
from service.formats.dtypes import all_finite, itemsize
from service.formats.layout import Layout, Segment
from service.formats.npy import NpyHeader
from service.formats.safetensors import SafetensorsHeader, has_short_header


class HeaderReader(Protocol):
    """Collects the bytes of a header."""

    def feed(self, data: memoryview) -> tuple[Layout | None, int]:
        """Take bytes; return the layout once the header is whole, and how many bytes were used."""
        ...


FORMATS: Mapping[str, Callable[[tuple[str, ...]], HeaderReader]] = MappingProxyType(
    {"safetensors": lambda _names: SafetensorsHeader(), "npy": NpyHeader}
)
"""Formats that are checked while they arrive. All others are opaque here: a worker reads them."""


class BatchBody:
    """Reads one batch; `samples` is known once `finish` has returned."""

    def __init__(
        self, kind: str, inputs: Sequence[TensorInfo], *, batch: int | None, limit_bytes: int
    ) -> None:
        """Begin a batch.

        Args:
            kind: a key of `FORMATS`.
            inputs: what the model takes.
            batch: its index, for messages; None while it is not known.
            limit_bytes: most bytes of data; a header that promises more is refused before they
                come.
        """
        self._kind = kind
        self._inputs = tuple(inputs)
        self._batch = batch
        self._limit_bytes = limit_bytes
        self._header: HeaderReader = FORMATS[kind](tuple(info.name for info in self._inputs))
        self._scan: SegmentScan | None = None
        self.samples = 0

    def is_quick(self, start: bytes | bytearray) -> bool:
        """Tell by a body's first bytes whether its header is of a usual size."""
        return self._kind != "safetensors" or has_short_header(start)

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            BatchMalformedError: the bytes are no file of this format.
            BatchError: the batch does not fit the model, or holds NaN or Inf.
        """
        data = memoryview(chunk).cast("B")
        if self._scan is None:
            layout, used = self._header.feed(data)
            data = data[used:]
            if layout is None:
                return
            self._scan = self._checked(layout)
        self._scan.feed(data)

    def finish(self) -> None:
        """Tell that the body is over.

        Raises:
            BatchMalformedError: it ended too early.
        """
        if self._scan is None:
            raise BatchMalformedError(f"the body ends inside the {self._kind} header")
        self._scan.finish()

    def _checked(self, layout: Layout) -> SegmentScan:
        self.samples = check_headers(self._inputs, layout.headers, batch=self._batch)
        promised = sum(segment.length for segment in layout.segments)
        if promised > self._limit_bytes:
            raise BatchMalformedError(
                f"the header promises {promised} bytes of data, allowed are {self._limit_bytes}"
            )
        return SegmentScan(layout.segments, batch=self._batch)


class SegmentScan:
    """Walks over the arrays' bytes and stops at the first NaN or Inf."""

    def __init__(self, segments: Sequence[Segment], *, batch: int | None) -> None:
        self._segments = [segment for segment in segments if segment.length]
        self._batch = batch
        self._current = 0
        self._done = 0  # bytes of the current segment that have passed
        self._split = b""  # the first bytes of an element that a chunk's end cut in two

    def feed(self, data: memoryview) -> None:
        """Take the next bytes of data."""
        while data:
            if self._current == len(self._segments):
                raise BatchMalformedError("the body goes on after the end of its data")
            segment = self._segments[self._current]
            part = data[: segment.length - self._done]
            data = data[len(part) :]
            self._pass(segment, part)

    def finish(self) -> None:
        """Tell that the data is over."""
        if self._current < len(self._segments):
            name = self._segments[self._current].name
            raise BatchMalformedError(
                f"the body ends inside the data of input {name!r}", input=name
            )

    def _pass(self, segment: Segment, part: memoryview) -> None:
        self._done += len(part)
        size = itemsize(segment.dtype)
        if self._split:
            missing = size - len(self._split)
            self._split += part[:missing]
            part = part[missing:]
            if len(self._split) < size:
                return
            self._check(segment, memoryview(self._split))
        whole = len(part) - len(part) % size
        self._check(segment, part[:whole])
        self._split = bytes(part[whole:])
        if self._done == segment.length:
            self._current += 1
            self._done = 0

    def _check(self, segment: Segment, data: memoryview) -> None:
        if not all_finite(data, segment.dtype, big_endian=segment.big_endian):
            raise not_finite(segment.name, batch=self._batch)
